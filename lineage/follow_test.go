package lineage_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync/atomic"
	"testing"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

// rebuilt fails unless g equals an index of log built from nothing.
func rebuilt(t *testing.T, g *lineage.Graph, log *lineagetest.Log) {
	t.Helper()
	if err := g.Compare(t.Context(), log.Graph(t)); err != nil {
		t.Errorf("the index differs from one built again: %v", err)
	}
}

func TestFollowTwice(t *testing.T) {
	log := randomWorld(t, 5, 100)
	g := log.Graph(t)
	for range 2 {
		if err := g.Follow(t.Context(), log); err != nil {
			t.Fatal(err)
		}
	}
	if g.Size() != log.Size() {
		t.Errorf("Size = %d, want %d", g.Size(), log.Size())
	}
	rebuilt(t, g, log)
}

// TestFollowInPieces follows the log as it grows, with the index closed and
// opened in between.
func TestFollowInPieces(t *testing.T) {
	log := randomWorld(t, 6, 300)
	dir := t.TempDir()
	for size := int64(1); size < log.Size(); size += 37 {
		g, err := lineage.Open(dir, log.Prefix(size), noSigners, parseAny)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Follow(t.Context(), log.Prefix(size)); err != nil {
			t.Fatal(err)
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
	}
	g, err := lineage.Open(dir, log, noSigners, parseAny)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := g.Follow(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	whole, err := lineage.Open(t.TempDir(), log, noSigners, parseAny)
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	if err := whole.Follow(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	if err := g.Compare(t.Context(), whole); err != nil {
		t.Error(err)
	}
}

func noSigners(schema.Envelope, []schema.PublicKey) []string { return nil }

func parseAny(schema.Trust) (schema.PublicKey, error) { return schema.PublicKey{ID: "any"}, nil }

// TestDeletedIndexComesBack deletes the index, and one that belongs to another
// log.
func TestDeletedIndexComesBack(t *testing.T) {
	log := randomWorld(t, 7, 50)
	dir := t.TempDir()
	g, err := lineage.Open(dir, log, noSigners, parseAny)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Follow(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	other := randomWorld(t, 8, 70)
	// A log that is not the one followed, and one that is shorter.
	for _, next := range []*lineagetest.Log{other, other.Prefix(10)} {
		g := next.Open(t, dir)
		if g.Size() != 0 {
			t.Errorf("log of %d entries: the index of another log answers for %d entries", next.Size(), g.Size())
		}
		if err := g.Follow(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		rebuilt(t, g, next)
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	g = log.Open(t, dir)
	if err := g.Follow(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	rebuilt(t, g, log)
}

// bigSnapshot states more than one transaction of the index holds.
func bigSnapshot(t *testing.T, name string) schema.Statement {
	t.Helper()
	var files []schema.SnapshotFile
	for i := range schema.MaxSnapshotFiles {
		sum := sha256.Sum256([]byte(fmt.Sprint(name, i)))
		files = append(files, schema.SnapshotFile{Path: fmt.Sprintf("data/part-%05d.parquet", i), Type: "file", Size: 10, SHA256: hex.EncodeToString(sum[:])})
	}
	tree, err := schema.TreeDigest(files)
	if err != nil {
		t.Fatal(err)
	}
	return lineagetest.Statement(t, schema.SnapshotV1, schema.Snapshot{Source: "dir:///data", Count: len(files), Files: files},
		schema.Descriptor{Name: "data", Digest: schema.DigestSet{schema.RetraceTree1: tree}})
}

// failing is a log that ends with an error after some entries.
type failing struct {
	*lineagetest.Log
	after int64
}

var errCut = errors.New("cut")

func (f failing) Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error] {
	return func(yield func(schema.Entry, error) bool) {
		for e, err := range f.Log.Entries(ctx, from) {
			if e.Index >= f.after {
				yield(schema.Entry{}, errCut)
				return
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// TestInterruptedFollow interrupts by a log that fails, by a context that ends
// at each of the moments at which the index looks at it, and in the middle of
// an entry that needs several transactions.
func TestInterruptedFollow(t *testing.T) {
	log := lineagetest.New(t)
	log.Add(run(t, "first", "out", "in"))
	log.Add(bigSnapshot(t, "a"))
	log.Add(run(t, "second", "more", "out"))
	log.Add(bigSnapshot(t, "b"))
	log.Add(lineagetest.Model(t, "m", "1", "second", file("more")))
	want := log.Graph(t)

	g := log.Open(t, t.TempDir())
	if err := g.Follow(t.Context(), failing{log, 4}); !errors.Is(err, errCut) {
		t.Errorf("Follow of a log that fails: %v, want %v", err, errCut)
	}
	for looks := range 12 {
		ctx := &countdown{Context: t.Context()}
		ctx.left.Store(int64(looks))
		if err := g.Follow(ctx, log); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if size := g.Size(); size > log.Size() {
			t.Fatalf("the index is ahead of the log: %d", size)
		}
	}
	if err := g.Follow(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	if err := g.Compare(t.Context(), want); err != nil {
		t.Errorf("interrupted and continued: %v", err)
	}
}

// countdown is a context that is cancelled once it was looked at left times.
type countdown struct {
	context.Context
	left atomic.Int64
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// TestTornEntry leaves the keys of half an entry behind, as a process does that
// is killed between two transactions, and sees neither them nor a difference
// once the entry is followed.
func TestTornEntry(t *testing.T) {
	log := lineagetest.New(t)
	log.Add(run(t, "first", "out", "in"))
	log.Add(bigSnapshot(t, "a"))
	log.Add(run(t, "later", "late", "out"))
	want := log.Graph(t)

	dir := t.TempDir()
	g := log.Prefix(2).Open(t, dir)
	if err := g.Follow(t.Context(), log.Prefix(2)); err != nil {
		t.Fatal(err)
	}
	before := everything(t, at(t, g, lineage.At{}))
	if err := g.Tear(t.Context(), log, 2); err == nil {
		t.Fatal("the entry fitted one transaction: nothing was torn")
	}
	if g.Size() != 2 {
		t.Errorf("Size = %d after half an entry, want 2", g.Size())
	}
	if err := g.Compare(t.Context(), log.Prefix(2).Graph(t)); err == nil {
		t.Error("nothing was left behind: the test tears nothing")
	}
	if diff := cmpDiff(before, everything(t, at(t, g, lineage.At{}))); diff != "" {
		t.Errorf("half an entry is seen:\n%s", diff)
	}
	if err := g.Follow(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	if err := g.Compare(t.Context(), want); err != nil {
		t.Errorf("torn and continued: %v", err)
	}
}

func TestCompareNamesTheKey(t *testing.T) {
	log := randomWorld(t, 9, 20)
	a, b := log.Graph(t), log.Prefix(log.Size()-1).Graph(t)
	err := a.Compare(t.Context(), b)
	var diff *lineage.DifferenceError
	if !errors.As(err, &diff) || len(diff.Key) == 0 {
		t.Errorf("Compare of indexes of different size: %v", err)
	}
	if err := a.Compare(t.Context(), a); err != nil {
		t.Errorf("Compare with itself: %v", err)
	}
}

// TestUnreadableEntries checks that what cannot be read states nothing and
// stops nobody.
func TestUnreadableEntries(t *testing.T) {
	log := lineagetest.New(t)
	env, err := lineagetest.Key(t, 1).SignPayload("text/plain", []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	log.AddEnvelope(env, schema.DefaultNamespace)
	env, err = lineagetest.Key(t, 1).SignPayload(schema.PayloadType, []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"00"}}],"predicateType":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	log.AddEnvelope(env, schema.DefaultNamespace)
	log.Add(run(t, "r", "out", "in"))
	log.Add(run(t, "s", "erased", "in"))
	log.Erase(4, schema.Erased)
	v := log.View(t)
	for index, want := range map[int64]string{1: "not an in-toto statement", 2: "subject.0.digest", 3: "", 4: ""} {
		e, err := v.Entry(index)
		if err != nil {
			t.Fatal(err)
		}
		if (want == "") != (e.Unreadable == "") || !contains(e.Unreadable, want) {
			t.Errorf("entry %d is unreadable because %q, want %q", index, e.Unreadable, want)
		}
	}
	if e, err := v.Entry(4); err != nil || e.State != schema.Erased {
		t.Errorf("Entry(4) = %+v, %v; want it erased", e, err)
	}
	if _, err := v.Resolve(ref("erased")); !errors.Is(err, lineage.ErrNotFound) {
		t.Errorf("what only an erased entry states is found: %v", err)
	}
	if got := edges(answer(t, v, ref("out"), lineage.LineageOptions{})); len(got) != 1 {
		t.Errorf("edges of out = %v", got)
	}
}

func TestWait(t *testing.T) {
	log := randomWorld(t, 10, 20)
	g := log.Open(t, t.TempDir())
	done := make(chan error, 1)
	go func() { done <- g.Wait(t.Context(), log.Size()) }()
	if err := g.Follow(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Wait(ctx, log.Size()+1); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait for what never comes: %v", err)
	}
	var ahead *lineage.AheadError
	if _, err := g.View(lineage.At{Size: log.Size() + 1}); !errors.As(err, &ahead) {
		t.Errorf("View beyond the log: %v", err)
	}
}

// TestReadWhileFollowing asks one view the same again and again while the
// index goes on: it answers alike, and a view of the end is not fed by what was
// cached on the way.
func TestReadWhileFollowing(t *testing.T) {
	log := randomWorld(t, 11, 40)
	g := log.Open(t, t.TempDir())
	if err := g.Follow(t.Context(), log.Prefix(20)); err != nil {
		t.Fatal(err)
	}
	early := at(t, g, lineage.At{Size: 20})
	want := everything(t, early)
	done := make(chan error, 1)
	go func() {
		for size := int64(21); size <= log.Size(); size++ {
			if err := g.Follow(t.Context(), log.Prefix(size)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for following := true; following; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			following = false
		default:
		}
		if diff := cmpDiff(want, everything(t, early)); diff != "" {
			t.Fatalf("the answer as of 20 entries changed while the index went on:\n%s", diff)
		}
		everything(t, at(t, g, lineage.At{})) // caches what will change
	}
	if diff := cmpDiff(everything(t, log.View(t)), everything(t, at(t, g, lineage.At{}))); diff != "" {
		t.Errorf("read on the way, the index answers otherwise than a new one:\n%s", diff)
	}
}

// TestIndexOfAnotherVersion opens an index that an older or a newer program
// made: it is deleted and comes back.
func TestIndexOfAnotherVersion(t *testing.T) {
	log := randomWorld(t, 12, 30)
	for _, version := range []int{lineage.IndexVersion - 1, lineage.IndexVersion + 1} {
		dir := t.TempDir()
		g, err := openIn(t, dir, log)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(g.Follow(t.Context(), log), g.SetVersion(version), g.Close()); err != nil {
			t.Fatal(err)
		}
		g = log.Open(t, dir)
		if g.Size() != 0 {
			t.Errorf("an index of version %d answers for %d entries", version, g.Size())
		}
		if err := g.Follow(t.Context(), log); err != nil {
			t.Fatal(err)
		}
		rebuilt(t, g, log)
	}
}
