package lineage_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// chain is a log in which d was made from c, c from b and b from a, by entries
// 3, 2 and 1.
func chain(t *testing.T) *lineagetest.Log {
	log := lineagetest.New(t)
	log.Add(run(t, "one", "b", "a"))
	log.Add(run(t, "two", "c", "b", "only entry two says so"))
	log.Add(run(t, "three", "d", "c"))
	return log
}

// TestErasureRebuilds follows a log on, of which an entry was erased that the
// index had followed.
func TestErasureRebuilds(t *testing.T) {
	log := chain(t)
	dir := filepath.Join(t.TempDir(), "lineage")
	g := log.Open(t, dir)
	if err := g.Follow(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	early := at(t, g, lineage.At{})
	if diff := cmp.Diff([]string{"b<a", "c<b", "c<only entry two says so", "d<c"}, slices.Sorted(slices.Values(edges(answer(t, early, ref("d"), lineage.LineageOptions{}))))); diff != "" {
		t.Fatalf("before: %s", diff)
	}
	by := log.EraseFor(2, "a request", lineagetest.FileKey("b"), lineagetest.FileKey("c"))
	if err := g.Follow(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	if _, err := early.NamesOf(lineagetest.FileKey("d")); !errors.Is(err, lineage.ErrRebuilt) {
		t.Errorf("a view of before reads the index of after: %v", err)
	}
	for name, v := range map[string]*lineage.View{"rebuilt": at(t, g, lineage.At{}), "built elsewhere": log.View(t)} {
		l := answer(t, v, ref("d"), lineage.LineageOptions{})
		if diff := cmp.Diff([]string{"d<c"}, edges(l)); diff != "" {
			t.Errorf("%s: edges of d: %s", name, diff)
		}
		hole := lineage.Hole{Entry: 2, By: by, Reason: "a request", Asked: "Ada"}
		if diff := cmp.Diff(map[schema.Key][]lineage.Hole{lineagetest.FileKey("c"): {hole}}, l.Holes); diff != "" || l.Bodiless != 1 {
			t.Errorf("%s: holes %s, and %d entries without a body; want 1", name, diff, l.Bodiless)
		}
		if got, ok := v.ErasureOf(2); !ok || got != hole {
			t.Errorf("%s: ErasureOf(2) = %+v, %v", name, got, ok)
		}
		if v.State(lineagetest.FileKey("c")) != schema.Erased || v.State(lineagetest.FileKey("d")) != schema.Present {
			t.Errorf("%s: c is %s, d is %s", name, v.State(lineagetest.FileKey("c")), v.State(lineagetest.FileKey("d")))
		}
		if _, err := v.Resolve(ref("only entry two says so")); !errors.Is(err, lineage.ErrNotFound) {
			t.Errorf("%s: what only the erased entry stated is found: %v", name, err)
		}
		gaps, err := v.Gaps(t.Context(), resolve(t, v, ref("d")), nil)
		if err != nil || !slices.ContainsFunc(gaps, func(g lineage.Gap) bool {
			return g.ID == "erased" && g.Key == lineagetest.FileKey("c") && g.Entry == by && g.Detail == "entry 2: a request"
		}) {
			t.Errorf("%s: gaps of d are %+v (%v); want erased", name, gaps, err)
		}
	}
	// As of before the erasure, the body is not there either, and is counted.
	before := at(t, g, lineage.At{Size: by})
	l := answer(t, before, ref("d"), lineage.LineageOptions{})
	if diff := cmp.Diff([]string{"d<c"}, edges(l)); diff != "" || l.Bodiless != 1 || len(l.Holes) != 0 {
		t.Errorf("as of before: edges %s, %d without a body, holes %v", diff, l.Bodiless, l.Holes)
	}
	if err := g.Compare(t.Context(), log.Graph(t)); err != nil {
		t.Errorf("the rebuilt index is not the one that is built elsewhere: %v", err)
	}
	if _, err := os.Stat(dir + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the rebuilt index left %s.new: %v", dir, err)
	}
	// It goes on, and answers alike when it is opened again.
	log.Add(run(t, "four", "e", "d"))
	if err := g.Follow(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	want := everything(t, log.View(t))
	if diff := cmpDiff(want, everything(t, at(t, g, lineage.At{}))); diff != "" {
		t.Errorf("going on: %s", diff)
	}
}

// TestErasureLeavesNoBytes reads the files of an index that was rebuilt.
func TestErasureLeavesNoBytes(t *testing.T) {
	log := chain(t)
	dir := filepath.Join(t.TempDir(), "lineage")
	follow := func() {
		t.Helper()
		g, err := lineage.Open(dir, log, verify.Signers, verify.Trusted)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(g.Follow(t.Context(), log), g.Close()); err != nil {
			t.Fatal(err)
		}
	}
	follow()
	if !holds(t, dir, "only entry two says so") {
		t.Fatal("what the entry says is in no file of the index: this test tests nothing")
	}
	log.EraseFor(2, "a request")
	follow()
	if holds(t, dir, "only entry two says so") {
		t.Error("the rebuilt index holds what the erased entry said")
	}
}

func holds(t *testing.T, dir, text string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		found = found || bytes.Contains(raw, []byte(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestErasureByOthers follows erasures that the observer did not sign: anybody
// can hand one in, and they mean nothing.
func TestErasureByOthers(t *testing.T) {
	log := chain(t)
	g := log.Graph(t)
	about := file("whatever")
	log.AddUnsigned(lineagetest.Statement(t, schema.ErasureV1, schema.Erasure{Index: 2, Reason: "x", Resources: []schema.Key{lineagetest.FileKey("c")}}, about))
	log.AddBy(lineagetest.Key(t, 9), lineagetest.Statement(t, schema.ErasureV1, schema.Erasure{Index: 2, Reason: "y"}, about))
	early := at(t, g, lineage.At{})
	if err := g.Follow(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	if _, err := early.NamesOf(lineagetest.FileKey("d")); err != nil {
		t.Errorf("the index was rebuilt: %v", err)
	}
	v := at(t, g, lineage.At{})
	if _, ok := v.ErasureOf(2); ok || v.State(lineagetest.FileKey("c")) != schema.Present || v.Bodiless() != 0 {
		t.Errorf("an erasure of a stranger counts")
	}
	if got := edges(answer(t, v, ref("d"), lineage.LineageOptions{})); len(got) != 4 {
		t.Errorf("edges of d = %v", got)
	}
}

// TestReadWhileRebuilding asks for everything while an index is rebuilt: each
// answer is that of before or that of after, or says that it cannot be given.
func TestReadWhileRebuilding(t *testing.T) {
	log := randomWorld(t, 12, 60)
	g := log.Open(t, filepath.Join(t.TempDir(), "lineage"))
	if err := g.Follow(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	before := everything(t, at(t, g, lineage.At{}))
	erased := log.Prefix(log.Size())
	erased.EraseFor(30, "a request")
	after := everything(t, erased.View(t))
	done := make(chan error, 1)
	go func() { done <- g.Follow(t.Context(), erased) }()
	for following := true; following; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			following = false
		default:
		}
		v := at(t, g, lineage.At{})
		got := everything(t, v)
		if _, err := v.NamesOf("sha256:00"); errors.Is(err, lineage.ErrRebuilt) {
			continue // it was taken away meanwhile, and said so
		}
		if cmpDiff(before, got) != "" && cmpDiff(after, got) != "" {
			t.Fatalf("an answer of neither before nor after:\n%s", cmpDiff(after, got))
		}
	}
	if diff := cmpDiff(after, everything(t, at(t, g, lineage.At{}))); diff != "" {
		t.Errorf("after: %s", diff)
	}
}

// TestSinceWithErasedEntries looks for entries by time among such that have
// none.
func TestSinceWithErasedEntries(t *testing.T) {
	log := randomWorld(t, 13, 40)
	for _, index := range []int64{5, 19, 20, 21, 38} {
		log.EraseFor(index, "x")
	}
	v := log.View(t)
	for since := range log.Size() {
		var got []int64
		for e, err := range v.Entries(t.Context(), 0, lineage.Filter{Since: lineagetest.RecordedAt(since)}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.State == schema.Present {
				got = append(got, e.Index)
			}
		}
		var want []int64
		for index := since; index < log.Size(); index++ {
			if !slices.Contains([]int64{5, 19, 20, 21, 38}, index) {
				want = append(want, index)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("since entry %d: %v, want %v", since, got, want)
		}
	}
}
