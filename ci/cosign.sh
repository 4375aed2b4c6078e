#!/usr/bin/env bash
# Builds the cosign command, once a machine (4 minutes on two cores), and prints
# where it is. Tests find it there, and compare its verdicts with ours.
#
# Usage: ci/cosign.sh
set -euo pipefail
exec 3>&1 >&2

version=v2.6.5
dir=${XDG_CACHE_HOME:-$HOME/.cache}/retrace-parts/cosign-$version
if [ ! -x "$dir/cosign" ]; then
	mkdir -p "$dir"
	(cd / && GOBIN=$dir GOFLAGS='' CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "github.com/sigstore/cosign/v2/cmd/cosign@$version")
fi
echo "$dir/cosign" >&3
