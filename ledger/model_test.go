package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

// model is what a ledger should be: a slice, a map and a map.
type model struct {
	raws    []string
	leaves  []tlog.Hash
	first   map[string]int64 // by namespace and envelope
	cursors map[string]string
	signed  []schema.Receipt
}

// TestModel does random things to a ledger and to the model of one.
func TestModel(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := ledgertest.New(t)
			m := &model{raws: []string{"genesis"}, first: map[string]int64{}, cursors: map[string]string{}}
			m.leaves = leafHashes(t, w.Ledger)
			rnd := rand.New(rand.NewPCG(seed, 0))
			for range 300 {
				switch n := rnd.IntN(100); {
				case n < 70:
					m.append(t, w, rnd)
				case n < 80:
					m.read(t, w, rnd)
				case n < 94:
					m.prove(t, w, rnd)
				case n < 96:
					if !ledger.FillSeen(w.Ledger) {
						t.Fatal("the index of duplicates was not read")
					}
				case n < 97:
					ledger.DoubtSeen(w.Ledger)
				default:
					reopen(t, w)
				}
			}
			m.read(t, w, rand.New(rand.NewPCG(0, 0)))
		})
	}
}

// append appends a random batch, some of it known and some of it with a cursor
// that is right or wrong.
func (m *model) append(t *testing.T, w *ledgertest.World, rnd *rand.Rand) {
	b := schema.Batch{Namespace: []string{"", "one", "two"}[rnd.IntN(3)]}
	ns := b.Namespace
	if ns == "" {
		ns = schema.DefaultNamespace
	}
	for range rnd.IntN(1 << rnd.IntN(10)) {
		b.Envelopes = append(b.Envelopes, ledgertest.Claim(t, fmt.Sprint(rnd.IntN(3000))))
	}
	source := fmt.Sprint("source ", rnd.IntN(3))
	refused := false
	if rnd.IntN(2) == 0 || len(b.Envelopes) == 0 {
		from := m.cursors[ns+"/"+source]
		if rnd.IntN(4) == 0 {
			from += "!"
			refused = true
		}
		b.Cursors = []schema.Cursor{{Source: source, From: from, To: fmt.Sprint(rnd.Uint32())}}
	}
	r, err := w.Append(context.Background(), b)
	var cursor *ledger.CursorError
	if refused {
		if !errors.As(err, &cursor) {
			t.Fatalf("a batch with a wrong cursor: %v", err)
		}
		m.size(t, w)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, env := range b.Envelopes {
		id := ns + "/" + string(env.Raw)
		want, known := m.first[id]
		if !known {
			want = int64(len(m.raws))
			m.first[id] = want
			m.raws = append(m.raws, string(env.Raw))
			m.leaves = append(m.leaves, r.Entries[i].LeafHash)
		}
		got := r.Entries[i]
		if got.Index != want || got.Duplicate != known || got.LeafHash != m.leaves[want] {
			t.Fatalf("envelope %d is recorded as %+v, want index %d, duplicate %v", i, got, want, known)
		}
	}
	for _, c := range b.Cursors {
		m.cursors[ns+"/"+c.Source] = c.To
	}
	m.signed = append(m.signed, r)
	m.size(t, w)
}

func (m *model) size(t *testing.T, w *ledgertest.World) {
	t.Helper()
	if got := w.Size(); got != int64(len(m.raws)) {
		t.Fatalf("size %d, want %d", got, len(m.raws))
	}
}

// read reads everything from a random index on.
func (m *model) read(t *testing.T, w *ledgertest.World, rnd *rand.Rand) {
	next := rnd.Int64N(int64(len(m.raws)))
	for e, err := range w.Entries(context.Background(), next) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Index != next || next > 0 && string(e.Envelope.Raw) != m.raws[next] || tlog.RecordHash(e.Commitment[:]) != m.leaves[next] {
			t.Fatalf("entry %d comes as number %d with other bytes", next, e.Index)
		}
		next++
	}
	if next != int64(len(m.raws)) {
		t.Fatalf("Entries ended at %d of %d", next, len(m.raws))
	}
	for key, want := range m.cursors {
		var ns, source string
		for i := range key {
			if key[i] == '/' {
				ns, source = key[:i], key[i+1:]
				break
			}
		}
		if got, err := w.Cursor(context.Background(), ns, source); err != nil || got != want {
			t.Fatalf("cursor %s is %q (%v), want %q", key, got, err, want)
		}
	}
}

// prove proves a random entry, and that a checkpoint handed out before is
// still a beginning of the log.
func (m *model) prove(t *testing.T, w *ledgertest.World, rnd *rand.Rand) {
	ctx := context.Background()
	index := rnd.Int64N(int64(len(m.raws)))
	e, err := w.Entry(ctx, index)
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.Proof(ctx, index)
	if err != nil {
		t.Fatal(err)
	}
	now, err := p.Verify(e.Commitment, w.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.signed) == 0 {
		return
	}
	extends(t, w, w.Ledger, m.signed[rnd.IntN(len(m.signed))].Checkpoint, now.Note)
}
