package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/ledger/internal/disk"
	"github.com/retrace-ledger/retrace/verify"
)

func cosignedPath(dir string) string { return filepath.Join(dir, "cosigned") }

// Cosigned is the newest checkpoint that the quorum of witnesses cosigned, with
// their cosignatures; nil if there is none. It is at most as new as Checkpoint.
func (l *Ledger) Cosigned() []byte {
	if cp := l.cosigned.Load(); cp != nil {
		return bytes.Clone(cp.Note)
	}
	return nil
}

// Cosign keeps a checkpoint of this log that witnesses cosigned, durably, and
// serves it from then on. Which cosignatures are enough is for the caller to
// say. A checkpoint that is older than the one kept, or that this ledger's tree
// does not have, is refused.
func (l *Ledger) Cosign(ctx context.Context, signed []byte) error {
	cp, err := l.openNote(signed)
	if err != nil {
		return fmt.Errorf("keeping a cosigned checkpoint in %s: %w", l.dir, err)
	}
	l.cosigning.Lock()
	defer l.cosigning.Unlock()
	if have := l.cosigned.Load(); have != nil && have.Size > cp.Size {
		return fmt.Errorf("keeping a cosigned checkpoint in %s: it is of size %d, and the one there of size %d", l.dir, cp.Size, have.Size)
	}
	if err := l.compare(ctx, cp); err != nil {
		return fmt.Errorf("keeping a cosigned checkpoint in %s: %w", l.dir, err)
	}
	if err := replaceFile(cosignedPath(l.dir), signed); err != nil {
		return err
	}
	l.cosigned.Store(&cp)
	return nil
}

// loadCosigned reads what Cosign kept. It can be had again from the witnesses:
// a file that cannot be used is left for Fsck to report.
func (l *Ledger) loadCosigned() {
	cp, err := readNote(cosignedPath(l.dir), l.openNote)
	if err != nil || l.compare(context.Background(), cp) != nil {
		return
	}
	l.cosigned.Store(&cp)
}

// compare compares a checkpoint that the log's key signed with the tree: nil
// if the tree has it, else a *RollbackError or a *ForkError.
func (l *Ledger) compare(ctx context.Context, cp verify.Checkpoint) error {
	l.unsigned.RLock() // a commit under way may be what cp is of
	v := l.view.Load()
	l.unsigned.RUnlock()
	if cp.Size > v.checkpoint.Size {
		return &RollbackError{Ours: bytes.Clone(v.checkpoint.Note), Theirs: bytes.Clone(cp.Note)}
	}
	var root tlog.Hash
	err := l.reading(ctx, func(s engine.Snapshot) (err error) {
		root, err = tlog.TreeHash(cp.Size, l.hashes(s, v))
		return err
	})
	if err != nil {
		return err
	}
	if root != cp.Root {
		return &ForkError{Old: bytes.Clone(cp.Note), New: bytes.Clone(v.checkpoint.Note)}
	}
	return nil
}

// openNote opens a checkpoint that the log's key signed which was in force at
// its size.
func (l *Ledger) openNote(signed []byte) (verify.Checkpoint, error) {
	if l.genesis.chain == nil {
		return verify.OpenCheckpoint(signed, l.verifier)
	}
	return l.genesis.chain.GivenTo(l.verifier).Open(signed)
}

// readNote reads a checkpoint of the log in a file of its own.
func readNote(path string, open func([]byte) (verify.Checkpoint, error)) (verify.Checkpoint, error) {
	signed, err := os.ReadFile(path)
	if err != nil {
		return verify.Checkpoint{}, err
	}
	cp, err := open(signed)
	if err != nil {
		return cp, &DamageError{Where: path, Problem: "it is not a checkpoint of this log", Err: err}
	}
	return cp, nil
}

// replaceFile makes data the content of a file: after a crash it has that or
// what it had before.
func replaceFile(path string, data []byte) (err error) {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s: %w", path, errors.Join(err, os.Remove(tmp)))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(path))
}

// serveCosigned serves the newest checkpoint that the quorum cosigned.
func (l *Ledger) serveCosigned(w http.ResponseWriter, r *http.Request) {
	signed := l.Cosigned()
	if signed == nil {
		http.Error(w, "no checkpoint of this log has been cosigned by a quorum of witnesses", http.StatusNotFound)
		return
	}
	writeNote(w, signed)
}

// newestNote is the newest checkpoint, with its cosignatures if it has those of
// the quorum.
func (l *Ledger) newestNote() []byte {
	v := l.view.Load()
	if cp := l.cosigned.Load(); cp != nil && cp.Size == v.checkpoint.Size {
		return cp.Note
	}
	return v.checkpoint.Note
}

func writeNote(w http.ResponseWriter, signed []byte) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.Write(signed)
}

// outside is a checkpoint in a file beside the store, for Fsck.
type outside struct {
	path    string
	problem string // what it means if the store does not hold it
	verify.Checkpoint
}

// readOutside reads the checkpoints beside the store that others vouch for.
func (c *checker) readOutside() error {
	for _, o := range []outside{
		{path: cosignedPath(c.dir), problem: "witnesses cosigned it"},
		{path: evidencePath(c.dir), problem: "somebody else holds it, and it is why the ledger does not open for writing"},
	} {
		cp, err := readNote(o.path, c.openNote)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			if err := c.findError(err); err != nil {
				return err
			}
			continue
		}
		o.Checkpoint = cp
		c.outside = append(c.outside, o)
	}
	return nil
}

// openNote opens a checkpoint that one of the log's keys signed.
func (c *checker) openNote(signed []byte) (verify.Checkpoint, error) {
	cp, err := verify.OpenCheckpoint(signed, c.verifier)
	for _, v := range c.older {
		if err == nil {
			break
		}
		if old, oldErr := verify.OpenCheckpoint(signed, v); oldErr == nil {
			cp, err = old, nil
		}
	}
	return cp, err
}

// compareOutside compares them with the entries.
func (c *checker) compareOutside(engine.Snapshot) error {
	for _, o := range c.outside {
		root, reached := c.roots[o.Size]
		var err error
		switch {
		case !reached:
			err = c.find(o.path, "the log key signed size %d, and the store ends at %d: %s", o.Size, c.tree.size(), o.problem)
		case root != o.Root:
			err = c.find(o.path, "the log key signed root %s at size %d, and the entries give %s: %s", o.Root, o.Size, root, o.problem)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
