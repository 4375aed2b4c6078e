package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"os"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/ledger/internal/disk"
	"github.com/retrace-ledger/retrace/schema"
)

// purgePath is where Purge makes the new store, and where the old one is for a
// moment after it.
func purgePath(dir string) string { return storePath(dir) + ".purge" }

// removeLeftover removes what a Purge that was interrupted left behind: a store
// that is not whole yet, or one whose place was taken. Either is garbage once
// the store opens.
func removeLeftover(dir string) error {
	for _, path := range []string{purgePath(dir), purgePath(dir) + ".old"} { // the latter is disk.Exchange's
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("removing what an interrupted purge left: %w", err)
		}
	}
	return nil
}

// Purge writes the store of the ledger in dir anew, with nothing in it but what
// the ledger holds, and removes the old one: afterwards no file of the ledger
// has the bytes of a body that was erased. The new store is read back and
// compared before the two change places in one step; an interruption leaves the
// old store or the new one, and the next opening removes the other.
//
// It needs the ledger for itself, and room on the disk for a second store. What
// a file system or a disk keeps of removed files is beyond it. report, which
// may be nil, is called now and then.
func Purge(ctx context.Context, dir string, key note.Signer, report func(Progress)) error {
	if report == nil {
		report = func(Progress) {}
	}
	l, err := open(dir, verifierOf(key), nil, true)
	if err != nil {
		return err
	}
	err = l.purge(ctx, report)
	if err := errors.Join(err, l.release()); err != nil {
		return fmt.Errorf("purging the ledger in %s: %w", dir, err)
	}
	return nil
}

func (l *Ledger) purge(ctx context.Context, report func(Progress)) error {
	fresh := purgePath(l.dir)
	if err := removeLeftover(l.dir); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	want, err := l.copyStore(ctx, fresh, report)
	if err == nil {
		err = compareStore(ctx, fresh, want)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	e := l.engine
	l.engine = nil // it is not to be used under its new name
	if err := e.Close(); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if err := disk.Exchange(storePath(l.dir), fresh); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("removing the old store: %w", err)
	}
	return disk.SyncDir(l.dir)
}

// purgeBatch is how many bytes go into one transaction of the new store.
const purgeBatch = schema.MaxBatchBytes

// copyStore writes every key of l's store with its newest value into a store
// in fresh, and returns what compareStore shall find there.
func (l *Ledger) copyStore(ctx context.Context, fresh string, report func(Progress)) ([]byte, error) {
	to, err := engine.OpenBadger(fresh)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	var puts []engine.Put
	size := 0
	flush := func() error {
		if len(puts) == 0 {
			return nil
		}
		err := to.Commit(puts)
		puts, size = nil, 0
		return err
	}
	total := l.Size()
	err = l.engine.View(func(s engine.Snapshot) error {
		for item, err := range s.Ascend(nil, storeEnd) {
			if err != nil {
				return err
			}
			put, err := readPut(ctx, item)
			if err != nil {
				return err
			}
			if size += len(put.Key) + len(put.Value); size > purgeBatch {
				if err := flush(); err != nil {
					return err
				}
				size = len(put.Key) + len(put.Value)
			}
			addPut(sum, put)
			puts = append(puts, put)
			if first, err := segmentFirst(put.Key); err == nil {
				report(Progress{first, total})
			}
		}
		return flush()
	})
	report(Progress{total, total})
	return sum.Sum(nil), errors.Join(err, to.Close())
}

// storeEnd is after every key of a store.
var storeEnd = []byte{0xff}

func readPut(ctx context.Context, item engine.Item) (engine.Put, error) {
	put := engine.Put{Key: bytes.Clone(item.Key())}
	if err := ctx.Err(); err != nil {
		return put, err
	}
	err := item.Value(func(value []byte) error {
		put.Value = bytes.Clone(value)
		return nil
	})
	if err != nil {
		return put, &DamageError{Where: fmt.Sprintf("key %q", put.Key), Problem: "cannot be read", Err: err}
	}
	return put, nil
}

// addPut adds a key and its value to a sum that no other keys and values give.
func addPut(sum hash.Hash, p engine.Put) {
	for _, b := range [][]byte{p.Key, p.Value} {
		sum.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		sum.Write(b)
	}
}

// compareStore reads the store in dir back from the disk.
func compareStore(ctx context.Context, dir string, want []byte) error {
	e, err := engine.InspectBadger(dir)
	if err != nil {
		return err
	}
	defer e.Close()
	sum := sha256.New()
	err = e.View(func(s engine.Snapshot) error {
		for item, err := range s.Ascend(nil, storeEnd) {
			if err != nil {
				return err
			}
			put, err := readPut(ctx, item)
			if err != nil {
				return err
			}
			addPut(sum, put)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the new store back: %w", err)
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return damage(dir, "the new store does not hold what was written to it; the old one stays")
	}
	return nil
}
