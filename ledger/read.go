package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// view is what readers see: the ledger at its newest signed and durable size.
// It never changes; a commit replaces it.
type view struct {
	checkpoint verify.Checkpoint
	edge       edge
	next       chan struct{} // closed when a newer view replaces this one
}

// Size is the newest signed size.
func (l *Ledger) Size() int64 { return l.view.Load().checkpoint.Size }

// Checkpoint is the newest signed note. It is durable.
func (l *Ledger) Checkpoint() []byte {
	return append([]byte(nil), l.view.Load().checkpoint.Note...)
}

// Wait returns when the signed size is at least size, or with an error when
// ctx ends or the ledger closes first.
func (l *Ledger) Wait(ctx context.Context, size int64) error {
	for {
		v := l.view.Load()
		if v.checkpoint.Size >= size {
			return nil
		}
		select {
		case <-v.next:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.done:
			if l.Size() >= size {
				return nil
			}
			return l.queue.why()
		}
	}
}

// reading calls fn with a snapshot of the store, or fails if the ledger is
// closed. Close waits for fn.
func (l *Ledger) reading(ctx context.Context, fn func(engine.Snapshot) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.open.RLock()
	defer l.open.RUnlock()
	if l.closed {
		return fmt.Errorf("%s: %w", l.dir, ErrClosed)
	}
	return l.engine.View(fn)
}

// Cursor is how far source has been read in namespace: the To of the newest
// batch that moved it, or "" if it was never read. Whoever reads a cursor and
// then the size sees the entries that it stands for. An empty namespace is
// schema.DefaultNamespace.
func (l *Ledger) Cursor(ctx context.Context, namespace, source string) (string, error) {
	if namespace == "" {
		namespace = schema.DefaultNamespace
	}
	l.unsigned.RLock()
	defer l.unsigned.RUnlock()
	if l.beyond != nil {
		return "", fmt.Errorf("reading the cursor of source %q in %s: %w", clip(source), l.dir, l.beyond)
	}
	var at string
	err := l.reading(ctx, func(s engine.Snapshot) (err error) {
		at, err = readCursor(s, cursorKey(namespace, source))
		return err
	})
	return at, err
}

// errBeyond says that a commit failed before it was signed, or was left so.
// Opening the ledger for appending finishes it.
var errBeyond = errors.New("the newest commit is not signed, so that it is not known whether the cursor stands for it")

func readCursor(s engine.Snapshot, key []byte) (string, error) {
	var at string
	err := s.Get(key, func(value []byte) error {
		payload, err := unseal(value)
		at = string(payload)
		return err
	})
	if errors.Is(err, engine.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", &DamageError{Where: fmt.Sprintf("cursor %q", key[len(cursorPrefix):]), Problem: "cannot be read", Err: err}
	}
	return at, nil
}

// Entry is the entry at index, checked against the signed tree. The error is
// ErrNotFound at or above the signed size, and a *DamageError where the store
// does not hold what was signed.
func (l *Ledger) Entry(ctx context.Context, index int64) (schema.Entry, error) {
	v := l.view.Load()
	if index < 0 || index >= v.checkpoint.Size {
		return schema.Entry{}, fmt.Errorf("entry %d of a ledger of %d: %w", index, v.checkpoint.Size, ErrNotFound)
	}
	var e schema.Entry
	err := l.reading(ctx, func(s engine.Snapshot) (err error) {
		e, err = l.readEntry(s, v, index)
		return err
	})
	return e, err
}

// readEntry reads and checks one entry below v's size.
func (l *Ledger) readEntry(s engine.Snapshot, v *view, index int64) (schema.Entry, error) {
	leaf, err := l.node(s, v, 0, index)
	if err != nil {
		return schema.Entry{}, err
	}
	var entry schema.Entry
	err = findSegment(s, index, func(first int64, seg segment) error {
		at := first
		for r, err := range seg.records() {
			if err != nil {
				return damage(segmentName(first), "%v", err)
			}
			if at == index {
				entry, err = checkRecord(s, at, r, leaf)
				return err
			}
			at++
		}
		return damage(entryName(index), "missing: the segment from %d on ends before it", first)
	})
	return entry, err
}

// findSegment calls fn with the last segment that begins at or before index.
func findSegment(s engine.Snapshot, index int64, fn func(first int64, seg segment) error) error {
	for item, err := range s.Descend(segmentKey(index), segmentKey(0)) {
		if err != nil {
			return &DamageError{Where: entryName(index), Problem: "cannot be read", Err: err}
		}
		first, err := segmentFirst(item.Key())
		if err != nil {
			return err
		}
		return readValue(entryName(index), item.Value, func(value []byte) error { return fn(first, value) })
	}
	return damage(entryName(index), "missing: there is no segment at or before it")
}

// readValue calls read with fn and calls it damage if fn was not reached.
func readValue(where string, read func(func([]byte) error) error, fn func([]byte) error) error {
	reached := false
	err := read(func(value []byte) error {
		reached = true
		return fn(value)
	})
	if err != nil && !reached {
		return &DamageError{Where: where, Problem: "cannot be read", Err: err}
	}
	return err
}

// checkRecord compares a record with the leaf hash of the signed tree and
// decodes it. The entry does not alias the record.
func checkRecord(s engine.Snapshot, index int64, r record, leaf tlog.Hash) (schema.Entry, error) {
	if tlog.RecordHash(r.commitment[:]) != leaf {
		return schema.Entry{}, damage(entryName(index), "its commitment is %x, which the signed tree does not hold there", r.commitment)
	}
	if r.withheld {
		return schema.Entry{Index: index, Commitment: r.commitment, State: schema.Withheld}, nil
	}
	if len(r.body) == 0 {
		if _, err := erasedBy(s, index); err != nil {
			return schema.Entry{}, err
		}
		return schema.Entry{Index: index, Commitment: r.commitment, State: schema.Erased}, nil
	}
	if got := schema.Commitment(r.body); got != r.commitment {
		return schema.Entry{}, damage(entryName(index), "its body hashes to %x, and the signed tree says %x", got, r.commitment)
	}
	return schema.ParseEntry(index, append([]byte(nil), r.body...))
}

// Entries yields the entries from index from up to the size that was signed
// when it was called, in order, each checked against the signed tree. It ends
// with the first error.
func (l *Ledger) Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error] {
	v := l.view.Load()
	return func(yield func(schema.Entry, error) bool) {
		for next := max(from, 0); next < v.checkpoint.Size; {
			entries, err := l.readSegment(ctx, v, next)
			if err != nil {
				yield(schema.Entry{}, err)
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			next += int64(len(entries))
		}
	}
}

// readSegment reads the entries from index from up to the end of their
// segment or of v, at least one.
func (l *Ledger) readSegment(ctx context.Context, v *view, from int64) (entries []schema.Entry, err error) {
	err = l.reading(ctx, func(s engine.Snapshot) error {
		return findSegment(s, from, func(first int64, seg segment) error {
			at := first
			for r, err := range seg.records() {
				if err != nil {
					return damage(segmentName(first), "%v", err)
				}
				if at >= from && at < v.checkpoint.Size {
					leaf, err := l.node(s, v, 0, at)
					if err != nil {
						return err
					}
					e, err := checkRecord(s, at, r, leaf)
					if err != nil {
						return err
					}
					entries = append(entries, e)
				}
				at++
			}
			if len(entries) == 0 {
				return damage(entryName(from), "missing: the segment from %d on ends before it", first)
			}
			return nil
		})
	})
	return entries, err
}

func entryName(index int64) string   { return fmt.Sprintf("entry %d", index) }
func segmentName(first int64) string { return fmt.Sprintf("the segment of entry %d", first) }
func tileName(level int, index int64) string {
	return fmt.Sprintf("tile %d of level %d", index, level)
}
