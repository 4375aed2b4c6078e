package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/retrace-ledger/retrace/verify/cosign"
)

// startRegistry serves an OCI registry from memory on a free port of this
// machine, until stop is called.
func (d *demo) startRegistry() (stop func() error, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting the demo's registry: %w", err)
	}
	d.registry = l.Addr().String()
	srv := &http.Server{
		Handler:           registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true)),
		ReadHeaderTimeout: 10 * time.Second,
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	return func() error {
		err := srv.Close()
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
		return err
	}, nil
}

// makeImages pushes two images that hold the pipeline, labelled with the
// commit they were built from, and signs the first.
func (d *demo) makeImages(ctx context.Context) error {
	rev := exec.CommandContext(ctx, "git", "rev-parse", "HEAD")
	rev.Dir = d.path("work")
	commit, err := rev.Output()
	if err != nil {
		return fmt.Errorf("git rev-parse HEAD: %w", err)
	}
	if d.trainer, err = d.push(ctx, "demo/trainer", strings.TrimSpace(string(commit)), "train.star"); err != nil {
		return err
	}
	if d.server, err = d.push(ctx, "demo/server", strings.TrimSpace(string(commit)), "evaluate.star"); err != nil {
		return err
	}
	password := []byte("demo")
	private, public, err := cosign.GenerateKey(password)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("cosign.pub"), public, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "pushed %s\npushed %s\n$ cosign sign %s\n", d.trainer, d.server, d.trainer)
	return cosign.Sign(ctx, d.trainer, private, password)
}

// push makes an image with one script of the pipeline and pushes it as v1.
func (d *demo) push(ctx context.Context, repository, commit, script string) (string, error) {
	code, err := demoFiles.ReadFile("demo/pipeline/" + script)
	if err != nil {
		return "", err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "pipeline/" + script, Mode: 0o644, Size: int64(len(code))}); err != nil {
		return "", err
	}
	if _, err := w.Write(code); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return "", err
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return "", err
	}
	if img, err = mutate.Config(img, v1.Config{Labels: map[string]string{
		"org.opencontainers.image.revision": commit,
		"org.opencontainers.image.source":   "git+file://" + d.path("work"),
	}}); err != nil {
		return "", err
	}
	tag, err := name.NewTag(d.registry + "/" + repository + ":v1")
	if err != nil {
		return "", err
	}
	if err := remote.Write(tag, img, remote.WithContext(ctx)); err != nil {
		return "", err
	}
	digest, err := img.Digest()
	if err != nil {
		return "", err
	}
	return tag.Context().Digest(digest.String()).Name(), nil
}
