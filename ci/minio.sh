#!/usr/bin/env bash
# Builds MinIO, once a machine (3 minutes on two cores), and prints where it is.
# Tests find it there.
#
# Usage: ci/minio.sh
set -euo pipefail
exec 3>&1 >&2

version=v0.0.0-20260212201848-7aac2a2c5b7c
dir=${XDG_CACHE_HOME:-$HOME/.cache}/retrace-parts/minio-$version
if [ ! -x "$dir/minio" ]; then
	mkdir -p "$dir"
	(cd / && GOBIN=$dir GOFLAGS='' CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "github.com/minio/minio@$version")
fi
echo "$dir/minio" >&3
