package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/keep"
	"github.com/retrace-ledger/retrace/ingest/snapshot"
	"github.com/retrace-ledger/retrace/schema"
)

// kept is a ledger with a folder that is watched and has keep rules.
type kept struct {
	*book
	dir, source string
	runner      *ingest.Runner
}

func newKept(t *testing.T) *kept {
	t.Helper()
	ctx, home := t.Context(), filepath.Join(t.TempDir(), "ledger")
	if _, err := createLedger(home, "", "", ""); err != nil {
		t.Fatal(err)
	}
	b, err := openLocal(ctx, home)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	k := &kept{book: b, dir: t.TempDir()}
	source, name, err := snapshot.Kind().Open(ctx, ingest.Place{URL: snapshot.URL(k.dir), With: []byte(`{"keep":{"last":2}}`)}, b.env())
	if err != nil {
		t.Fatal(err)
	}
	k.source = name
	k.runner = ingest.NewRunner(source, name, b.log, b.observer, &ingest.Options{Submitter: b.observer.ID()})
	return k
}

// take writes text into the folder and has the watcher look.
func (k *kept) take(t *testing.T, text string) schema.Key {
	t.Helper()
	if err := os.WriteFile(filepath.Join(k.dir, "f"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := k.runner.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	cursor, err := k.log.Cursor(t.Context(), schema.DefaultNamespace, k.source)
	if err != nil {
		t.Fatal(err)
	}
	key, err := snapshot.At(cursor)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (k *kept) keepAndCollect(t *testing.T) content.Collected {
	t.Helper()
	if _, err := k.keep(t.Context(), k.source, keep.Rules{Last: 2}); err != nil {
		t.Fatal(err)
	}
	c, err := k.store.(releasing).Collect(t.Context(), k.needed)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (k *kept) has(t *testing.T, key schema.Key) bool {
	t.Helper()
	ok, err := k.store.Has(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// What no rule keeps goes, but for what a person took, what a recorded step
// used, and files that one used; that it went is recorded, once, and gaps say so.
func TestKeep(t *testing.T) {
	t.Parallel()
	k := newKept(t)
	ctx := t.Context()
	var keys []schema.Key
	for i := range 6 {
		keys = append(keys, k.take(t, fmt.Sprint("state ", i)))
		if i == 1 { // by hand
			if _, _, err := snapshot.Take(ctx, k.store, k.dir, "", snapshot.Options{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Steps elsewhere used the third folder and the file of the fourth.
	file := schema.BytesKey([]byte("state 3"))
	for i, used := range []schema.Key{keys[2], file} {
		s, err := schema.NewStatement(schema.AttestationV1, schema.Attestation{Claim: fmt.Sprint("used ", i)}, schema.Descriptor{Name: "input", Digest: schema.DigestSet{used.Algorithm(): used.Hex()}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.record(ctx, "test", []schema.Statement{s}); err != nil {
			t.Fatal(err)
		}
	}
	size := k.log.Size()
	c := k.keepAndCollect(t)
	if c.Folders != 2 || c.Needed != 1 {
		t.Errorf("Collect = %+v, want 2 snapshots gone and one file needed", c)
	}
	want := []bool{false, true, true, false, true, true}
	for i, key := range keys {
		if got := k.has(t, key); got != want[i] {
			t.Errorf("snapshot %d is kept: %v, want %v", i, got, want[i])
		}
	}
	if !k.has(t, file) {
		t.Errorf("a file that an entry mentions is gone")
	}
	if n := k.log.Size() - size; n != 1 {
		t.Errorf("%d entries were recorded, want one release", n)
	}
	if k.keepAndCollect(t); k.log.Size() != size+1 {
		t.Errorf("keeping again recorded %d entries more, want none", k.log.Size()-size-1)
	}
	if ids := k.gaps(t, keys[0]); !slices.Contains(ids, "content-released") || slices.Contains(ids, "content-missing") {
		t.Errorf("gaps of a released snapshot = %v, want content-released", ids)
	}
	// What comes back is a fact, is kept, and goes again as a fact.
	if back := k.take(t, "state 0"); back != keys[0] || !k.has(t, back) {
		t.Errorf("the folder went back to %s and %s is kept: %v", keys[0], back, k.has(t, back))
	}
	if ids := k.gaps(t, keys[0]); slices.Contains(ids, "content-released") {
		t.Errorf("gaps of a snapshot that was taken again = %v", ids)
	}
	k.take(t, "state 7")
	k.take(t, "state 8")
	if k.keepAndCollect(t); k.has(t, keys[0]) {
		t.Errorf("what came back and is older than the last two is kept still")
	}
}

func (k *kept) gaps(t *testing.T, key schema.Key) []string {
	t.Helper()
	if err := k.graph.Follow(t.Context(), k.log); err != nil {
		t.Fatal(err)
	}
	v, err := k.view(0, "")
	if err != nil {
		t.Fatal(err)
	}
	ref, err := v.Resolve(string(key))
	if err != nil {
		t.Fatal(err)
	}
	gaps, err := v.Gaps(t.Context(), ref, k.held)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, g := range gaps {
		ids = append(ids, g.ID)
	}
	return ids
}

// failing is a store that ends before it lets anything go.
type failing struct{ *content.Store }

var errCrash = errors.New("here it ends")

func (failing) Release(context.Context, string, []schema.Key) error { return errCrash }

// When the ledger says that a snapshot goes and the process ends before the store
// let it go, the next keeping does, and records nothing more.
func TestKeepCrash(t *testing.T) {
	t.Parallel()
	k := newKept(t)
	first := k.take(t, "a")
	k.take(t, "b")
	k.take(t, "c")
	whole := k.store.(*content.Store)
	k.store = failing{whole}
	if _, err := k.keep(t.Context(), k.source, keep.Rules{Last: 2}); !errors.Is(err, errCrash) {
		t.Fatalf("keep = %v, want the crash", err)
	}
	size := k.log.Size()
	if !k.has(t, first) || slices.Contains(k.gaps(t, first), "content-released") {
		t.Errorf("what was not let go yet is there, and no gap")
	}
	k.store = whole
	if k.keepAndCollect(t); k.has(t, first) {
		t.Errorf("the next keeping did not let it go")
	}
	if k.log.Size() != size {
		t.Errorf("%d entries more were recorded, want none", k.log.Size()-size)
	}
}
