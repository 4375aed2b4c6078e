package lineage

import (
	"bytes"
	"context"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// DifferenceError names the first key in which two indexes of the same log
// differ.
type DifferenceError struct {
	Key  []byte
	Have []byte // value in the index that was compared; nil if the key is not there
	Want []byte // value in the other
}

func (e *DifferenceError) Error() string {
	switch {
	case e.Have == nil:
		return fmt.Sprintf("key %q is missing", e.Key)
	case e.Want == nil:
		return fmt.Sprintf("key %q is not one that the entries give", e.Key)
	}
	return fmt.Sprintf("key %q holds other bytes than the entries give", e.Key)
}

// Compare says whether g holds exactly what other holds, key by key and byte
// by byte. The first difference is a *DifferenceError; any other error means
// that the indexes could not be read.
func (g *Graph) Compare(ctx context.Context, other *Graph) error {
	return g.db.View(func(mine *badger.Txn) error {
		return other.db.View(func(theirs *badger.Txn) error {
			a, b := mine.NewIterator(badger.DefaultIteratorOptions), theirs.NewIterator(badger.DefaultIteratorOptions)
			defer a.Close()
			defer b.Close()
			a.Rewind()
			b.Rewind()
			for a.Valid() || b.Valid() {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := compareItems(a, b); err != nil {
					return err
				}
				a.Next()
				b.Next()
			}
			return nil
		})
	})
}

// compareItems compares what two iterators stand at; one of them may have
// ended.
func compareItems(a, b *badger.Iterator) error {
	read := func(it *badger.Iterator) (k, v []byte, err error) {
		if !it.Valid() {
			return nil, nil, nil
		}
		v, err = it.Item().ValueCopy([]byte{})
		return it.Item().KeyCopy(nil), v, err
	}
	ak, av, err := read(a)
	if err != nil {
		return fmt.Errorf("reading the lineage index: %w", err)
	}
	bk, bv, err := read(b)
	if err != nil {
		return fmt.Errorf("reading the lineage index: %w", err)
	}
	switch c := bytes.Compare(ak, bk); {
	case ak == nil || (bk != nil && c > 0):
		return &DifferenceError{Key: bk, Want: bv}
	case bk == nil || c < 0:
		return &DifferenceError{Key: ak, Have: av}
	case !bytes.Equal(av, bv):
		return &DifferenceError{Key: ak, Have: av, Want: bv}
	}
	return nil
}
