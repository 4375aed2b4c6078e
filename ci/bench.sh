#!/usr/bin/env bash
# Runs every measurement once, with little in it: it fails when something does
# not work, never because it is slow. The peers are a module of their own and
# are compiled into the Go build cache.
#
# Usage: ci/bench.sh [RETRACE]      RETRACE is the binary, built if it is not given
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
retrace=$work/retrace
if [ $# -ge 1 ]; then
	retrace=$(realpath "$1")
else
	go build -o "$retrace" ./cmd/retrace
fi
chmod 711 "$work" # PostgreSQL refuses to run as root and has to get in

(
	cd bench
	go vet ./...
	go test ./...
	go build -o "$work/bench" .
)
cd "$work"
./bench -rounds 1 -turn 100ms -entries 256 -proofs 1000 -models 100 appends proofs models ancestors
"$retrace" bench append --callers 1,64 --entries 256
"$retrace" bench lineage --models 100
"$retrace" bench snapshot --size 20 --rounds 5 --baseline links
"$retrace" bench growth --sizes 1000,10000 -o json >growth.json
"$retrace" bench growth --from growth.json
"$retrace" bench growth --from growth.json -o svg | grep -c '<circle' >points
test "$(cat points)" -ge 1
left=$(find . -maxdepth 1 \( -name 'bench-*' -o -name 'retrace-bench-*' \))
if [ -n "$left" ]; then
	echo "bench: left behind: $left" >&2
	exit 1
fi
