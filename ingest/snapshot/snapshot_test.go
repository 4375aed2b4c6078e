package snapshot_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/ingesttest"
	"github.com/retrace-ledger/retrace/ingest/snapshot"
	"github.com/retrace-ledger/retrace/schema"
)

func newStore(t *testing.T, exclude ...string) *content.Store {
	t.Helper()
	s, err := content.Open(t.Context(), filepath.Join(t.TempDir(), "content"), &content.Options{Exclude: exclude})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, store *content.Store, dir string) ingest.Source {
	t.Helper()
	src, name, err := snapshot.Kind().Open(t.Context(), ingest.Place{URL: "dir://" + dir}, ingest.Env{Content: store})
	if err != nil {
		t.Fatal(err)
	}
	if name != snapshot.URL(dir) {
		t.Errorf("Open names the source %s, want %s", name, snapshot.URL(dir))
	}
	return src
}

func TestLaw(t *testing.T) {
	store := newStore(t)
	ingesttest.Test(t, func(t *testing.T) *ingesttest.World {
		dir := t.TempDir()
		put(t, filepath.Join(dir, "a b/c.csv"), "1\n")
		put(t, filepath.Join(dir, "d.csv"), "2\n")
		if err := os.Symlink("a b/c.csv", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		n := 0
		return &ingesttest.World{
			Open: func(t *testing.T) ingest.Source { return open(t, store, dir) },
			Change: func(t *testing.T) {
				n++
				put(t, filepath.Join(dir, "d.csv"), fmt.Sprintf("changed %d\n", n))
			},
			Break: func(t *testing.T) {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			},
			Fetcher: snapshot.Kind().NewFetcher(ingest.Env{Content: store}),
			// The files of a folder are resources of another kind.
			Fetchable: func(r schema.Resource) bool { return r.Key.Algorithm() == schema.RetraceTree1 },
		}
	})
}

// A folder that goes back to what it was is a new fact, and one that stays is
// none.
func TestThereAndBack(t *testing.T) {
	t.Parallel()
	store, dir := newStore(t), t.TempDir()
	file := filepath.Join(dir, "f")
	cursor, seen := "", map[string]bool{}
	var trees []schema.Key
	for i, text := range []string{"A", "A", "B", "A"} {
		put(t, file, text)
		st, next, err := snapshot.Take(t.Context(), store, dir, cursor, snapshot.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			if st.Type != "" || next != cursor {
				t.Errorf("the same folder again gives %+v", st)
			}
			continue
		}
		raw, err := st.Encode()
		if err != nil || seen[string(raw)] {
			t.Errorf("state %d gives a statement that was given before (%v)", i, err)
		}
		seen[string(raw)] = true
		trees = append(trees, st.Subject[0].Key())
		cursor = next
	}
	if len(trees) != 3 || trees[0] != trees[2] || trees[0] == trees[1] {
		t.Errorf("trees = %v, want the third to be the first", trees)
	}
}

func TestStatement(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, filepath.Join(dir, ".retrace/ledger"), "x")
	put(t, filepath.Join(dir, "f"), "12345")
	store := newStore(t, filepath.Join(dir, ".retrace"))
	st, _, err := snapshot.Take(t.Context(), store, dir, "", snapshot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var s schema.Snapshot
	if err := schema.DecodePredicate(st, true, &s); err != nil {
		t.Fatal(err)
	}
	if s.Count != 1 || s.Bytes != 5 || len(s.Files) != 1 || s.Files[0].Path != "f" || s.Store != "store" {
		t.Errorf("snapshot = %+v, want one file of 5 bytes", s)
	}
	if len(s.Excluded) != 1 || s.Excluded[0] != ".retrace" {
		t.Errorf("excluded = %v, want the ledger's folder", s.Excluded)
	}
}

// The first statement of a folder lists its files; later ones do while the list
// is small, so that thousands of them are.
func TestListedAgain(t *testing.T) {
	t.Parallel()
	store, dir := newStore(t), t.TempDir()
	for i := range 1000 {
		put(t, filepath.Join(dir, fmt.Sprint(i)), "x")
	}
	var cursor string
	for i, want := range []int{1000, 0} {
		put(t, filepath.Join(dir, "0"), fmt.Sprint("state ", i))
		st, next, err := snapshot.Take(t.Context(), store, dir, cursor, snapshot.Options{})
		if err != nil {
			t.Fatal(err)
		}
		cursor = next
		var s schema.Snapshot
		if err := schema.DecodePredicate(st, true, &s); err != nil {
			t.Fatal(err)
		}
		if len(s.Files) != want || s.Count != 1000 {
			t.Errorf("statement %d lists %d of %d files, want %d of 1000", i, len(s.Files), s.Count, want)
		}
		if raw, err := st.Encode(); err != nil || i > 0 && len(raw) > 1024 {
			t.Errorf("statement %d has %d bytes (%v)", i, len(raw), err)
		}
	}
}

func TestManyFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	long := strings.Repeat("x", 200)
	for i := range 9000 {
		put(t, filepath.Join(dir, fmt.Sprintf("%s%d", long, i)), "")
	}
	st, _, err := snapshot.Take(t.Context(), newStore(t), dir, "", snapshot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := st.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) > schema.MaxEnvelope*3/4-4096 {
		t.Errorf("the statement has %d bytes, more than an envelope takes", len(raw))
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	store, dir := newStore(t), t.TempDir()
	put(t, filepath.Join(dir, "file"), "x")
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: "fifo", filepath.Join(dir, "file"): "not a folder", filepath.Join(dir, "absent"): "absent"} {
		for _, err := range open(t, store, path).Observe(t.Context(), "") {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Observe(%s) = %v, want an error with %q", path, err, want)
			}
		}
	}
	for _, raw := range []string{"dir://host/path", "dir:path", "dir:///p?x=1", "dir:///p#f", "dir://u@/p", "dir://", "file:///p", "dir:///%zz"} {
		if _, _, err := snapshot.Kind().Open(t.Context(), ingest.Place{URL: raw}, ingest.Env{Content: store}); err == nil {
			t.Errorf("Open(%q) succeeded, want an error", raw)
		}
	}
	if _, _, err := snapshot.Kind().Open(t.Context(), ingest.Place{URL: "dir:///p"}, ingest.Env{}); err == nil {
		t.Errorf("Open without a content store succeeded")
	}
}

func FuzzCursor(f *testing.F) {
	sum := strings.Repeat("ab", 32)
	f.Add(`{"v":1,"tree":"retraceTree1:` + sum + `","previous":"` + sum + `"}`)
	f.Add(`{"v":2}`)
	f.Add(`{`)
	dir := f.TempDir()
	store, err := content.Open(f.Context(), filepath.Join(f.TempDir(), "content"), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { store.Close(context.Background()) })
	f.Fuzz(func(t *testing.T, cursor string) {
		st, next, err := snapshot.Take(t.Context(), store, dir, cursor, snapshot.Options{})
		if err != nil {
			if st.Type != "" || next != "" {
				t.Errorf("Take(%q) failed and gave %q, %q", cursor, st.Type, next)
			}
			return
		}
		if _, again, err := snapshot.Take(t.Context(), store, dir, next, snapshot.Options{}); err != nil || again != next {
			t.Errorf("Take(%q) gave the cursor %q, which gives %q, %v", cursor, next, again, err)
		}
	})
}
