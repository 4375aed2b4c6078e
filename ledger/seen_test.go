package ledger_test

import (
	"fmt"
	"testing"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

// TestManyAppendsThenDuplicates appends so many envelopes that the ledger reads
// its index of duplicates, in the process that recorded them and in the next,
// and while it does, appends some of them again.
func TestManyAppendsThenDuplicates(t *testing.T) {
	w := ledgertest.New(t)
	old := claims(t, "old 1", "old 2")
	first := mustAppend(t, w.Ledger, batch(old...))
	for process := range 2 {
		reopen(t, w)
		for n := 0; n <= ledger.SeenEnough; n += schema.MaxBatchEnvelopes {
			var texts []string
			for i := range schema.MaxBatchEnvelopes {
				texts = append(texts, fmt.Sprint(process, " ", n+i))
			}
			envs := claims(t, texts...)
			r := mustAppend(t, w.Ledger, batch(envs...))
			for i, e := range r.Entries {
				if want := r.Size - int64(len(envs)-i); e.Duplicate || e.Index != want {
					t.Fatalf("new envelope %d is recorded as %+v, want index %d", n+i, e, want)
				}
			}
			again := mustAppend(t, w.Ledger, batch(old[0], envs[7], old[1]))
			for i, want := range []int64{first.Entries[0].Index, r.Entries[7].Index, first.Entries[1].Index} {
				if e := again.Entries[i]; !e.Duplicate || e.Index != want {
					t.Fatalf("an envelope of entry %d is recorded again as %+v", want, e)
				}
			}
		}
	}
}
