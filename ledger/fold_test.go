package ledger_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
)

// segments counts the segments in the store of a closed ledger.
func segments(t *testing.T, dir string) int {
	t.Helper()
	e, err := engine.InspectBadger(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	n := 0
	err = e.View(func(s engine.Snapshot) error {
		for _, err := range s.Ascend([]byte("b/"), []byte("b0")) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestFold appends one entry at a time, in one process and in many, and finds
// few segments and all entries. Readers that are in the middle stay there.
func TestFold(t *testing.T) {
	for _, test := range []struct{ entries, size, perProcess, want int }{
		{700, 600, 1 << 30, 256 + 3},
		{700, 600, 60, 256 + 3},
		{60, 20_000, 1, 26 + 3},
	} {
		t.Run(fmt.Sprint(test.perProcess), func(t *testing.T) {
			t.Parallel()
			w := ledgertest.New(t)
			var want []string
			for i := range test.entries {
				env := ledgertest.Claim(t, fmt.Sprintf("%d %0*d", i, test.size, i))
				want = append(want, string(env.Raw))
				mustAppend(t, w.Ledger, batch(env))
				if i%test.perProcess == test.perProcess-1 {
					reopen(t, w)
				}
			}
			next := 0
			for e, err := range w.Entries(context.Background(), 1) {
				if err != nil {
					t.Fatal(err)
				}
				if string(e.Envelope.Raw) != want[next] {
					t.Fatalf("entry %d is another one", e.Index)
				}
				next++
			}
			if next != test.entries {
				t.Errorf("%d entries, want %d", next, test.entries)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if n := segments(t, w.Dir()); n > test.want {
				t.Errorf("%d segments for %d entries, want at most %d", n, test.entries, test.want)
			}
		})
	}
}

// TestFoldMixed mixes batches of all sizes, so that runs break anywhere, and
// looks at every step of every commit that folds.
func TestFoldMixed(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	w := ledgertest.New(t)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var copies []string
	watch := false
	l, err := ledger.Open(w.Dir(), w.Signer, ledger.WithStep(func(step string) error {
		if watch && rnd.IntN(8) == 0 {
			copies = append(copies, ledgertest.Copy(t, w.Dir()))
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	w.Ledger = l
	for i := 0; i < 1500; {
		n := 1
		switch rnd.IntN(12) {
		case 0:
			n = rnd.IntN(300)
		case 1:
			n = rnd.IntN(20)
		}
		var texts []string
		for ; n >= 0; n-- {
			texts = append(texts, fmt.Sprintf("%d %0*d", i, rnd.IntN(2000), i))
			i++
		}
		watch = i > 1000 && len(copies) < 8
		mustAppend(t, l, batch(claims(t, texts...)...))
	}
	if len(copies) == 0 {
		t.Error("no commit was looked at")
	}
	for _, dir := range copies {
		l, err := ledger.Open(dir, w.Signer, nil)
		if err != nil {
			t.Fatal(err)
		}
		extends(t, w, w.Ledger, l.Checkpoint(), w.Checkpoint())
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		ledgertest.Check(t, dir, w.Verifier)
	}
}
