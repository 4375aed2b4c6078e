#!/usr/bin/env bash
# Has two witnesses that are not ours cosign a ledger: litewitness (torchwood)
# and omniwitness (transparency-dev), both over C2SP tlog-witness. Shows the log
# of cosigned checkpoints, a bundle verified under a policy of both, writing
# that goes on while one is killed, and a ledger put back to an older state
# found out.
#
# Usage: ci/witness.sh [RETRACE]     RETRACE is the program; built if left out
#
# Needs openssl, openssh-client, sqlite3, curl, unshare and ip (iproute2), and
# root: all of it runs in a network namespace with nothing but loopback, since
# omniwitness tries to reach public logs.
#
# Exit status: 0 all of it holds, 1 something does not.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/retrace-parts

part() { # part NAME MODULE VERSION
	local dir=$cache/$1-$3
	if [ ! -x "$dir/$1" ]; then
		mkdir -p "$dir"
		(cd / && GOBIN=$dir GOFLAGS='' go install -trimpath "$2@$3")
	fi
	echo "$dir/$1"
}

if [ -z "${WITNESS_INSIDE:-}" ]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	lite=$(part litewitness filippo.io/torchwood/cmd/litewitness v0.9.0)
	omni=$(part omniwitness github.com/transparency-dev/witness/cmd/omniwitness v0.0.0-20260720115447-2e1c6971d19e)
	retrace=${1:-$work/retrace}
	[ -n "${1:-}" ] || (cd "$root" && go build -o "$retrace" ./cmd/retrace)
	WITNESS_INSIDE=1 LITE=$lite OMNI=$omni RETRACE=$(realpath "$retrace") WORK=$work unshare -n "$0"
	exit
fi

ip link set lo up
cd "$WORK"
export TMPDIR=$WORK XDG_CACHE_HOME=$WORK/cache
pids=()
stop() { kill "$1" 2>/dev/null && wait "$1" 2>/dev/null || true; }
trap 'for p in "${pids[@]}"; do stop "$p"; done' EXIT
fail() { echo "witness: $*" >&2; tail -n 5 ./*.log >&2; exit 1; }
until_ok() { # until_ok SECONDS WHAT COMMAND…
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "waited in vain: $what"
		sleep 0.2
	done
}
b64() { base64 -w0; }
keyhash() { { printf '%s\n' "$1"; printf "$2"; cat "$3"; } | sha256sum | cut -c1-8; } # NAME TYPE PUBLIC
vkey() { echo "$1+$(keyhash "$1" '\x04' "$2")+$({ printf '\x04'; cat "$2"; } | b64)"; } # cosignature/v1

"$RETRACE" init >/dev/null
logkey=$(cat .retrace/log.vkey)
origin=${logkey%%+*}
record() { "$RETRACE" run --out "out-$1" -- sh -c "echo $1 >out-$1" >/dev/null 2>&1 || fail "recording $1"; }
record before

# litewitness: its key in an ssh-agent, the log straight into its database.
ssh-keygen -q -t ed25519 -N '' -f lite.key
eval "$(ssh-agent -a "$WORK/agent.sock")" >/dev/null
pids+=("$SSH_AGENT_PID")
ssh-add -q lite.key
cut -d' ' -f2 lite.key.pub | base64 -d | tail -c 32 >lite.pub
start_lite() {
	"$LITE" -name lite.example/w -key "$(ssh-keygen -lf lite.key.pub | cut -d' ' -f2)" -ssh-agent agent.sock -db lw.db -listen 127.0.0.1:7381 >>lite.log 2>&1 &
	pids+=($!)
}
start_lite
until_ok 10 "litewitness makes its database" sqlite3 lw.db 'select count(*) from key'
sqlite3 lw.db "insert into log values('$origin',0,'$(printf '' | openssl dgst -sha256 -binary | b64)'); insert into key values('$origin','$logkey');"

# omniwitness.
openssl genpkey -algorithm ed25519 -outform DER -out omni.der
tail -c 32 omni.der >omni.seed
openssl pkey -in omni.der -inform DER -pubout -outform DER | tail -c 32 >omni.pub
printf 'PRIVATE+KEY+omni.example/w+%s+%s\n' "$(keyhash omni.example/w '\x01' omni.pub)" "$({ printf '\x01'; cat omni.seed; } | b64)" >omni.key
printf 'Logs:\n  - Origin: %s\n    PublicKey: %s\n    URL: http://127.0.0.1:8470/\n    Feeder: none\n' "$origin" "$logkey" >logs.yaml
"$OMNI" -listen 127.0.0.1:7382 -metrics_listen 127.0.0.1:7383 -private_key_path omni.key -additional_logs logs.yaml -db_file omni.db >omni.log 2>&1 &
omni=$!
pids+=("$omni")

cat >witnesses.policy <<POLICY
log $logkey
witness lite $(vkey lite.example/w lite.pub) http://127.0.0.1:7381/
witness omni $(vkey omni.example/w omni.pub) http://127.0.0.1:7382/
group both all lite omni
quorum both
POLICY
echo 'witness: witnesses.policy' >retrace.yaml
url=http://127.0.0.1:8470
serve() {
	"$RETRACE" serve --config retrace.yaml >>serve.log 2>&1 &
	server=$!
	pids+=("$server")
	until_ok 20 "the server answers" curl -fs $url/healthz
}
size() { curl -fs "$url/$1" | sed -n 2p; }
current() { [ "$(size checkpoint.cosigned)" = "$(size checkpoint)" ]; }
metric() { curl -fs $url/metrics | grep -F "$1 " | cut -d' ' -f2; }

serve
until_ok 30 "both witnesses cosign" current
echo "== the log of cosigned checkpoints"
for i in 1 2 3 4 5; do
	record "$i"
	until_ok 30 "both witnesses cosign entry $i" current
	curl -fs $url/checkpoint.cosigned | awk 'NR==2{s=$0} /^—/{n=n" "$2} END{print "size " s ": signed by" n}'
done

echo "== verify --policy"
"$RETRACE" prove out-5 --bundle 5.bundle 2>/dev/null || "$RETRACE" prove ./out-5 --bundle 5.bundle
"$RETRACE" verify 5.bundle --key .retrace/log.vkey --policy witnesses.policy | grep -E '^OK|cosigned'
openssl genpkey -algorithm ed25519 | openssl pkey -pubout -outform DER | tail -c 32 >stranger.pub
printf 'witness stranger %s\nquorum stranger\n' "$(vkey stranger.example stranger.pub)" >stranger.policy
status=0
"$RETRACE" verify 5.bundle --key .retrace/log.vkey --policy stranger.policy || status=$?
[ "$status" = 1 ] || fail "verify under a policy that is not met ended with $status, want 1"

echo "== a witness killed: writing goes on, the lag shows"
stop "$omni"
behind=$(size checkpoint.cosigned)
for i in 6 7 8; do record "$i"; done
until_ok 10 "the dead witness shows" sh -c "curl -fs $url/metrics | grep -F 'retrace_witness_up{witness=\"omni\"} 0'"
until_ok 10 "the living one goes on" sh -c "curl -fs $url/metrics | grep -F 'retrace_witness_size{witness=\"lite\"} $(size checkpoint)'"
[ "$(size checkpoint.cosigned)" = "$behind" ] || fail "the quorum of both moved without one of them"
curl -fs $url/metrics | grep -E '^retrace_(cosigned|witness)_'
curl -fs $url/readyz

echo "== last night's volume put back"
stop "$server"
cp -a .retrace lastnight
sed -i 's/^quorum both/quorum lite/' witnesses.policy
serve
for i in 9 10; do record "$i"; done
until_ok 30 "litewitness cosigns" current
curl -fs $url/checkpoint >theirs
stop "$server"
rm -rf .retrace
mv lastnight .retrace
: >serve.log
serve
until_ok 30 "the alarm" grep -q 'claims that this log forked or was rolled back' serve.log
grep -m1 'claims that this log' serve.log
[ "$(metric 'retrace_witness_alarms_total{witness="lite"}')" -ge 1 ] || fail "the alarm is not counted"
record "unsigned-claim-stops-nothing"
stop "$server"
# These witnesses have no monitoring endpoint: what somebody kept is put there by hand.
cp theirs .retrace/evidence
status=0
"$RETRACE" serve --listen 127.0.0.1:8471 >refused.log 2>&1 || status=$?
head -n 1 refused.log
[ "$status" = 2 ] && grep -q 'rolled back\|forked' refused.log || fail "serve beside evidence ended with $status"
echo "witness: all of it holds, in $SECONDS s"
