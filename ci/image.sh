#!/usr/bin/env bash
# Builds the image twice and holds both builds to one digest; with FROM_NOTHING=1,
# the second time without this machine's Go build cache. Then runs it as a pod of
# deploy/base does: as user 65532, without capabilities, on a read-only root, with
# the volume as a kubelet leaves it. Neither has a network.
#
# No registry is asked. What the image is built in is made here, of this machine's
# Go, a busybox and certificate authorities; modules come from this machine's
# cache. As root it installs what is missing.
#
# Usage: ci/image.sh        two minutes on two cores with a warm cache; from nothing
#                           13 minutes, busy; 3 GB of disk for as long
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'stop; rm -rf "$work"' EXIT
stop() {
	buildah rm --all >/dev/null 2>&1 || true
}
buildah() {
	command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"
}

parts() {
	local missing=() program package
	while read -r program package; do
		command -v "$program" >/dev/null || missing+=("$package")
	done <<-'END'
		buildah buildah
		curl curl
		ip iproute2
		openssl openssl
	END
	# Not the busybox that needs a C library.
	if [ ! -x /bin/busybox ] || ldd /bin/busybox >/dev/null 2>&1; then
		missing+=(busybox-static)
	fi
	[ -s /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
	if [ ${#missing[@]} -gt 0 ]; then
		apt-get update -q
		DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
	fi
	go mod download
}

# golang makes the image that stands in for the one of the Dockerfile.
golang() {
	local container root
	container=$(buildah from scratch)
	root=$(buildah mount "$container")
	mkdir -p "$root"/{bin,etc/ssl/certs,root,tmp,usr/local}
	cp /bin/busybox "$root/bin/"
	ln -s busybox "$root/bin/sh"
	ln -s busybox "$root/bin/mkdir"
	cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
	cp -a "$(go env GOROOT)" "$root/usr/local/go"
	buildah config --env PATH=/usr/local/go/bin:/bin --env HOME=/root --env GOPATH=/go \
		--env GOCACHE=/cache --env GOPROXY=off --env GOTOOLCHAIN=local "$container"
	buildah commit --quiet "$container" localhost/go >/dev/null
	buildah rm "$container" >/dev/null
}

# build NAME CACHE builds the image with a Go build cache, and prints its digest.
build() {
	local start=$SECONDS
	if ! buildah bud --isolation chroot --timestamp 0 --build-arg GO_IMAGE=localhost/go --tag "$1" \
		--volume "$(go env GOMODCACHE):/go/pkg/mod" --volume "$2:/cache" . >"$work/$1.log" 2>&1; then
		tail -n 30 "$work/$1.log"
		return 1
	fi
	buildah inspect --type image --format '{{.FromImageDigest}}' "$1" >"$work/$1.digest"
	echo "$1: $(cat "$work/$1.digest") in $((SECONDS - start))s"
}

# pod COMMAND… runs the image's program, in place of this shell.
pod() {
	exec env -i "${environment[@]}" "$(command -v setpriv)" --no-new-privs \
		"$(command -v chroot)" --userspec=65532:65532 --groups=65532 "$root" /usr/local/bin/retrace "$@"
}

# expect PATTERN COMMAND… prints what a command prints, which has the pattern in it.
expect() {
	local pattern=$1 said
	shift
	said=$("$@" 2>&1) || true
	printf '%s\n' "$said"
	grep -qE "$pattern" <<<"$said" || {
		echo "image: no \"$pattern\" in that" >&2
		return 1
	}
}

# inside ROOT runs in name spaces of its own.
inside() {
	root=$1
	ip link set lo up
	mkdir -p "$root"/{proc,etc/retrace,etc/retrace-tls} "$work"/{volume,tls}
	# The Secret and the volume as a kubelet leaves them for fsGroup 65532.
	openssl req -x509 -newkey rsa:2048 -nodes -keyout "$work/tls/tls.key" -out "$work/tls/tls.crt" -days 1 \
		-subj /CN=retrace -addext 'subjectAltName=DNS:localhost' 2>/dev/null
	chmod 0640 "$work"/tls/*
	chgrp -R 65532 "$work/tls" "$work/volume"
	chmod 2770 "$work/volume"
	mount --bind "$root" "$root"
	mount -t proc proc "$root/proc"
	mount --bind "$work/volume" "$root/data"
	mount --bind "$PWD/deploy/base" "$root/etc/retrace"
	mount --bind "$work/tls" "$root/etc/retrace-tls"
	mount -o remount,bind,ro "$root/etc/retrace"
	mount -o remount,bind,ro "$root/etc/retrace-tls"
	mount -o remount,bind,ro "$root"
	mapfile -t environment <"$work/environment"

	expect 'read-only file system' pod init --dir /elsewhere
	expect 'made a ledger in /data/ledger' pod init --if-missing
	expect 'holds a ledger already' pod init --if-missing
	(pod serve --config /etc/retrace/retrace.yaml 2>"$work/serve.log") &
	local server=$! ready=
	for _ in {1..300}; do
		ready=$(curl -sf http://127.0.0.1:8471/readyz) && break
		kill -0 "$server"
		sleep 0.2
	done
	echo "/readyz: $ready"
	[ -n "$ready" ]
	for line in 'Uid:	65532	65532	65532	65532' 'CapEff:	0000000000000000' 'NoNewPrivs:	1'; do
		grep -F "$line" "/proc/$server/status"
	done
	expect '^0 .*genesis' pod log
	local token ask=(-s -o "$work/answer" -w '%{http_code}' --cacert "$work/tls/tls.crt" https://localhost:8443/graphql
		-H 'Content-Type: application/json' -d '{"query":"{ checkpoint { size } }"}')
	token=$(pod tokens create ci --role reader --for 1h 2>/dev/null)
	expect '^401$' curl "${ask[@]}"
	expect '^200$' curl "${ask[@]}" -H "Authorization: Bearer $token"
	expect '"size":[1-9]' cat "$work/answer"
	(pod backup --keys - 2>"$work/said" >"$work/backup") || { cat "$work/said"; return 1; }
	echo "backup: $(tar tf "$work/backup" | tr '\n' ' ')"
	kill "$server"
	wait "$server"
	echo "serve: ended with 0"
	expect 'OK: /data/ledger is whole' pod fsck
	find "$work/volume" -name '*.key' -printf '%f %m %U:%G\n'
	[ -z "$(find "$work/volume/ledger" -name '*.key' -perm /077)" ]
}

if [ "${1:-}" = inside ]; then
	trap - EXIT
	work=$3
	inside "$2" || {
		cat "$work/serve.log"
		exit 1
	}
	exit
fi

parts
golang
build first "$(go env GOCACHE)"
cache=$(go env GOCACHE)
if [ "${FROM_NOTHING:-}" = 1 ]; then
	cache=$work/cold
	mkdir "$cache"
fi
build second "$cache"
cmp "$work/first.digest" "$work/second.digest"
buildah inspect --type image --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' second | grep . >"$work/environment"
container=$(buildah from second)
expect '^65532:65532 \[/usr/local/bin/retrace\]$' buildah inspect --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}' "$container"
root=$(buildah mount "$container")
(cd "$root" && find . -type f -printf '%p %s bytes\n')
unshare --mount --net --pid --fork --mount-proc "$PWD/ci/image.sh" inside "$root" "$work"
