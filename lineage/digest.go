package lineage

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// Digest is the SHA-256 of all that the index holds, each key and each value
// after its length in four bytes. Two indexes that the same version of retrace
// made of the same entries have the same digest.
func (g *Graph) Digest(ctx context.Context) ([sha256.Size]byte, error) {
	h := sha256.New()
	put := func(b []byte) error {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
		return nil
	}
	err := g.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := put(it.Item().Key()); err != nil {
				return err
			}
			if err := it.Item().Value(put); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("reading the lineage index: %w", err)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
