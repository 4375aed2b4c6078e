package ledger_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

// closeWithin is how long a ledger may take to close under load: two seconds
// on a machine that does nothing else, which -long stands for.
func closeWithin() time.Duration {
	if *long {
		return 2 * time.Second
	}
	return 20 * time.Second
}

// TestCloseUnderLoad closes a ledger while 1,024 writers append to it and 256
// readers read. Each append is acknowledged, and then it is there, or refused
// with ErrClosed, and then it is not.
func TestCloseUnderLoad(t *testing.T) {
	w := ledgertest.New(t)
	type outcome struct {
		entries []schema.Recorded
		err     error
	}
	outcomes := make([][]outcome, loadWriters)
	var running sync.WaitGroup
	for g := range loadWriters {
		running.Go(func() {
			for n := 0; ; n++ {
				b, err := writerBatch(g, n, loadClaims, 0)
				if err != nil {
					t.Error(err)
					return
				}
				r, err := w.Append(t.Context(), b)
				outcomes[g] = append(outcomes[g], outcome{r.Entries, err})
				if err != nil {
					return
				}
			}
		})
	}
	for range loadReaders {
		running.Go(func() {
			if err := loadReader(w.Ledger); !errors.Is(err, ledger.ErrClosed) {
				t.Errorf("a reader of a ledger that closes: %v", err)
			}
		})
	}
	if err := w.Wait(t.Context(), 5000); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	took := time.Since(began)
	running.Wait()
	t.Logf("closed in %v, %v until the last writer and reader had ended", took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	if took > closeWithin() {
		t.Errorf("closing took %v, want at most %v", took, closeWithin())
	}
	reopen(t, w)
	acknowledged := int64(1)
	for g := range outcomes {
		for n, o := range outcomes[g] {
			if o.err != nil && !errors.Is(o.err, ledger.ErrClosed) {
				t.Errorf("batch %d of writer %d: %v", n, g, o.err)
			}
			acknowledged += int64(len(o.entries))
		}
	}
	if w.Size() != acknowledged {
		t.Errorf("size %d, want the %d acknowledged", w.Size(), acknowledged)
	}
	onceEach(t, w.Ledger)
}
