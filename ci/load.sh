#!/usr/bin/env bash
# Asks a served ledger of some thousands of models from many connections at once
# with wrk: four kinds of query, each at 1, 16 and 128 connections. Prints
# requests a second and latencies, and the memory of the server before and after.
# It listens on the loopback only and takes about two minutes.
#
# Usage: ci/load.sh RETRACE
#
#   MODELS=3000   models in the ledger
#   SECONDS_EACH=5   seconds of each run
#
# As root it installs wrk where it is missing.
#
# Exit status: 0 every answer was whole; 1 some were not 200 or held errors, or
# the server ended.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -ne 1 ]; then
	sed -n '2,16s/^# \{0,1\}//p' "$0" >&2
	exit 2
fi
retrace=$(realpath "$1")
models=${MODELS:-3000}
each=${SECONDS_EACH:-5}

if ! command -v wrk >/dev/null; then
	if [ "$(id -u)" -ne 0 ]; then
		echo "load: wrk is not installed" >&2
		exit 2
	fi
	apt-get update -q >&2
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends wrk >&2
fi

work=$(mktemp -d)
server=
finish() {
	if [ -n "$server" ]; then
		kill "$server" 2>/dev/null || true
		wait "$server" 2>/dev/null || true
	fi
	rm -rf "$work"
}
trap finish EXIT

(cd bench && go run ./statements "$models") >"$work/statements.jsonl"
ledger=$work/ledger
"$retrace" --dir "$ledger" init >"$work/init.log"
"$retrace" --dir "$ledger" record "$work/statements.jsonl" >"$work/record.log"
"$retrace" --dir "$ledger" serve --listen 127.0.0.1:0 2>"$work/serve.log" &
server=$!
address=
for _ in $(seq 300); do
	address=$(sed -n 's/^retrace: serving .* at \(http:.*\)$/\1/p' "$work/serve.log")
	if [ -n "$address" ] || ! kill -0 "$server" 2>/dev/null; then break; fi
	sleep 0.1
done
if [ -z "$address" ]; then
	cat "$work/serve.log" >&2
	exit 1
fi

# Every question is about a model at random; wrk's threads begin alike in each run.
cat >"$work/load.lua" <<'END'
local kind, models, seed = os.getenv("KIND"), tonumber(os.getenv("MODELS")), 0
local threads = {}

function setup(thread)
	seed = seed + 1
	thread:set("seed", seed)
	table.insert(threads, thread)
end

local queries = {
	model = [[query($a: String!) { model(ref: $a) { name version recordedAt evidence inputs { kind name digest } } }]],
	lineage = [[query($a: String!) { lineage(ref: $a) { edges { from { digest } to { digest } step { id } relation } truncated size } }]],
	diff = [[query($a: String!, $b: String!) { diff(left: $a, right: $b) { same differences { kind name left right depth cause } } }]],
	models = [[{ models(first: 50) { nodes { name version recordedAt evidence } pageInfo { hasNextPage endCursor } } }]],
}

function init()
	math.randomseed(seed)
	bad, example = 0, ""
end

function request()
	local body = string.format(
		'{"query": "%s", "variables": {"a": "model-%d", "b": "model-%d"}}',
		queries[kind], math.random(0, models - 1), math.random(0, models - 1))
	return wrk.format("POST", "/graphql", {["Content-Type"] = "application/json"}, body)
end

function response(status, _, body)
	if status ~= 200 or body:find('"errors"', 1, true) or not body:find('"data"', 1, true) then
		bad = bad + 1
		example = string.format("%d %s", status, body:sub(1, 300))
	end
end

function done(summary, latency)
	local wrong, shown = 0, ""
	for _, t in ipairs(threads) do
		wrong = wrong + t:get("bad")
		if t:get("example") ~= "" then shown = t:get("example") end
	end
	local e = summary.errors
	local lost = e.connect + e.read + e.write + e.timeout
	print(string.format("RESULT %-8s %11s %10.0f %8.2f ms %8.2f ms %8d",
		kind, os.getenv("CONNECTIONS"), summary.requests / summary.duration * 1e6,
		latency:percentile(50) / 1000, latency:percentile(99) / 1000, wrong + lost))
	if shown ~= "" then print("EXAMPLE " .. shown) end
	if lost > 0 then
		print(string.format("EXAMPLE sockets: %d connect, %d read, %d write, %d timeout", e.connect, e.read, e.write, e.timeout))
	end
	if wrong + lost > 0 or summary.requests == 0 then print("FAILED") end
end
END

# ask KIND CONNECTIONS SECONDS runs wrk once; its answers are in $work/wrk.log.
ask() {
	KIND=$1 CONNECTIONS=$2 MODELS=$models wrk --threads $(($2 < 2 ? 1 : 2)) --connections "$2" \
		--duration "$3s" --timeout 60s --latency --script "$work/load.lua" "$address/graphql" >"$work/wrk.log" 2>&1
}

resident() { awk '/^VmRSS/ { printf "%.0f MB", $2 / 1000 }' "/proc/$server/status"; }

# The index has to have followed the ledger, or there is nothing to ask about.
entries=$((7 * models + 1))
curl -fsS --max-time 120 -H 'Content-Type: application/json' "$address/graphql" \
	-d '{"query": "{ models(first: 1) { totalCount } }", "extensions": {"waitForSize": '$entries'}}' >"$work/ready.json"
if ! grep -q "\"totalCount\":$models}" "$work/ready.json"; then
	echo "load: the ledger does not hold $models models: $(cat "$work/ready.json")" >&2
	exit 1
fi

before=$(resident)
status=0
printf '%d models, %d entries, %s s each; the server has %s cores, and wrk runs on them too\n\n' "$models" "$entries" "$each" "$(nproc)"
printf '%-8s %11s %10s %11s %11s %8s\n' KIND CONNECTIONS 'PER SECOND' P50 P99 ERRORS
for kind in model lineage diff models; do
	for connections in 1 16 128; do
		if ! ask "$kind" "$connections" "$each"; then
			cat "$work/wrk.log" >&2
			exit 1
		fi
		sed -n 's/^RESULT //p' "$work/wrk.log"
		sed -n 's/^EXAMPLE /load: /p' "$work/wrk.log" >&2
		if ! grep -q '^RESULT ' "$work/wrk.log" || grep -q '^FAILED' "$work/wrk.log"; then
			status=1
		fi
	done
done
if ! kill -0 "$server" 2>/dev/null; then
	echo "load: the server ended" >&2
	cat "$work/serve.log" >&2
	exit 1
fi
printf '\nresident memory of the server: %s before, %s after\n' "$before" "$(resident)"
exit "$status"
