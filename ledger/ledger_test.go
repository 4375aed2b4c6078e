package ledger_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

func TestSmoke(t *testing.T) {
	w := ledgertest.New(t)
	ctx := context.Background()
	for i := range 700 {
		r, err := w.Append(ctx, schema.Batch{Envelopes: []schema.Envelope{ledgertest.Claim(t, fmt.Sprint(i))}})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Entries[0].Index; got != int64(i+1) {
			t.Fatalf("index %d, want %d", got, i+1)
		}
	}
	for i := range w.Size() {
		e, err := w.Entry(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		p, err := w.Proof(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Verify(e.Commitment, w.Verifier); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	l, err := ledger.Open(w.Dir(), w.Signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for e, err := range l.Entries(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Index != n {
			t.Fatal(e.Index)
		}
		n++
	}
	if n != 701 {
		t.Fatal(n)
	}
	l.Close()
}
