package oci

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// Fetcher brings images and indexes back as OCI image layouts, with the
// credentials of the place that watches their repository. The zero value has none
// but Docker's.
type Fetcher struct {
	env ingest.Env
}

// settings are those of the place that watches the repository.
func (f Fetcher) settings(repo name.Repository) settings {
	for _, p := range f.env.Places {
		var s settings
		if at, err := Parse(p.URL); err == nil && at.repo.Name() == repo.Name() && p.Settings(&s) == nil {
			return s
		}
	}
	return settings{}
}

var _ ingest.Fetcher = Fetcher{}

// Fetch lays the image or index r out in dir as an OCI image layout with that
// one manifest. It is read by digest from the repository in r's URI, and from
// nowhere else.
func (f Fetcher) Fetch(ctx context.Context, r schema.Resource, dir string) error {
	if r.Key.Algorithm() != schema.SHA256 {
		return fmt.Errorf("fetching image %s: it is not identified by a SHA-256 digest", r.Key)
	}
	location, ok := strings.CutPrefix(r.URI, scheme+"://")
	if !ok {
		return fmt.Errorf("fetching image %s: no repository is recorded for it (its URI is %q)", r.Key, r.URI)
	}
	repo, err := parseRepository(location)
	if err != nil {
		return fmt.Errorf("fetching image %s: %w", r.Key, err)
	}
	c, err := newClient(ctx, repo, f.settings(repo))
	if err != nil {
		return err
	}
	if err := c.layOut(ctx, string(r.Key), dir); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("fetching %s@%s: %w", repo.Name(), r.Key, err)
	}
	return nil
}

func (c *client) layOut(ctx context.Context, digest, dir string) error {
	m, err := c.manifest(ctx, c.repo.Digest(digest))
	if err != nil {
		return err
	}
	mediaType, err := m.mediaType()
	if err != nil {
		return err
	}
	into, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	m.desc.MediaType = mediaType
	if mediaType.IsIndex() {
		index, err := m.desc.ImageIndex()
		if err != nil {
			return err
		}
		return into.AppendIndex(index)
	}
	img, err := m.desc.Image()
	if err != nil {
		return err
	}
	return into.AppendImage(img)
}

// Digest is the digest of the one manifest of the OCI image layout in dir. It
// hashes every blob that the manifest needs, down to the layers, and returns
// an error if one is missing or is not what its name says.
func (Fetcher) Digest(ctx context.Context, dir string) (schema.Key, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("digesting an image layout: %w", err)
	}
	defer root.Close()
	l := &laidOut{root: root, checked: map[string]bool{}}
	key, err := l.digest(ctx)
	if err != nil {
		return "", fmt.Errorf("digesting the image layout %s: %w", dir, err)
	}
	return key, nil
}

// laidOut is an OCI image layout on disk (image-spec, image-layout.md). It is
// read through an os.Root, so that no link in it leads outside.
type laidOut struct {
	root    *os.Root
	checked map[string]bool // digests of blobs
}

func (l *laidOut) digest(ctx context.Context) (schema.Key, error) {
	raw, err := l.readFile("index.json")
	if err != nil {
		return "", err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return "", fmt.Errorf("parsing index.json: %w", err)
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("index.json names %d manifests, not one", len(index.Manifests))
	}
	top := index.Manifests[0]
	if top.Digest.Algorithm != schema.SHA256 {
		return "", fmt.Errorf("manifest %s is not identified by a SHA-256 digest", top.Digest)
	}
	if err := l.manifest(ctx, top, 0); err != nil {
		return "", err
	}
	return schema.Key(top.Digest.String()), nil
}

// manifest checks the manifest or index that d describes and all below it.
func (l *laidOut) manifest(ctx context.Context, d v1.Descriptor, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("index %s is nested more than %d deep", d.Digest, maxDepth)
	}
	if err := l.blob(ctx, d); err != nil {
		return err
	}
	raw, err := l.readFile(blobPath(d.Digest))
	if err != nil {
		return err
	}
	var m struct {
		Config    *v1.Descriptor  `json:"config"`
		Layers    []v1.Descriptor `json:"layers"`
		Manifests []v1.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("parsing manifest %s: %w", d.Digest, err)
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, b := range m.Layers {
		if err := l.blob(ctx, b); err != nil {
			return err
		}
	}
	for _, below := range m.Manifests {
		check := l.blob
		if below.MediaType.IsImage() || below.MediaType.IsIndex() {
			check = func(ctx context.Context, d v1.Descriptor) error { return l.manifest(ctx, d, depth+1) }
		}
		if err := check(ctx, below); err != nil {
			return err
		}
	}
	return nil
}

// blob checks that the blob is there and has the digest and size that d says.
func (l *laidOut) blob(ctx context.Context, d v1.Descriptor) error {
	if l.checked[d.Digest.String()] {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	hasher, err := v1.Hasher(d.Digest.Algorithm)
	if err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	f, err := l.root.Open(blobPath(d.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := io.Copy(hasher, &cancellable{ctx, f})
	if err != nil {
		return fmt.Errorf("reading blob %s: %w", d.Digest, err)
	}
	if got := hex.EncodeToString(hasher.Sum(nil)); got != d.Digest.Hex {
		return fmt.Errorf("blob %s has the digest %s:%s", d.Digest, d.Digest.Algorithm, got)
	}
	if size != d.Size {
		return fmt.Errorf("blob %s is %d bytes; its descriptor says %d", d.Digest, size, d.Size)
	}
	l.checked[d.Digest.String()] = true
	return nil
}

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// readFile reads a manifest, or index.json.
func (l *laidOut) readFile(path string) ([]byte, error) {
	f, err := l.root.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(raw) > maxManifest {
		return nil, fmt.Errorf("%s is larger than the limit of %d bytes", path, maxManifest)
	}
	return raw, nil
}

// cancellable ends a read when its context does.
type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancellable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
