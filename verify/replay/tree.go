package replay

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"github.com/transparency-dev/merkle/compact"
	"golang.org/x/mod/sumdb/tlog"
)

type commitment = [sha256.Size]byte

// tree is the RFC 6962 tree over the entries so far: the roots of its largest
// complete subtrees, at most 63.
type tree struct{ rng *compact.Range }

// hashing is RFC 6962 as the compact range wants it.
func hashing() *compact.RangeFactory {
	return &compact.RangeFactory{Hash: func(left, right []byte) []byte {
		h := tlog.NodeHash(tlog.Hash(left), tlog.Hash(right))
		return h[:]
	}}
}

func newTree() tree { return tree{hashing().NewEmptyRange(0)} }

// openTree is the tree of a size with the given subtrees, the largest first.
func openTree(size int64, hashes [][]byte) (tree, error) {
	if want := bits.OnesCount64(uint64(size)); size < 0 || len(hashes) != want {
		return tree{}, fmt.Errorf("the edge of a tree of size %d has %d hashes, not %d", size, want, len(hashes))
	}
	for _, h := range hashes {
		if len(h) != tlog.HashSize {
			return tree{}, fmt.Errorf("a hash has %d bytes, not %d", len(h), tlog.HashSize)
		}
	}
	rng, err := hashing().NewRange(0, uint64(size), hashes)
	return tree{rng}, err
}

func (t tree) size() int64 { return int64(t.rng.End()) }

// add appends a leaf.
func (t tree) add(c commitment) error {
	leaf := tlog.RecordHash(c[:])
	if err := t.rng.Append(leaf[:], nil); err != nil {
		return fmt.Errorf("adding leaf %d: %w", t.size(), err)
	}
	return nil
}

// root is the root hash; SHA-256 of nothing for an empty tree (RFC 6962
// section 2.1).
func (t tree) root() (tlog.Hash, error) {
	if t.size() == 0 {
		return sha256.Sum256(nil), nil
	}
	root, err := t.rng.GetRootHash(nil)
	if err != nil {
		return tlog.Hash{}, fmt.Errorf("computing the root of size %d: %w", t.size(), err)
	}
	return tlog.Hash(root), nil
}
