package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/retrace-ledger/retrace/schema"
)

func TestImageAndTag(t *testing.T) {
	w := newWorld(t)
	revision := strings.Repeat("ab", 20)
	base := "sha256:" + strings.Repeat("cd", 32)
	img := mutate.Annotations(image(t, "layer", map[string]string{
		"org.opencontainers.image.revision":  "of the config, which the manifest overrides",
		"org.opencontainers.image.source":    "https://git.example/ml/trainer",
		"org.opencontainers.image.base.name": "debian:12",
	}), map[string]string{
		"org.opencontainers.image.revision":    revision,
		"org.opencontainers.image.base.digest": base,
	}).(v1.Image)
	digest := w.push("v1", img)

	got := w.mustRead("")
	if diff := cmp.Diff([]string{"image " + digest, "tag v1 " + digest}, got.facts); diff != "" {
		t.Fatalf("facts (-want +got):\n%s", diff)
	}
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := img.Size()
	if err != nil {
		t.Fatal(err)
	}
	want := schema.Image{
		Repository: w.repo.Name(), MediaType: string(manifest.MediaType), Size: size,
		Config: manifest.Config.Digest.String(), Platform: "linux/arm64/v8",
		Layers: []schema.Blob{{Digest: manifest.Layers[0].Digest.String(), MediaType: string(manifest.Layers[0].MediaType), Size: 5, DiffID: "sha256:" + strings.Repeat("0", 64)}},
		Labels: map[string]string{
			"org.opencontainers.image.revision":    revision,
			"org.opencontainers.image.source":      "https://git.example/ml/trainer",
			"org.opencontainers.image.base.name":   "debian:12",
			"org.opencontainers.image.base.digest": base,
		},
	}
	if diff := cmp.Diff(want, imageOf(t, got.events[0].Statement)); diff != "" {
		t.Errorf("image (-want +got):\n%s", diff)
	}
	if subject := got.events[0].Statement.Subject[0]; subject.Name != w.repo.Name() || subject.URI != w.url {
		t.Errorf("subject = %+v, want name %s and uri %s", subject, w.repo.Name(), w.url)
	}

	facts, err := got.events[0].Statement.Facts()
	if err != nil {
		t.Fatal(err)
	}
	wantRelations := []schema.Relation{
		{From: schema.Key(imageOf(t, got.events[0].Statement).Config), To: schema.Key(digest), Kind: schema.RelConfigOf},
		{From: schema.Key(digest), To: schema.Key("gitCommit:" + revision), Kind: schema.RelBuiltOf, Claimed: true},
		{From: schema.Key(digest), To: schema.Key(base), Kind: schema.RelBase, Claimed: true},
		{From: schema.Key("chainID:" + strings.Repeat("0", 64)), To: schema.Key(digest), Kind: schema.RelLayersOf},
	}
	if diff := cmp.Diff(wantRelations, facts.Relations); diff != "" {
		t.Errorf("relations (-want +got):\n%s", diff)
	}
	if got.listing == nil || got.listing.Count != 1 {
		t.Errorf("listing = %+v, want one tag", got.listing)
	}
}

// TestBaseByLayers builds images on images, with no label that says so: the
// layers do, in both directions, also through another repository's entries.
func TestBaseByLayers(t *testing.T) {
	base := built(t, empty.Image, "os")
	runtime := built(t, base, "python")
	trainer := built(t, runtime, "train.py")
	labelled := mutate.Annotations(built(t, runtime, "serve.py"), map[string]string{"org.opencontainers.image.base.digest": digestOf(t, runtime)}).(v1.Image)
	again := mutate.Annotations(runtime, map[string]string{"built": "again"}).(v1.Image) // the same layers
	other := built(t, built(t, empty.Image, "python"), "os")                             // the same, in another order
	names := map[schema.Key]string{}
	g := schema.NewFactGraph()
	entry := int64(0)
	for i, images := range []map[string]v1.Image{{"base": base}, {"runtime": runtime}, {"trainer": trainer, "labelled": labelled, "again": again, "other": other}} {
		w := newWorld(t)
		for name, img := range images {
			names[schema.Key(w.push(name, img))] = name
		}
		for _, e := range w.mustRead("").events {
			if e.Statement.PredicateType != schema.ImageV1 {
				continue
			}
			f, err := e.Statement.Facts()
			if err != nil {
				t.Fatal(i, err)
			}
			g.Add(entry, f, schema.Grade{Evidence: schema.Observed})
			entry++
		}
	}
	for k, want := range map[string]struct{ up, down string }{
		"trainer":  {"trainer<base? trainer<runtime? runtime<base?", ""},
		"labelled": {"labelled<base? labelled<runtime? runtime<base?", ""},
		"again":    {"again<base?", ""},
		"other":    {"", ""},
		"runtime":  {"runtime<base?", "labelled<runtime? trainer<runtime?"},
		"base":     {"", "again<base? labelled<base? labelled<runtime? runtime<base? trainer<base? trainer<runtime?"},
	} {
		for d, want := range map[schema.Direction]string{schema.Upstream: want.up, schema.Downstream: want.down} {
			var got []string
			for e, err := range schema.Walk(t.Context(), g, schema.Start{Key: keyNamed(names, k)}, schema.WalkOptions{Direction: d}) {
				if err != nil {
					t.Fatal(err)
				}
				if e.Relation != schema.RelBase || e.Evidence != schema.Claimed {
					t.Errorf("%s: edge %+v", k, e)
				}
				got = append(got, names[e.From]+"<"+names[e.To]+"?")
			}
			wanted := strings.Fields(want)
			slices.Sort(got)
			slices.Sort(wanted)
			if diff := cmp.Diff(wanted, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", d, k, diff)
			}
		}
	}
}

func keyNamed(names map[schema.Key]string, name string) schema.Key {
	for k, n := range names {
		if n == name {
			return k
		}
	}
	return ""
}

// built is an image with one layer more.
func built(t *testing.T, on v1.Image, content string) v1.Image {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: content, Size: int64(len(content)), Mode: 0o644}), second(w.Write([]byte(content))), w.Close()); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(on, layer)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func second(_ int, err error) error { return err }

func TestIndexWithPlatforms(t *testing.T) {
	w := newWorld(t)
	a, b := image(t, "a", nil), image(t, "b", nil)
	digest := w.pushIndex("v1", index(a, b, a))

	got := w.mustRead("")
	da, db := digestOf(t, a), digestOf(t, b)
	if diff := cmp.Diff([]string{"image " + da, "image " + db, "image " + digest, "tag v1 " + digest}, got.facts); diff != "" {
		t.Fatalf("facts (-want +got):\n%s", diff)
	}
	p := imageOf(t, got.events[2].Statement)
	var platforms []string
	for _, m := range p.Manifests {
		platforms = append(platforms, m.Platform+" "+m.Digest)
	}
	if diff := cmp.Diff([]string{"linux/arm64/v8 " + da, "linux/arm64/v8 " + db, "linux/arm64/v8 " + da}, platforms); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}
	facts, err := got.events[2].Statement.Facts()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, r := range facts.Relations {
		kinds[r.Kind]++
	}
	if diff := cmp.Diff(map[string]int{schema.RelPlatform: 3, schema.RelInIndex: 3}, kinds); diff != "" {
		t.Errorf("relations (-want +got):\n%s", diff)
	}
}

// TestTagMovesBackAndForth: a tag that goes A, B, A, B is four facts, each
// naming the one before it, and a second look is none.
func TestTagMovesBackAndForth(t *testing.T) {
	w := newWorld(t)
	a, b := image(t, "a", nil), image(t, "b", nil)
	var cursor, previous, old string
	statements := map[string]bool{}
	for i, img := range []v1.Image{a, b, a, b} {
		digest := w.push("latest", img)
		got := w.mustRead(cursor)
		last := got.events[len(got.events)-1].Statement
		if want := "tag latest " + digest; got.facts[len(got.facts)-1] != want {
			t.Fatalf("move %d: last fact = %q, want %q", i, got.facts[len(got.facts)-1], want)
		}
		payload, err := last.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if statements[string(payload)] {
			t.Errorf("move %d gave the same statement as an earlier one", i)
		}
		statements[string(payload)] = true
		p := tagOf(t, last)
		if p.Previous != previous || p.Old != old {
			t.Errorf("move %d: previous %q and old %q, want %q and %q", i, p.Previous, p.Old, previous, old)
		}
		previous, old = schema.BytesKey(payload).Hex(), digest
		cursor = got.cursor
		if again := w.mustRead(cursor); len(again.facts) != 0 {
			t.Errorf("move %d: reading again gave %v, want nothing", i, again.facts)
		}
	}
	if len(statements) != 4 {
		t.Errorf("four moves gave %d facts, want 4", len(statements))
	}
}

// TestDeletedTag: a tag that vanishes is a fact, one that comes back to the
// same image another.
func TestDeletedTag(t *testing.T) {
	w := newWorld(t)
	img := image(t, "a", nil)
	digest := w.push("v1", img)
	w.push("v2", img)
	first := w.mustRead("")
	if diff := cmp.Diff([]string{"image " + digest, "tag v1 " + digest, "tag v2 " + digest}, first.facts); diff != "" {
		t.Fatalf("facts (-want +got):\n%s", diff)
	}
	w.delete("v1")
	second := w.mustRead(first.cursor)
	if diff := cmp.Diff([]string{"deleted v1 " + digest}, second.facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	if third := w.mustRead(second.cursor); len(third.facts) != 0 {
		t.Errorf("reading again gave %v, want nothing", third.facts)
	}
	w.push("v1", img)
	fourth := w.mustRead(second.cursor)
	if diff := cmp.Diff([]string{"tag v1 " + digest}, fourth.facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	if p := tagOf(t, fourth.events[0].Statement); p.Previous == "" || p.Old != "" {
		t.Errorf("the tag that came back has previous %q and old %q, want the deletion and nothing", p.Previous, p.Old)
	}
}

// TestAttachments: cosign's tags and referrers are listed with the image, are
// no tags of their own, and a new one is one new statement.
func TestAttachments(t *testing.T) {
	for _, api := range []bool{true, false} {
		t.Run(fmt.Sprintf("referrers API %v", api), func(t *testing.T) {
			w := newWorld(t, registry.WithReferrersSupport(api))
			img := image(t, "a", nil)
			digest := w.push("v1", img)
			first := w.mustRead("")
			sig := "sha256-" + strings.TrimPrefix(digest, "sha256:") + ".sig"
			w.push(sig, image(t, "signature", nil))
			second := w.mustRead(first.cursor)
			if diff := cmp.Diff([]string{"image " + digest}, second.facts); diff != "" {
				t.Fatalf("facts (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{sig}, imageOf(t, second.events[0].Statement).Signatures); diff != "" {
				t.Errorf("signatures (-want +got):\n%s", diff)
			}
			desc, err := remote.Head(w.repo.Digest(digest))
			if err != nil {
				t.Fatal(err)
			}
			referrer := mutate.Subject(image(t, "referrer", nil), *desc).(v1.Image)
			if err := remote.Write(w.repo.Digest(digestOf(t, referrer)), referrer); err != nil {
				t.Fatal(err)
			}
			third := w.mustRead(second.cursor)
			if diff := cmp.Diff([]string{"image " + digest}, third.facts); diff != "" {
				t.Fatalf("facts (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{sig, digestOf(t, referrer)}, imageOf(t, third.events[0].Statement).Signatures); diff != "" {
				t.Errorf("signatures (-want +got):\n%s", diff)
			}
			if fourth := w.mustRead(third.cursor); len(fourth.facts) != 0 {
				t.Errorf("reading again gave %v, want nothing", fourth.facts)
			}
		})
	}
}

// TestManyTags reads more tags than have a cursor each, resumes from every
// cursor that stands for more than one tag and some of those for one, and gets
// the same tail.
func TestManyTags(t *testing.T) {
	w := newWorld(t)
	const tags, images = 260, 130
	for i := range tags {
		w.push(fmt.Sprintf("v%04d", i), image(t, fmt.Sprint(i%images), nil))
	}
	full := w.mustRead("")
	if want := tags + images; len(full.facts) != want {
		t.Fatalf("read %d facts, want %d", len(full.facts), want)
	}
	cursors, group := 0, 0
	for i, e := range full.events {
		if group++; group > 1024 {
			t.Fatalf("more than 1024 facts between two cursors")
		}
		if e.Cursor == "" {
			continue
		}
		grouped := group > 2
		cursors, group = cursors+1, 0
		if !grouped && cursors%16 != 1 {
			continue
		}
		tail := w.mustRead(e.Cursor)
		if diff := cmp.Diff(full.facts[i+1:], append([]string{}, tail.facts...)); diff != "" {
			t.Fatalf("resumed after event %d (-want +got):\n%s", i, diff)
		}
		if tail.cursor != full.cursor {
			t.Fatalf("resumed after event %d, the last cursor differs", i)
		}
		if diff := cmp.Diff(full.listing, tail.listing); diff != "" {
			t.Fatalf("listing when resumed after event %d (-want +got):\n%s", i, diff)
		}
	}
	if cursors < 3 || full.events[len(full.events)-1].Cursor == "" {
		t.Errorf("%d cursors, the last event has %q", cursors, full.events[len(full.events)-1].Cursor)
	}
}

// TestRegistryFails lets each request in turn be the first to be answered 500,
// or cut off: what was read before stands, and resuming gives the rest.
func TestRegistryFails(t *testing.T) {
	faults := map[string]func(rw http.ResponseWriter, r *http.Request){
		"500": func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusInternalServerError) },
		"cut": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "1000")
			io.WriteString(rw, "{")
			panic(http.ErrAbortHandler)
		},
		"429": func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusTooManyRequests) },
		"403": func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusForbidden) },
	}
	w := newWorld(t)
	w.push("v1", image(t, "one", nil))
	w.pushIndex("v2", index(image(t, "two", nil), image(t, "three", nil)))
	w.push("v3", image(t, "four", nil))
	w.answer(nil)
	full := w.mustRead("")
	requests := w.asked
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			for n := 1; n <= requests; n++ {
				w.answer(func(rw http.ResponseWriter, r *http.Request) bool {
					w.mu.Lock()
					failing := w.asked >= n
					w.mu.Unlock()
					if failing {
						fault(rw, r)
					}
					return failing
				})
				got, err := w.read(w.url, "")
				if err == nil {
					t.Fatalf("request %d of %d failed and the read did not", n, requests)
				}
				if len(got.skipped) != 0 {
					t.Errorf("request %d: skipped %q; a registry that is not there is no odd object", n, got.skipped)
				}
				if len(got.facts) > 0 && got.events[len(got.events)-1].Cursor == "" {
					t.Errorf("request %d: the last event before the error has no cursor", n)
				}
				w.answer(nil)
				rest := w.mustRead(got.cursor)
				if diff := cmp.Diff(full.facts, append(got.facts, rest.facts...)); diff != "" {
					t.Errorf("request %d failed; before and after resuming (-want +got):\n%s", n, diff)
				}
			}
		})
	}
}

func TestRegistryGone(t *testing.T) {
	w := newWorld(t)
	w.push("v1", image(t, "one", nil))
	first := w.mustRead("")
	w.answer(func(rw http.ResponseWriter, r *http.Request) bool {
		http.Error(rw, `{"errors":[{"code":"NAME_UNKNOWN"}]}`, http.StatusNotFound)
		return true
	})
	if got, err := w.read(w.url, first.cursor); err == nil || len(got.events) != 0 {
		t.Errorf("a repository that is not found gave %v and error %v; want an error and no deletions", got.facts, err)
	}
	gone := newWorld(t)
	url := gone.url
	gone.answer(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	if got, err := gone.read(url, ""); err == nil || len(got.events) != 0 {
		t.Errorf("an unreachable registry gave %v and error %v", got.facts, err)
	}
}

// TestOddObjects: what cannot be read is skipped with its reason and does not
// stop the rest.
func TestOddObjects(t *testing.T) {
	const oci = "application/vnd.oci.image.manifest.v1+json"
	w := newWorld(t)
	good := w.push("zz-good", image(t, "good", nil))
	w.put("a-huge", oci, `{"schemaVersion":2,"pad":"`+strings.Repeat("x", maxManifest)+`"}`)
	w.put("b-unknown-type", "application/x-what", `{"what":1}`)
	w.put("c-not-json", oci, `{"schemaVersion":`)
	w.put("d-both", oci, `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`)
	w.put("e-lies", oci, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	w.put("f-bad-digest", oci, `{"schemaVersion":2,"config":{"digest":"sha256:12"},"layers":[]}`)
	w.put("g-no-config", oci, `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:`+strings.Repeat("1", 64)+`"},"layers":[]}`)
	w.put("h-schema1", "application/vnd.docker.distribution.manifest.v1+prettyjws", `{}`)
	w.push("i-missing", image(t, "missing", nil))
	w.answer(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/i-missing") {
			return false
		}
		http.Error(rw, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
		return true
	})
	got := w.mustRead("")
	tags := map[string]bool{}
	for _, f := range got.facts {
		kind, rest, _ := strings.Cut(f, " ")
		tag, _, _ := strings.Cut(rest, " ")
		if kind == "tag" {
			tags[tag] = true
		}
	}
	// A tag whose bytes were read is stated, whatever they are.
	want := map[string]bool{"b-unknown-type": true, "c-not-json": true, "d-both": true, "e-lies": true, "f-bad-digest": true, "g-no-config": true, "zz-good": true}
	if diff := cmp.Diff(want, tags); diff != "" {
		t.Errorf("tags stated (-want +got):\n%s", diff)
	}
	if last := got.facts[len(got.facts)-2:]; last[0] != "image "+good {
		t.Errorf("last facts = %q, want the good image and its tag", last)
	}
	reasons := strings.Join(got.skipped, "\n")
	for _, want := range []string{
		"tag a-huge: ", "limit of 4194304 bytes", "neither image nor index", "not valid JSON", "both image and index",
		"was served as", "parsing manifest", "config of image", "schema 1", "MANIFEST_UNKNOWN",
	} {
		if !strings.Contains(reasons, want) {
			t.Errorf("skipped does not mention %q:\n%s", want, reasons)
		}
	}
	if got.listing.Count != 10 {
		t.Errorf("listed %d tags, want 10", got.listing.Count)
	}
	if again := w.mustRead(got.cursor); len(again.facts) != 0 {
		t.Errorf("reading again gave %v, want nothing", again.facts)
	}
}

// TestSparseIndex: an index may list images that the registry does not have.
func TestSparseIndex(t *testing.T) {
	w := newWorld(t)
	here, gone := image(t, "here", nil), image(t, "gone", nil)
	digest := w.pushIndex("v1", index(here, gone))
	if err := remote.Delete(w.repo.Digest(digestOf(t, gone))); err != nil {
		t.Fatal(err)
	}
	got := w.mustRead("")
	if diff := cmp.Diff([]string{"image " + digestOf(t, here), "image " + digest, "tag v1 " + digest}, got.facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	if len(got.skipped) != 1 || !strings.Contains(got.skipped[0], digestOf(t, gone)) {
		t.Errorf("skipped = %q, want the missing image", got.skipped)
	}
}

func TestOneTagOnly(t *testing.T) {
	w := newWorld(t)
	w.push("v1", image(t, "1", nil))
	digest := w.push("v2", image(t, "2", nil))
	got, err := w.read(w.url+"?tag=v2", "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"image " + digest, "tag v2 " + digest}, got.facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	w.delete("v2")
	got, err = w.read(w.url+"?tag=v2", got.cursor)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"deleted v2 " + digest}, got.facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
}

func TestCancelled(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.push(fmt.Sprint("v", i), image(t, fmt.Sprint(i), nil))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var last error
	events := 0
	for _, err := range source(t, w.url).Observe(ctx, "") {
		if last = err; err == nil {
			events++
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("the read ended with %v, want %v", last, context.Canceled)
	}
	if events == 0 || events > 2 {
		t.Errorf("%d events; want those in hand when it was cancelled", events)
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"oci://localhost:5000/ml/trainer":          "oci://localhost:5000/ml/trainer",
		"oci://ghcr.io/a/b?tag=v2&tag=v1&tag=v2":   "oci://ghcr.io/a/b?tag=v1&tag=v2",
		"oci://docker.io/alpine":                   "oci://index.docker.io/library/alpine",
		"oci://index.docker.io/library/alpine?":    "oci://index.docker.io/library/alpine",
		"oci://registry.example:5000/x/y/z?tag=_a": "oci://registry.example:5000/x/y/z?tag=_a",
	} {
		s, err := Parse(in)
		if err != nil {
			t.Errorf("Parse(%q): %v", in, err)
			continue
		}
		if got := s.URL(); got != want {
			t.Errorf("Parse(%q).URL() = %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{
		"", "oci:", "oci://", "oci://host.example", "oci://host.example/", "oci:host/x", "https://host.example/x", "oci://notahost/x",
		"oci://user:pw@host.example/x", "oci://host.example/x:v1", "oci://host.example/x@sha256:00", "oci://host.example/X",
		"oci://host.example/x?tag=a/b", "oci://host.example/x?tags=a", "oci://host.example/x#v1", "oci://host.example/x?tag=%zz",
		"oci://host.example/../x", "oci://%zz/x",
	} {
		if s, err := Parse(in); err == nil {
			t.Errorf("Parse(%q) = %s, want an error", in, s.URL())
		} else if strings.Contains(err.Error(), "pw") {
			t.Errorf("Parse(%q) = %v, which tells the password", in, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"oci://localhost:5000/ml/trainer", "oci://ghcr.io/a/b?tag=v1", "oci://docker.io/alpine", "oci://[::1]:5000/a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := Parse(in)
		if err != nil {
			return
		}
		again, err := Parse(s.URL())
		if err != nil {
			t.Fatalf("Parse(%q).URL() = %q, which does not parse: %v", in, s.URL(), err)
		}
		if again.URL() != s.URL() {
			t.Errorf("Parse(%q).URL() = %q, and of that %q", in, s.URL(), again.URL())
		}
	})
}

func FuzzCursor(f *testing.F) {
	digest := strings.Repeat("A", 43)
	for _, seed := range []string{
		"", `{"v":1,"tags":{}}`, `{"v":1,"tags":{"v1":["","` + digest[:42] + `E"]}}`, `{"v":2}`, `{"v":1,"tags":{"a":[]}}`, `{"v":1}x`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		c, err := parseCursor(in)
		if err != nil {
			return
		}
		text, err := c.encode()
		if err != nil {
			return // too long
		}
		again, err := parseCursor(text)
		if err != nil {
			t.Fatalf("encoded %q as %q, which does not parse: %v", in, text, err)
		}
		if diff := cmp.Diff(c, again, cmp.AllowUnexported(tagState{})); diff != "" {
			t.Errorf("cursor changed when encoded and parsed (-before +after):\n%s", diff)
		}
	})
}
