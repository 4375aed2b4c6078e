package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

// remote is a ledger as somebody else's log.
type remote struct {
	l         *ledger.Ledger
	note      []byte                  // instead of the newest checkpoint
	tilesOnly bool                    // no bodies are served
	hide      func(schema.Entry) bool // bodies that the reader may not have
	entry     func(index int64) error // called before each entry is given
}

func (r *remote) Checkpoint(context.Context) ([]byte, error) {
	if r.note != nil {
		return r.note, nil
	}
	return r.l.Checkpoint(), nil
}

func (r *remote) Tile(_ context.Context, t tlog.Tile) ([]byte, error) {
	w := httptest.NewRecorder()
	r.l.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+torchwood.TilePath(t), nil))
	if w.Code != 200 {
		return nil, fmt.Errorf("%s: %w", torchwood.TilePath(t), ledger.ErrNotFound)
	}
	return w.Body.Bytes(), nil
}

func (r *remote) Entries(ctx context.Context, from, to int64) iter.Seq2[schema.Entry, error] {
	return func(yield func(schema.Entry, error) bool) {
		if r.tilesOnly {
			yield(schema.Entry{}, ledger.ErrNoBodies)
			return
		}
		for e, err := range r.l.Entries(ctx, from) {
			if err == nil && e.Index >= to {
				return
			}
			if err == nil && r.entry != nil {
				err = r.entry(e.Index)
			}
			if err == nil && r.hide != nil && r.hide(e) {
				e = schema.Entry{Index: e.Index, Commitment: e.Commitment, State: schema.Withheld}
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// mirrored brings dir up to r.
func mirrored(t testing.TB, w *ledgertest.World, dir string, r *remote) ledger.Mirrored {
	t.Helper()
	got, err := ledger.Mirror(context.Background(), dir, w.Verifier, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	ledgertest.Check(t, dir, w.Verifier)
	return got
}

// TestMirror follows a log through sizes at and around the edges of tiles.
func TestMirror(t *testing.T) {
	t.Parallel()
	w := ledgertest.New(t)
	dir := t.TempDir()
	for _, size := range []int{1, 2, 255, 256, 257, 700, 1024} {
		before := int(w.Size())
		fill(t, w, size, 97)
		got := mirrored(t, w, dir, &remote{l: w.Ledger})
		if want := int64(size - before); got.Checkpoint.Size != int64(size) || size > 1 && got.New != want {
			t.Errorf("size %d with %d new, want %d with %d", got.Checkpoint.Size, got.New, size, want)
		}
	}
	sameBodies(t, w, dir, bodies(t, w.Ledger))
	if got := mirrored(t, w, dir, &remote{l: w.Ledger}); got.New != 0 {
		t.Errorf("%d new where nothing is", got.New)
	}
}

// TestMirrorWithheld mirrors bodies that a reader may not have, and a log that
// serves none.
func TestMirrorWithheld(t *testing.T) {
	t.Parallel()
	w := filled(t, 600, 200)
	want := leafHashes(t, w.Ledger)
	for name, r := range map[string]*remote{
		"some":       {l: w.Ledger, hide: func(e schema.Entry) bool { return e.Index%3 == 1 }},
		"tiles only": {l: w.Ledger, tilesOnly: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mirrored(t, w, dir, r)
			l, err := ledger.OpenReadOnly(dir, w.Verifier, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			got := leafHashes(t, l)
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("leaf %d is another", i)
				}
			}
			for _, index := range []int64{0, 1, 255, 599} {
				e, err := l.Entry(context.Background(), index)
				if want := r.tilesOnly || index%3 == 1; err != nil || (e.State == schema.Withheld) != want {
					t.Errorf("entry %d is %s, %v; want it withheld: %v", index, e.State, err, want)
				}
				p, err := l.Proof(context.Background(), index)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := p.Verify(e.Commitment, w.Verifier); err != nil {
					t.Errorf("a proof out of the mirror: %v", err)
				}
			}
		})
	}
}

// TestMirrorKilled takes the state that a kill would leave, at many moments of
// a first pass and of a later one. Fsck of it reports nothing but that it is
// not finished, it answers from what was published, and the next pass goes on.
func TestMirrorKilled(t *testing.T) {
	t.Parallel()
	w := filled(t, 500, 100)
	dir := t.TempDir()
	var killed []string
	from := int64(0)
	kill := func(index int64) error {
		if index == from+1 || index%211 == 0 {
			killed = append(killed, ledgertest.Copy(t, dir))
		}
		return nil
	}
	r := &remote{l: w.Ledger, entry: kill}
	mirrored(t, w, dir, r)
	first := len(killed)
	// A body of this size makes the receiver commit before the end.
	for i := range 3 {
		mustAppend(t, w.Ledger, batch(claims(t, strings.Repeat(fmt.Sprint(i), 2<<20))...))
	}
	fill(t, w, 1400, 300)
	from = 500
	mirrored(t, w, dir, r)
	if first == 0 || len(killed) <= first+1 {
		t.Fatalf("%d and %d moments", first, len(killed)-first)
	}
	want := bodies(t, w.Ledger)
	beyond := false
	for i, dir := range killed {
		if i < first {
			if _, err := ledger.OpenReadOnly(dir, w.Verifier, nil); !errors.Is(err, ledger.ErrUnfinished) {
				t.Errorf("opening a mirror that never ended a pass: %v, want ErrUnfinished", err)
			}
		} else {
			ledgertest.Check(t, dir, w.Verifier)
			sameBodies(t, w, dir, want[:500])
		}
		skipped := int64(-1)
		again := &remote{l: w.Ledger, entry: func(index int64) error {
			if skipped < 0 {
				skipped = index
			}
			return nil
		}}
		mirrored(t, w, dir, again)
		sameBodies(t, w, dir, want)
		beyond = beyond || skipped > 500
	}
	if !beyond {
		t.Error("no pass went on behind entries that were not published")
	}
}

// TestMirrorFork mirrors one history and is then shown another, by the same
// key: of the same size, larger, and smaller.
func TestMirrorFork(t *testing.T) {
	t.Parallel()
	w := filled(t, 300, 100)
	for name, size := range map[string]int{"same size": 300, "larger": 520, "smaller": 280} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			mirrored(t, w, dir, &remote{l: w.Ledger})
			other, err := ledger.Open(sibling(t, w, size), w.Signer, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			ours, theirs := w.Checkpoint(), other.Checkpoint()
			for range 2 { // it is told each time
				_, err = ledger.Mirror(context.Background(), dir, w.Verifier, &remote{l: other}, nil)
				var fork *ledger.ForkError
				if !errors.As(err, &fork) || !bytes.Equal(fork.Old, ours) || !bytes.Equal(fork.New, theirs) {
					t.Fatalf("mirroring a fork: %v, want a *ForkError with both notes", err)
				}
			}
			evidence, err := os.ReadFile(filepath.Join(dir, "fork"))
			if err != nil || !bytes.Contains(evidence, ours) || !bytes.Contains(evidence, theirs) {
				t.Errorf("the evidence is %q, %v; want both notes", evidence, err)
			}
			ledgertest.Check(t, dir, w.Verifier)
			sameBodies(t, w, dir, bodies(t, w.Ledger))
		})
	}
}

// TestMirrorBehind is shown an older state of the same history.
func TestMirrorBehind(t *testing.T) {
	t.Parallel()
	w := filled(t, 100, 50)
	old := w.Checkpoint()
	fill(t, w, 300, 100)
	dir := t.TempDir()
	mirrored(t, w, dir, &remote{l: w.Ledger})
	var behind *ledger.BehindError
	if _, err := ledger.Mirror(context.Background(), dir, w.Verifier, &remote{l: w.Ledger, note: old}, nil); !errors.As(err, &behind) {
		t.Errorf("mirroring an older state: %v, want a *BehindError", err)
	}
	ledgertest.Check(t, dir, w.Verifier)
}

// TestMirrorRefuses: another log, a body that is not in the tree, and a ledger
// of its own in the place of the copy.
func TestMirrorRefuses(t *testing.T) {
	t.Parallel()
	w := filled(t, 10, 5)
	other := filled(t, 10, 5)
	if _, err := ledger.Mirror(context.Background(), t.TempDir(), w.Verifier, &remote{l: other.Ledger}, nil); err == nil {
		t.Error("a log with another key was mirrored")
	}
	dir := keep(t, w)
	fill(t, w, 20, 5)
	fill(t, other, 20, 5)
	if _, err := ledger.Mirror(context.Background(), dir, w.Verifier, &remote{l: w.Ledger}, nil); !errors.Is(err, ledger.ErrExists) {
		t.Errorf("mirroring into a ledger: %v, want ErrExists", err)
	}
	r := &remote{l: w.Ledger}
	liar := &lying{r, other.Ledger}
	if _, err := ledger.Mirror(context.Background(), t.TempDir(), w.Verifier, liar, nil); err == nil || !strings.Contains(err.Error(), "which its signed tree does not hold there") {
		t.Errorf("mirroring bodies of another log: %v", err)
	}
}

// lying gives the bodies of another log.
type lying struct {
	*remote
	bodies *ledger.Ledger
}

func (l *lying) Entries(ctx context.Context, from, to int64) iter.Seq2[schema.Entry, error] {
	return (&remote{l: l.bodies}).Entries(ctx, from, to)
}
