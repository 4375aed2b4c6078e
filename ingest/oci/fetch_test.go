package oci

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/retrace-ledger/retrace/schema"
)

// resource returns the resource that the last image statement of a read is
// about.
func resource(t *testing.T, s seen) schema.Resource {
	t.Helper()
	for i := len(s.events) - 1; i >= 0; i-- {
		if s.events[i].Statement.PredicateType != schema.ImageV1 {
			continue
		}
		facts, err := s.events[i].Statement.Facts()
		if err != nil {
			t.Fatal(err)
		}
		return facts.Resources[0]
	}
	t.Fatal("no image was stated")
	return schema.Resource{}
}

// TestFetchAndDigest: what Fetch leaves has the digest of what was asked for,
// and is an image layout to others.
func TestFetchAndDigest(t *testing.T) {
	w := newWorld(t)
	w.push("image", image(t, "layer", nil))
	single := resource(t, w.mustRead(""))
	w.pushIndex("index", index(image(t, "a", nil), image(t, "b", nil)))
	several := resource(t, w.mustRead(""))
	for name, r := range map[string]schema.Resource{"image": single, "index": several} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := (Fetcher{}).Fetch(context.Background(), r, dir); err != nil {
				t.Fatal(err)
			}
			got, err := Fetcher{}.Digest(context.Background(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if got != r.Key {
				t.Errorf("Digest = %s, want %s", got, r.Key)
			}
			path, err := layout.ImageIndexFromPath(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Index(path, validate.Fast); err != nil {
				t.Errorf("go-containerregistry does not take the layout: %v", err)
			}
		})
	}
}

// TestDigestFindsDamage changes and removes each file of a layout in turn.
func TestDigestFindsDamage(t *testing.T) {
	w := newWorld(t)
	w.pushIndex("index", index(image(t, "a", nil), image(t, "b", nil)))
	r := resource(t, w.mustRead(""))
	dir := t.TempDir()
	if err := (Fetcher{}).Fetch(context.Background(), r, dir); err != nil {
		t.Fatal(err)
	}
	blobs := 0
	err := filepath.WalkDir(filepath.Join(dir, "blobs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		blobs++
		good, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		flipped := append([]byte{}, good...)
		flipped[len(flipped)/2] ^= 1
		for damage, bad := range map[string][]byte{"flipped": flipped, "longer": append(flipped, 0), "empty": nil} {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				return err
			}
			if key, err := (Fetcher{}).Digest(context.Background(), dir); err == nil {
				t.Errorf("%s %s: Digest = %s, want an error", filepath.Base(path), damage, key)
			}
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		if key, err := (Fetcher{}).Digest(context.Background(), dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s removed: Digest = %s, %v; want %v", filepath.Base(path), key, err, fs.ErrNotExist)
		}
		return os.WriteFile(path, good, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if blobs != 6 {
		t.Errorf("the layout has %d blobs, want 6", blobs)
	}
	if _, err := (Fetcher{}).Digest(context.Background(), dir); err != nil {
		t.Errorf("the layout put right again: %v", err)
	}
}

// TestDigestStaysInside: a blob that is a link out of the layout is not read.
func TestDigestStaysInside(t *testing.T) {
	w := newWorld(t)
	w.push("v1", image(t, "a", nil))
	r := resource(t, w.mustRead(""))
	dir := t.TempDir()
	if err := (Fetcher{}).Fetch(context.Background(), r, dir); err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(dir, "blobs", "sha256", r.Key.Hex())
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Rename(blob, outside); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, blob); err != nil {
		t.Fatal(err)
	}
	if key, err := (Fetcher{}).Digest(context.Background(), dir); err == nil {
		t.Errorf("Digest = %s through a link out of the layout, want an error", key)
	}
}

func TestFetchRefuses(t *testing.T) {
	w := newWorld(t)
	digest := schema.Key(w.push("v1", image(t, "a", nil)))
	for name, r := range map[string]schema.Resource{
		"no URI":            {Key: digest, Name: w.repo.Name()},
		"another scheme":    {Key: digest, URI: "https://" + w.repo.Name()},
		"a tag in the URI":  {Key: digest, URI: w.url + ":v1"},
		"another digest":    {Key: "sha512:" + schema.Key(strings.Repeat("0", 128)), URI: w.url},
		"not there":         {Key: "sha256:" + schema.Key(strings.Repeat("0", 64)), URI: w.url},
		"no such registry":  {Key: digest, URI: "oci://127.0.0.1:1/x"},
		"a layer, no image": {Key: schema.BytesKey([]byte("a")), URI: w.url},
	} {
		dir := t.TempDir()
		if err := (Fetcher{}).Fetch(context.Background(), r, dir); err == nil {
			t.Errorf("%s: Fetch succeeded, want an error", name)
		}
		if _, err := (Fetcher{}).Digest(context.Background(), dir); err == nil {
			t.Errorf("%s: Digest of what was not fetched succeeded, want an error", name)
		}
	}
}

// TestFetchFails lets each request in turn fail: an error, and never a layout
// that has the digest all the same.
func TestFetchFails(t *testing.T) {
	w := newWorld(t)
	w.pushIndex("v1", index(image(t, "a", nil), image(t, "b", nil)))
	r := resource(t, w.mustRead(""))
	w.answer(nil)
	if err := (Fetcher{}).Fetch(context.Background(), r, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	for n := range w.asked {
		w.answer(func(rw http.ResponseWriter, _ *http.Request) bool {
			w.mu.Lock()
			failing := w.asked == n+1
			w.mu.Unlock()
			if failing {
				rw.WriteHeader(http.StatusInternalServerError)
			}
			return failing
		})
		dir := t.TempDir()
		if err := (Fetcher{}).Fetch(context.Background(), r, dir); err == nil {
			t.Errorf("request %d failed and Fetch did not", n+1)
		}
		if key, err := (Fetcher{}).Digest(context.Background(), dir); err == nil {
			t.Errorf("request %d failed and what is left has the digest %s", n+1, key)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w.answer(nil)
	if err := (Fetcher{}).Fetch(ctx, r, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Fetch: %v, want %v", err, context.Canceled)
	}
}

// TestResolve: there, not there, and could not tell are three answers.
func TestResolve(t *testing.T) {
	w := newWorld(t)
	digest := w.push("v1", image(t, "a", nil))
	ctx := context.Background()
	for _, ref := range []string{w.repo.Name() + ":v1", w.repo.Name() + "@" + digest, w.repo.Name() + ":v9@" + digest} {
		if key, found, err := (Registry{}).Resolve(ctx, ref); err != nil || !found || string(key) != digest {
			t.Errorf("Resolve(%s) = %s, %v, %v; want %s", ref, key, found, err, digest)
		}
	}
	for _, ref := range []string{w.repo.Name() + ":v2", w.repo.Name() + "-not:v1"} {
		if key, found, err := (Registry{}).Resolve(ctx, ref); err != nil || found {
			t.Errorf("Resolve(%s) = %s, %v, %v; want not found", ref, key, found, err)
		}
	}
	if _, _, err := (Registry{}).Resolve(ctx, "not a reference"); err == nil {
		t.Error("Resolve of what is no reference succeeded")
	}
	w.answer(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.WriteHeader(http.StatusInternalServerError)
		return true
	})
	if _, found, err := (Registry{}).Resolve(ctx, w.repo.Name()+":v1"); err == nil || found {
		t.Errorf("Resolve from a broken registry = %v, %v; want an error", found, err)
	}
	// A registry that serves other bytes than the digest asked for.
	w.answer(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/sha256:") {
			return false
		}
		rw.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		rw.Header().Set("Docker-Content-Digest", digest)
		rw.Write([]byte(`{"schemaVersion":2}`))
		return true
	})
	if _, found, err := (Registry{}).Resolve(ctx, w.repo.Name()+"@"+digest); err == nil || found {
		t.Errorf("Resolve of other bytes = %v, %v; want an error", found, err)
	}
}
