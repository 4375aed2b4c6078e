package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/retrace-ledger/retrace/ledger/internal/disk"
	"github.com/retrace-ledger/retrace/schema"
)

// RollbackError says that somebody holds a checkpoint of ours that is larger
// than what the ledger holds: what was acknowledged is gone, as after a volume
// was put back to an older state. Both notes are signed by the log's key.
type RollbackError struct {
	Ours, Theirs []byte // signed notes
}

func (e *RollbackError) Error() string {
	return fmt.Sprintf("the ledger was rolled back: somebody holds a newer checkpoint that its key signed; keep both:\n%s\n%s", e.Ours, e.Theirs)
}

func evidencePath(dir string) string { return filepath.Join(dir, "evidence") }

// Confront compares the ledger with a checkpoint that somebody else holds,
// such as a witness or a mirror. It is nil if the ledger's tree has it. If the
// log's own key signed it and the ledger ends before it, the error is a
// *RollbackError; if the tree is another at that size, a *ForkError. Before
// either is returned, the note is durable as evidence, and nothing more is
// written: appends that wait are refused, a commit that runs is finished, and
// Open refuses until the store holds that tree.
//
// A note that the log's key did not sign stops nothing: the error is then a
// *verify.FalseError or *verify.MalformedError.
func (l *Ledger) Confront(ctx context.Context, signed []byte) error {
	cp, err := l.openNote(signed)
	if err != nil {
		return fmt.Errorf("confronting the ledger in %s: %w", l.dir, err)
	}
	found := l.compare(ctx, cp)
	if !contradicts(found) {
		return found
	}
	if l.committer == nil {
		return fmt.Errorf("%s: %w", l.dir, found)
	}
	// Writing stops even where the evidence cannot be kept: the disk may be
	// what is wrong.
	kept := replaceFile(evidencePath(l.dir), cp.Note)
	stopped := fmt.Errorf("%s: %w: %w", l.dir, ErrStopped, found)
	l.queue.refuse(stopped)
	return errors.Join(stopped, kept)
}

// contradicts says that an error of compare is evidence, rather than that the
// ledger could not be compared.
func contradicts(err error) bool {
	var back *RollbackError
	var fork *ForkError
	return errors.As(err, &back) || errors.As(err, &fork)
}

// checkEvidence refuses a ledger that contradicts what Confront kept, and
// forgets it once the ledger holds it.
func (l *Ledger) checkEvidence() error {
	path := evidencePath(l.dir)
	cp, err := readNote(path, l.openNote)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := l.compare(context.Background(), cp); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return disk.SyncDir(l.dir)
}

// refuse closes the queue with err, and answers what waits with it too.
func (q *queue) refuse(err error) {
	q.close(err)
	q.mu.Lock()
	waiting := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	for _, p := range waiting {
		if !p.taken.Swap(true) {
			p.reply(schema.Receipt{}, err)
		}
	}
}
