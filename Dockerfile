# syntax=docker/dockerfile:1

# retrace as one static binary, without a shell, run by an unprivileged user on
# a read-only root. Everything it writes lies below /data:
#
#   docker build -t retrace .
#   docker run --rm --read-only -v retrace:/data retrace init
#   docker run --rm --read-only -v retrace:/data retrace log
#
# GO_IMAGE is what it is built in: Go, a shell, and certificate authorities. The
# same Go and the same files give the same binary; ci/image.sh holds the image
# to that.

ARG GO_IMAGE=golang:1.26.8-bookworm
FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w" -o /out/retrace ./cmd/retrace
RUN mkdir -m 0700 /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/retrace /usr/local/bin/retrace
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
WORKDIR /data
# HOME and TMPDIR: libraries that ask for them find a place that is writable.
ENV PATH=/usr/local/bin HOME=/data TMPDIR=/data RETRACE_DIR=/data/ledger
VOLUME /data
ENTRYPOINT ["/usr/local/bin/retrace"]
CMD ["help"]
