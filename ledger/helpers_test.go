package ledger_test

import (
	"context"
	"testing"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// extends checks that the log of the newer checkpoint begins with that of the
// older one, by a proof of l.
func extends(t testing.TB, w *ledgertest.World, l *ledger.Ledger, older, newer []byte) {
	t.Helper()
	a, err := verify.OpenCheckpoint(older, w.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	b, err := verify.OpenCheckpoint(newer, w.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.ProveConsistency(context.Background(), a.Size, b.Size)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify.VerifyConsistency(a, b, p); err != nil {
		t.Fatal(err)
	}
}

// batchWithCursor is a batch that moves a cursor and nothing else.
func batchWithCursor() schema.Batch {
	return schema.Batch{Cursors: []schema.Cursor{{Source: "git+https://example.com/repository", To: "0123456789"}}}
}
