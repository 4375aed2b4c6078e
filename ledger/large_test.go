package ledger_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
)

// TestCopiesLarge copies a ledger of a million entries in every way, and holds
// the memory that each takes to a bound that does not grow with it.
func TestCopiesLarge(t *testing.T) {
	if !*long {
		t.Skip("a million entries take minutes; -long runs them")
	}
	const entries, bound = 1_000_000, 768 << 20 // bytes of heap; the engine's share is a few hundred MiB
	w := ledgertest.New(t)
	withVKey(t, w)
	fill(t, w, entries, 4000)
	file := filepath.Join(t.TempDir(), "backup")
	dir, mirror := filepath.Join(t.TempDir(), "new"), t.TempDir()

	measure(t, "backup", bound, func() error {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = w.Backup(context.Background(), f, false, nil)
		return err
	})
	measure(t, "import", bound, func() error {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = ledger.Import(context.Background(), io.Reader(f), dir, nil)
		return err
	})
	measure(t, "mirror", bound, func() error {
		_, err := ledger.Mirror(context.Background(), mirror, w.Verifier, &remote{l: w.Ledger}, nil)
		return err
	})
	measure(t, "recover", bound, func() error {
		_, err := ledger.Recover(context.Background(), dir, w.Verifier, mirror, nil)
		return err
	})
	for _, copied := range []string{dir, mirror} {
		ledgertest.Check(t, copied, w.Verifier)
	}
}

// measure runs do and fails if it takes more than so many bytes of heap, beside
// what the ledger that is copied holds.
func measure(t *testing.T, what string, bound uint64, do func() error) {
	t.Helper()
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var peak atomic.Uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapInuse-min(m.HeapInuse, before.HeapInuse)))
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	begin := time.Now()
	err := do()
	close(stop)
	<-stopped
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	t.Logf("%s: %s, at most %d MiB of heap", what, time.Since(begin).Round(time.Millisecond), peak.Load()>>20)
	if peak.Load() > bound {
		t.Errorf("%s took %d MiB of heap, and the bound is %d", what, peak.Load()>>20, bound>>20)
	}
}
