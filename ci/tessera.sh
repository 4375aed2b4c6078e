#!/usr/bin/env bash
# Records statements in a new ledger, serves it and has Tessera's fsck read all
# of it.
#
# Usage: ci/tessera.sh RETRACE DIR COUNT      RETRACE is the binary, DIR is made
set -euo pipefail

if [ $# -ne 3 ]; then
	sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
	exit 2
fi
case $3 in
'' | *[!0-9]*) # awk would count to it for ever
	echo "tessera: COUNT is $3, want a number" >&2
	exit 2
	;;
esac
here=$(cd "$(dirname "$0")" && pwd)
retrace=$(realpath "$1")
dir=$2 port=18471 count=$3
mkdir -p "$dir"
cd "$dir"

awk -v n="$count" 'BEGIN {
	for (i = 1; i <= n; i++)
		printf "{\"_type\":\"https://in-toto.io/Statement/v1\",\"predicate\":{\"n\":%d},\"predicateType\":\"https://example.com/number/v1\",\"subject\":[{\"digest\":{\"sha256\":\"%064x\"},\"name\":\"n%d\"}]}\n", i, i, i
}' | split -l 200000 - statements.

"$retrace" --dir ledger init
for part in statements.*; do
	"$retrace" --dir ledger record "$part" >recorded
	rm "$part"
done
"$retrace" --dir ledger serve --listen "127.0.0.1:$port" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true' EXIT
for _ in $(seq 100); do
	if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
		break
	fi
	kill -0 "$server"
	sleep 0.1
done
"$here/tessera-fsck.sh" "http://127.0.0.1:$port" ledger/log.vkey
