package ledger

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
)

// identity is the key under which duplicates of an envelope are found: an HMAC
// under a secret of the ledger, since a bare digest would outlive the erasure
// of what it was computed from (DESIGN 12.2).
type identity [sha256.Size]byte

func identify(secret []byte, namespace string, id []byte) identity {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(namespace))
	h.Write([]byte{0})
	h.Write(id)
	var sum identity
	h.Sum(sum[:0])
	return sum
}

func (id identity) key() []byte { return append([]byte(dedupPrefix), id[:]...) }

// findDuplicate looks for the stored entry with the given identity. What it
// finds is compared: a damaged index must not pass one entry off as another.
// An entry that is committed but not signed yet gives errUnsigned.
//
// v must have been the view before s was taken: a newer one has tiles that s
// does not hold.
func (l *Ledger) findDuplicate(s engine.Snapshot, v *view, id identity) (schema.Recorded, error) {
	const where = "index of duplicates"
	var index int64
	err := s.Get(id.key(), func(value []byte) error {
		if len(value) != 8 {
			return fmt.Errorf("%d bytes are no index", len(value))
		}
		index = int64(binary.BigEndian.Uint64(value))
		return nil
	})
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return schema.Recorded{}, nil
	case err != nil:
		return schema.Recorded{}, &DamageError{Where: where, Problem: "cannot be read", Err: err}
	case index >= v.checkpoint.Size:
		return schema.Recorded{}, &DamageError{Where: where, Problem: fmt.Sprintf("names entry %d of a ledger of %d", index, v.checkpoint.Size), Err: errUnsigned}
	case index < 0:
		return schema.Recorded{}, damage(where, "names entry %d", index)
	}
	e, err := l.readEntry(s, v, index)
	if err != nil {
		return schema.Recorded{}, err
	}
	if e.State == schema.Present && identify(l.committer.secret, e.Header.Namespace, e.Envelope.Identity(l.genesis.observerAt(index))) != id {
		return schema.Recorded{}, damage(where, "names entry %d for another envelope", index)
	}
	return schema.Recorded{Index: index, LeafHash: tlog.RecordHash(e.Commitment[:]), Duplicate: true}, nil
}

// errUnsigned says that an entry is at or beyond the signed size.
var errUnsigned = errors.New("it is not signed")
