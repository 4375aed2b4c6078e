package ledger_test

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
)

// brokenEngine is an engine whose Commit fails with err, before it stored
// anything or after it stored everything.
type brokenEngine struct {
	engine.Engine
	err     error
	persist bool
	armed   atomic.Bool
	commits atomic.Int64 // since it is broken
}

func (b *brokenEngine) Commit(puts []engine.Put) error {
	if !b.armed.Load() {
		return b.Engine.Commit(puts)
	}
	b.commits.Add(1)
	if b.persist {
		if err := b.Engine.Commit(puts); err != nil {
			return err
		}
	}
	return b.err
}

// TestEngineFails lets the engine fail with each errno of a broken disk, in
// both flavours: nothing persisted, everything persisted. Of several callers in
// the queue none is answered with a receipt, nothing more is given to the
// engine, readers are still answered, and opening decides.
func TestEngineFails(t *testing.T) {
	for _, errno := range []error{syscall.ENOSPC, syscall.EIO, syscall.EDQUOT, syscall.EROFS, io.ErrShortWrite} {
		for _, persist := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, persisted %v", errno, persist), func(t *testing.T) {
				t.Parallel()
				w := filled(t, 250, 250)
				broken := &brokenEngine{err: errno, persist: persist}
				ledger.WrapEngine(w.Ledger, func(e engine.Engine) engine.Engine {
					broken.Engine = e
					return broken
				})
				before := mustAppend(t, w.Ledger, batch(claims(t, "acknowledged")...))
				broken.armed.Store(true)
				failed := afterFailure(t, w.Ledger, before, errno)
				if n := broken.commits.Load(); n != 1 {
					t.Errorf("the engine was asked to commit %d times after it failed, want once", n)
				}
				reopen(t, w)
				added := w.Size() - before.Size
				if persist == (added == 0) || added > int64(failed) {
					t.Errorf("opened again, %d entries more than were acknowledged", added)
				}
				extends(t, w, w.Ledger, before.Checkpoint, w.Checkpoint())
				everythingOnce(t, w.Ledger, before.Size, failed)
			})
		}
	}
}

// TestCheckpointFileFails is TestEngineFails for the checkpoint file, which is
// written when the transaction is durable.
func TestCheckpointFileFails(t *testing.T) {
	for _, persist := range []bool{false, true} {
		for _, errno := range []error{syscall.ENOSPC, syscall.EIO, io.ErrShortWrite} {
			t.Run(fmt.Sprintf("%v, persisted %v", errno, persist), func(t *testing.T) {
				t.Parallel()
				w := filled(t, 250, 250)
				before := mustAppend(t, w.Ledger, batch(claims(t, "acknowledged")...))
				ledger.BreakCheckpointFile(w.Ledger, errno, persist)
				failed := afterFailure(t, w.Ledger, before, errno)
				if at, err := w.Cursor(t.Context(), "", "source 0"); err == nil {
					t.Errorf("Cursor beside a commit that was not signed = %q, want an error", at)
				}
				reopen(t, w)
				if added := w.Size() - before.Size; added == 0 || added > int64(failed) {
					t.Errorf("opened again, %d entries more than were acknowledged; the transaction was durable", added)
				}
				extends(t, w, w.Ledger, before.Checkpoint, w.Checkpoint())
				everythingOnce(t, w.Ledger, before.Size, failed)
			})
		}
	}
}

// afterFailure appends from several callers at once to a ledger whose next
// commit fails with cause, and looks at what it does then. It returns how many
// entries were refused.
func afterFailure(t *testing.T, l *ledger.Ledger, before schema.Receipt, cause error) (refused int) {
	t.Helper()
	const callers = 5
	errs := make(chan error, callers)
	for g := range callers {
		go func() {
			_, err := l.Append(t.Context(), failingBatch(t, g))
			errs <- err
		}()
	}
	for range callers {
		if err := <-errs; !errors.Is(err, ledger.ErrStopped) || !errors.Is(err, cause) {
			t.Errorf("Append: %v, want ErrStopped for %v", err, cause)
		}
	}
	if _, err := l.Append(t.Context(), failingBatch(t, 0)); !errors.Is(err, ledger.ErrStopped) {
		t.Errorf("Append after a failed commit: %v", err)
	}
	if err := l.Wait(t.Context(), before.Size+1); !errors.Is(err, ledger.ErrStopped) {
		t.Errorf("Wait after a failed commit: %v", err)
	}
	if l.Size() != before.Size || string(l.Checkpoint()) != string(before.Checkpoint) {
		t.Errorf("size %d after a failed commit, want %d", l.Size(), before.Size)
	}
	for _, index := range []int64{0, before.Size - 1} {
		if _, err := l.Entry(t.Context(), index); err != nil {
			t.Errorf("reading entry %d after a failed commit: %v", index, err)
		}
		if _, err := l.Proof(t.Context(), index); err != nil {
			t.Errorf("proving entry %d after a failed commit: %v", index, err)
		}
	}
	return callers
}

func failingBatch(t *testing.T, g int) schema.Batch {
	return schema.Batch{
		Envelopes: claims(t, fmt.Sprint("refused ", g)),
		Cursors:   []schema.Cursor{{Source: fmt.Sprint("source ", g), To: "read"}},
	}
}

// everythingOnce does again what was refused: whatever of it was persisted is
// not recorded twice, and its cursor tells.
func everythingOnce(t *testing.T, l *ledger.Ledger, base int64, refused int) {
	t.Helper()
	for g := range refused {
		b := failingBatch(t, g)
		at, err := l.Cursor(t.Context(), "", b.Cursors[0].Source)
		if err != nil {
			t.Fatal(err)
		}
		b.Cursors[0].From = at
		r := mustAppend(t, l, b)
		if r.Entries[0].Duplicate != (at == "read") {
			t.Errorf("batch %d: the cursor is %q, and its entry a duplicate: %v", g, at, r.Entries[0].Duplicate)
		}
	}
	if l.Size() != base+int64(refused) {
		t.Errorf("size %d, want %d", l.Size(), base+int64(refused))
	}
}
