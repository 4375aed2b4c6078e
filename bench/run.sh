#!/usr/bin/env bash
# Measures again what docs/performance.md shows and writes the tables into it,
# the picture into docs/images and what that is drawn from into bench/results. It
# takes about half an hour of a machine that does nothing else, and 3 GB of disk.
#
# Usage: bench/run.sh [append] [peers] [models] [lineage] [ancestors] [growth]
#        SIZES="1e7" bench/run.sh growth       one more size; 25 GB of disk
#        SIZES="" bench/run.sh growth          the table and the picture again
#
# Without an argument it runs all of them. What it works on is in SCRATCH, a
# folder on the disk to measure (the repository unless set).
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD page=$PWD/docs/performance.md results=$PWD/bench/results
sizes=${SIZES-1e4 1e5 1e6}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$results" "$root/docs/images"
go build -o "$work/retrace" ./cmd/retrace
(cd bench && go build -o "$work/bench" .)
cd "${SCRATCH:-$root}"

# shown COMMAND… prints a command and what it prints, fenced.
shown() {
	printf '```console\n$ %s\n' "$*"
	PATH="$work:$PATH" "$@"
	printf '```\n'
}

machine() {
	local cpu memory disk
	cpu=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
	memory=$(awk '/^MemTotal/ { printf "%.0f", $2 / 1e6 }' /proc/meminfo)
	disk=$(stat -f -c %T .)
	printf '%s, %s cores, %s GB, %s, %s, at %s on %s; load when it began: %s.\n' \
		"$cpu" "$(nproc)" "$memory" "${disk/ext2\/ext3/ext4}" "$(go env GOVERSION)" \
		"$(git -C "$root" describe --always --dirty)" "$(date -u +%F)" "$(cut -d' ' -f1 /proc/loadavg)"
}

append() { shown retrace bench append; }
lineage() { shown retrace bench lineage && shown retrace bench lineage --models 100000; }
peers() { "$work/bench" -md appends proofs; }
models() { "$work/bench" -md -rounds 3 models; }
ancestors() { "$work/bench" -md ancestors; }

growth() {
	local size
	for size in $sizes; do
		"$work/retrace" bench growth --sizes "$size" -o json >"$work/growth.json"
		mv "$work/growth.json" "$results/growth-$size.json"
	done
	local from
	from=$(printf '%s\n' "$results"/growth-*.json | paste -sd,)
	"$work/retrace" bench growth --from "$from" -o svg >"$root/docs/images/growth.svg"
	printf '```console\n$ retrace bench growth --sizes %s\n' \
		"$(printf '%s\n' "$results"/growth-*.json | sed 's/.*growth-\(.*\)\.json/\1/' | paste -sd,)"
	"$work/retrace" bench growth --from "$from"
	printf '```\n\n![Rate, memory, disk, opening, proofs and fsck over the number of entries](images/growth.svg)\n'
}

# insert NAME puts what was measured between the comments that name it.
insert() {
	awk -v name="$1" -v file="$work/$1.md" '
		$0 == "<!-- end " name " -->" { inside = 0 }
		!inside { print }
		$0 == "<!-- begin " name " -->" { inside = 1; while ((getline line < file) > 0) print line }
	' "$page" >"$work/page"
	cat "$work/page" >"$page"
}

what=("$@")
if [ $# -eq 0 ]; then
	what=(append peers models lineage ancestors growth)
fi
for name in machine "${what[@]}"; do
	case $name in
	machine | append | peers | models | lineage | ancestors | growth) ;;
	*)
		sed -n '2,13s/^# \{0,1\}//p' "$root/bench/run.sh" >&2
		exit 2
		;;
	esac
	echo "run.sh: $name" >&2
	"$name" >"$work/$name.md"
	insert "$name"
done
