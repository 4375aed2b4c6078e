#!/usr/bin/env bash
# Builds the API server of Kubernetes, once a machine (8 to 13 minutes on two
# cores), and prints where it is. Tests find it there; they run it on Debian's
# etcd-server.
#
# Usage: ci/kube-apiserver.sh
set -euo pipefail
exec 3>&1 >&2

version=1.37.2
dir=${XDG_CACHE_HOME:-$HOME/.cache}/retrace-parts/kube-apiserver-v$version
if [ ! -x "$dir/kube-apiserver" ]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	cd "$work"
	export GOFLAGS=''
	go mod init example.com/apiserver
	go mod edit -require="k8s.io/kubernetes@v$version"
	# Its staging modules are in its own tree; outside of it they are published
	# under v0.
	go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p' >gomod
	sed -n 's/^[[:space:]]*\(k8s\.io\/[^ ]*\) => \.\/staging.*/\1/p' "$(cat gomod)" >staging
	while read -r module; do
		go mod edit -replace="$module=$module@v0.${version#1.}"
	done <staging
	go get "k8s.io/kubernetes/cmd/kube-apiserver@v$version"
	base=k8s.io/component-base/version
	go build -trimpath -o kube-apiserver \
		-ldflags "-s -w -X $base.gitVersion=v$version -X $base.gitMajor=1 -X $base.gitMinor=37" \
		k8s.io/kubernetes/cmd/kube-apiserver
	mkdir -p "$dir"
	mv kube-apiserver "$dir/"
fi
echo "$dir/kube-apiserver" >&3
