#!/usr/bin/env bash
# Has Tessera's fsck read a whole log over HTTP: checkpoint, tiles and entry
# bundles, every hash computed again by code that is not ours.
#
# Usage: ci/tessera-fsck.sh URL VKEYFILE
#
# Exit status: 0 the log is consistent, 1 it is not, or fsck could not tell.
set -euo pipefail

if [ $# -ne 2 ]; then
	sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
	exit 2
fi
url=$1 vkey=$2

version=v1.0.4
parts=${XDG_CACHE_HOME:-$HOME/.cache}/retrace-parts/tessera-fsck-$version
if [ ! -x "$parts/fsck" ]; then
	mkdir -p "$parts"
	GOBIN=$parts GOFLAGS='' go install "github.com/transparency-dev/tessera/cmd/fsck@$version"
fi

messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
# fsck exits 0 when it found a fault, and can hang on a damaged log: only its
# own word of success within the time counts.
timeout 120 "$parts/fsck" --N=4 --ui=false --storage_url="$url" --public_key="$vkey" 2>"$messages" || true
cat "$messages" >&2
if ! grep -q 'Successfully' "$messages"; then
	echo "tessera-fsck: $url did not pass" >&2
	exit 1
fi
