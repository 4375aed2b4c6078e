package ledgertest

import (
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/retrace-ledger/retrace/schema"
)

// Erasure is the observer's word that the entry at index is erased.
func (w *World) Erasure(t testing.TB, index int64) schema.Envelope {
	t.Helper()
	e, err := w.Entry(t.Context(), index)
	if err != nil {
		t.Fatal(err)
	}
	about := schema.Descriptor{Name: fmt.Sprintf("entry %d", index), Digest: schema.DigestSet{schema.SHA256: hex.EncodeToString(e.Commitment[:])}}
	return w.Sign(t, schema.ErasureV1, schema.Erasure{Index: index, Reason: "a test"}, about)
}

// MustErase erases the entry at index.
func (w *World) MustErase(t testing.TB, index int64) schema.Receipt {
	t.Helper()
	r, err := w.Erase(t.Context(), index, w.Erasure(t, index))
	if err != nil {
		t.Fatal(err)
	}
	return r
}
