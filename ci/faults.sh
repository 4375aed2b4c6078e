#!/usr/bin/env bash
# Breaks what a ledger stands on and looks at what is left of it: system calls
# that fail, processes that are killed under load, a disk that is full, a server
# that is told to end.
#
# Usage: ci/faults.sh [LOAD]
#
# LOAD is how long TestLoad appends, reads and kills; one minute if left out.
# It needs strace, and root to mount a small disk.
#
# Exit status: that of go test.
set -euo pipefail
export RETRACE_TEST_NOSKIP=1
go test ./ledger -run '^(TestSystemCallsFail|TestEngineFails|TestCheckpointFileFails|TestDiskFull)$' -count=1 -v -timeout 15m | grep -v '^ *=== '
go test ./ledger -run '^(TestLoad|TestCloseUnderLoad)$' -long -load "${1:-1m}" -count=1 -v -timeout 30m | grep -v '^=== '
go test ./cmd/retrace -run '^TestStopServerUnderLoad$' -long -count=1 -v | grep -v '^=== '
