package oci

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// world is a registry with one repository, whose answers a test can spoil.
type world struct {
	t    *testing.T
	repo name.Repository
	url  string

	mu    sync.Mutex
	spoil func(w http.ResponseWriter, r *http.Request) bool // true: it answered
	asked int
}

func newWorld(t *testing.T, opts ...registry.Option) *world {
	t.Helper()
	w := &world{t: t}
	if opts == nil {
		opts = []registry.Option{registry.WithReferrersSupport(true)}
	}
	real := registry.New(append(opts, registry.Logger(log.New(io.Discard, "", 0)))...)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.asked++
		spoil := w.spoil
		w.mu.Unlock()
		if spoil == nil || !spoil(rw, r) {
			real.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(server.Close)
	repo, err := name.NewRepository(strings.TrimPrefix(server.URL, "http://") + "/ml/trainer")
	if err != nil {
		t.Fatal(err)
	}
	w.repo = repo
	w.url = "oci://" + repo.Name()
	return w
}

func (w *world) answer(spoil func(http.ResponseWriter, *http.Request) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spoil, w.asked = spoil, 0
}

// image returns an image whose one layer holds content.
func image(t *testing.T, content string, labels map[string]string) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer([]byte(content), types.DockerLayer))
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: "arm64", Variant: "v8", Config: v1.Config{Labels: labels},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// index returns an index over images that image made.
func index(imgs ...v1.Image) v1.ImageIndex {
	var index v1.ImageIndex = empty.Index
	for _, img := range imgs {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}},
		})
	}
	return index
}

func (w *world) push(tag string, img v1.Image) string {
	w.t.Helper()
	if err := remote.Write(w.repo.Tag(tag), img); err != nil {
		w.t.Fatal(err)
	}
	return digestOf(w.t, img)
}

func (w *world) pushIndex(tag string, ii v1.ImageIndex) string {
	w.t.Helper()
	if err := remote.WriteIndex(w.repo.Tag(tag), ii); err != nil {
		w.t.Fatal(err)
	}
	return digestOf(w.t, ii)
}

// put pushes bytes as a manifest that the registry takes as it is.
func (w *world) put(tag, mediaType, body string) {
	w.t.Helper()
	url := fmt.Sprintf("http://%s/v2/%s/manifests/%s", w.repo.RegistryStr(), w.repo.RepositoryStr(), tag)
	req, err := http.NewRequest(http.MethodPut, url, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		w.t.Fatalf("PUT %s: %s", url, resp.Status)
	}
}

func (w *world) delete(reference string) {
	w.t.Helper()
	ref, err := name.ParseReference(w.repo.Name() + ":" + reference)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := remote.Delete(ref); err != nil {
		w.t.Fatal(err)
	}
}

func digestOf(t *testing.T, d interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := d.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func source(t *testing.T, url string) *Source {
	t.Helper()
	s, err := Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// seen is what one read gave.
type seen struct {
	events  []ingest.Event
	facts   []string // "tag v1 sha256:…", "image sha256:…", in order
	skipped []string
	listing *ingest.Listing
	cursor  string // the last one given, or the one started from
}

// read reads the source at url from cursor to the end.
func (w *world) read(url, cursor string) (seen, error) {
	w.t.Helper()
	got := seen{cursor: cursor}
	for e, err := range source(w.t, url).Observe(context.Background(), cursor) {
		if err != nil {
			return got, err
		}
		got.events = append(got.events, e)
		if e.Envelope != nil {
			got.facts = append(got.facts, "envelope")
		} else if e.Fact() {
			got.facts = append(got.facts, describe(w.t, e.Statement))
		}
		if e.Skipped != nil {
			got.skipped = append(got.skipped, e.Skipped.Object+": "+e.Skipped.Reason.Error())
		}
		if e.Cursor != "" {
			got.cursor = e.Cursor
		}
		got.listing = e.Listing
	}
	return got, nil
}

func (w *world) mustRead(cursor string) seen {
	w.t.Helper()
	got, err := w.read(w.url, cursor)
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

func describe(t *testing.T, s schema.Statement) string {
	t.Helper()
	key := string(s.Subject[0].Key())
	switch s.PredicateType {
	case schema.SignatureV1:
		return "signature " + key
	case schema.ImageV1:
		return "image " + key
	case schema.TagV1:
		p := tagOf(t, s)
		if p.Deleted {
			return "deleted " + p.Tag + " " + key
		}
		return "tag " + p.Tag + " " + key
	}
	t.Fatalf("unexpected statement of type %s", s.PredicateType)
	return ""
}

func tagOf(t *testing.T, s schema.Statement) schema.Tag {
	t.Helper()
	var p schema.Tag
	if err := schema.DecodePredicate(s, true, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func imageOf(t *testing.T, s schema.Statement) schema.Image {
	t.Helper()
	var p schema.Image
	if err := schema.DecodePredicate(s, true, &p); err != nil {
		t.Fatal(err)
	}
	return p
}
