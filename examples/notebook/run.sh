#!/usr/bin/env bash
# Runs forecast.ipynb headless, with real Jupyter, against a real server of a new
# ledger: run.sh RETRACE [OUTPUT]. RETRACE is the binary; without OUTPUT the
# notebook in this folder is written anew.
set -euo pipefail
export PATH=/usr/bin:/bin:$PATH # Python and Jupyter as Debian has them
retrace=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
output=$(realpath -m "${2:-$here/forecast.ipynb}")
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; wait; rm -rf "$work"' EXIT
mkdir "$work/forecast" && cd "$work/forecast"
cp "$here"/{train.py,weather.csv,forecast.ipynb} .
git init -q -b main
printf ".retrace/\nmodel.json\nmetrics.json\n" >.gitignore
git add -A
git -c user.name=Ada -c user.email=ada@example.com commit -q -m 'a model of the next day'
"$retrace" init >/dev/null
for days in 7 3; do
	"$retrace" run --in weather.csv --out model.json --metrics metrics.json --model forecast --param "days=$days" -- python3 train.py "$days"
done
"$retrace" serve --listen 127.0.0.1:0 2>/dev/null &
server=$!
for _ in $(seq 100); do
	[ -e .retrace/server.json ] && break
	sleep 0.1
done
export PYTHONPATH=$here/../../clients/python PYTHONHASHSEED=0
jupyter nbconvert --to notebook --execute --log-level WARN --ExecutePreprocessor.timeout=120 --output "$work/executed" forecast.ipynb
# A notebook runs to its end whatever the proof was found to be: what it says is read here.
python3 - "$work/executed.ipynb" <<'PYTHON'
import json, sys
cells = [c for c in json.load(open(sys.argv[1]))["cells"] if ".verify(" in "".join(c["source"])]
said = ["".join(o.get("data", {}).get("text/plain", [])) for c in cells for o in c.get("outputs", [])]
if not said or not all(s.startswith("VERIFIED\n") for s in said):
    sys.exit("forecast.ipynb: want VERIFIED of its proof, and it says: " + ("; ".join(said) or "nothing"))
PYTHON
cp "$work/executed.ipynb" "$output"
