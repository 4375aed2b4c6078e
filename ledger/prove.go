package ledger

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/verify"
)

// tileID names a full hash tile.
type tileID struct {
	level int
	index int64
}

// node returns the hash of the complete subtree number n of 2^level leaves of
// v's tree. It is what the signed root commits to: an edge was compared with
// the root when the ledger was opened, and a stored tile is compared with its
// parent when it is read.
func (l *Ledger) node(s engine.Snapshot, v *view, level int, n int64) (tlog.Hash, error) {
	if h, ok := v.edge.node(level, n); ok {
		return h, nil
	}
	height := level % tileHeight
	id := tileID{level / tileHeight, n >> (tileHeight - height)}
	t, err := l.tile(s, v, id)
	if err != nil {
		return tlog.Hash{}, err
	}
	return t[height][n-id.index<<(tileHeight-height)], nil
}

// tile reads a full tile of v's tree and checks it against its parent.
func (l *Ledger) tile(s engine.Snapshot, v *view, id tileID) (*fullTile, error) {
	if t, ok := l.tiles.Get(id); ok {
		return t, nil
	}
	above := (id.level + 1) * tileHeight
	if id.level >= edgeLevels(v.checkpoint.Size) || (id.index+1)<<above > v.checkpoint.Size {
		return nil, fmt.Errorf("%s is not full in a tree of size %d", tileName(id.level, id.index), v.checkpoint.Size)
	}
	want, err := l.node(s, v, above, id.index)
	if err != nil {
		return nil, err
	}
	t, err := readTile(s, id)
	if err != nil {
		return nil, err
	}
	if t.root() != want {
		return nil, damage(tileName(id.level, id.index), "its hashes lead to %x, and the signed tree says %x", t.root(), want)
	}
	l.tiles.Add(id, t)
	return t, nil
}

// readTile reads a full tile without checking it.
func readTile(s engine.Snapshot, id tileID) (*fullTile, error) {
	var t *fullTile
	err := s.Get(tileKey(id.level, id.index), func(value []byte) (err error) {
		t, err = expandTile(value)
		return err
	})
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return nil, damage(tileName(id.level, id.index), "missing")
	case err != nil:
		return nil, &DamageError{Where: tileName(id.level, id.index), Problem: "cannot be read", Err: err}
	}
	return t, nil
}

// hashes serves the proofs of package tlog from v's tree.
func (l *Ledger) hashes(s engine.Snapshot, v *view) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			level, n := tlog.SplitStoredHashIndex(index)
			h, err := l.node(s, v, level, n)
			if err != nil {
				return nil, err
			}
			out[i] = h
		}
		return out, nil
	})
}

// ProveInclusion proves that entry index is in the tree of the given size,
// which may be any up to the signed one (RFC 6962 section 2.1.1).
func (l *Ledger) ProveInclusion(ctx context.Context, index, size int64) ([]tlog.Hash, error) {
	v := l.view.Load()
	switch {
	case size < 0 || size > v.checkpoint.Size:
		return nil, fmt.Errorf("proving inclusion in size %d of a ledger of %d: %w", size, v.checkpoint.Size, ErrNotFound)
	case index < 0 || index >= size:
		return nil, fmt.Errorf("proving inclusion of entry %d in size %d: %w", index, size, ErrNotFound)
	}
	var p tlog.RecordProof
	err := l.reading(ctx, func(s engine.Snapshot) (err error) {
		p, err = tlog.ProveRecord(size, index, l.hashes(s, v))
		return err
	})
	return p, err
}

// ProveConsistency proves that the tree of size new begins with that of size
// old (RFC 6962 section 2.1.2). The proof is empty from size 0 and between
// equal sizes.
func (l *Ledger) ProveConsistency(ctx context.Context, old, new int64) ([]tlog.Hash, error) {
	v := l.view.Load()
	switch {
	case new < 0 || new > v.checkpoint.Size:
		return nil, fmt.Errorf("proving consistency with size %d of a ledger of %d: %w", new, v.checkpoint.Size, ErrNotFound)
	case old < 0 || old > new:
		return nil, fmt.Errorf("proving consistency of size %d with size %d: the older cannot be the larger one", old, new)
	case old == 0 || old == new:
		return nil, nil
	}
	var p tlog.TreeProof
	err := l.reading(ctx, func(s engine.Snapshot) (err error) {
		p, err = tlog.ProveTree(new, old, l.hashes(s, v))
		return err
	})
	return p, err
}

// Proof proves entry index under the newest checkpoint.
func (l *Ledger) Proof(ctx context.Context, index int64) (verify.Proof, error) {
	v := l.view.Load()
	if index < 0 || index >= v.checkpoint.Size {
		return verify.Proof{}, fmt.Errorf("proving entry %d of a ledger of %d: %w", index, v.checkpoint.Size, ErrNotFound)
	}
	p := verify.Proof{Index: index, Checkpoint: append([]byte(nil), v.checkpoint.Note...)}
	err := l.reading(ctx, func(s engine.Snapshot) error {
		hashes, err := tlog.ProveRecord(v.checkpoint.Size, index, l.hashes(s, v))
		p.Hashes = hashes
		return err
	})
	return p, err
}
