package ledger

import (
	"crypto/sha256"
	"fmt"
	"math/bits"
	"slices"

	"filippo.io/torchwood"
	"github.com/transparency-dev/merkle/compact"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = torchwood.TileHeight // levels of the tree that one tile spans
	tileWidth  = torchwood.TileWidth  // hashes of a full tile
	tileBytes  = tileWidth * tlog.HashSize
)

// commitment is the data of a leaf.
type commitment = [sha256.Size]byte

// edge is the part of the tree that is in no full tile: for each level of
// tiles, the one that is still filling up. An edge is a value: growing the
// tree appends to what its slices share and never changes what they hold.
type edge struct {
	leaves []commitment // of the partial tile at level 0
	tiles  []edgeTile   // by level of tiles
}

// edgeTile is a partial tile with the subtrees that are complete inside it.
type edgeTile struct {
	index int64                   // of the tile in its level
	nodes [tileHeight][]tlog.Hash // nodes[0] are the tile's hashes, nodes[h] the roots of 2^h of them
}

// node returns the hash of a complete subtree, if it is in the edge.
func (e edge) node(level int, n int64) (tlog.Hash, bool) {
	l, h := level/tileHeight, level%tileHeight
	if l >= len(e.tiles) {
		return tlog.Hash{}, false
	}
	t := &e.tiles[l]
	at := n - t.index<<(tileHeight-h)
	if at < 0 || at >= int64(len(t.nodes[h])) {
		return tlog.Hash{}, false
	}
	return t.nodes[h][at], true
}

// clone returns an edge that stays as it is while e grows.
func (e edge) clone() edge {
	return edge{leaves: e.leaves, tiles: slices.Clone(e.tiles)}
}

// tree is the tree while it grows. It is not safe for concurrent use.
type tree struct {
	rng  *compact.Range
	edge edge
	full func(level int, index int64, hashes []tlog.Hash, leaves []commitment) // called for each tile that fills up; leaves at level 0 only
}

// hashing is RFC 6962 as the compact range wants it.
func hashing() *compact.RangeFactory {
	return &compact.RangeFactory{Hash: func(left, right []byte) []byte {
		h := tlog.NodeHash(tlog.Hash(left), tlog.Hash(right))
		return h[:]
	}}
}

func newTree() *tree { return &tree{rng: hashing().NewEmptyRange(0)} }

func (t *tree) size() int64 { return int64(t.rng.End()) }

// root is the root hash of the tree; SHA-256 of nothing while it is empty (RFC
// 6962 section 2.1).
func (t *tree) root() (tlog.Hash, error) {
	if t.size() == 0 {
		return sha256.Sum256(nil), nil
	}
	h, err := t.rng.GetRootHash(nil)
	if err != nil {
		return tlog.Hash{}, fmt.Errorf("computing the root of size %d: %w", t.size(), err)
	}
	return tlog.Hash(h), nil
}

// add appends a leaf with the given data and returns its hash.
func (t *tree) add(c commitment) (tlog.Hash, error) {
	t.edge.leaves = append(t.edge.leaves, c)
	leaf := tlog.RecordHash(c[:])
	return leaf, t.grow(leaf)
}

// grow appends the hash of a leaf.
func (t *tree) grow(leaf tlog.Hash) error {
	err := t.rng.Append(leaf[:], func(id compact.NodeID, hash []byte) {
		t.place(int(id.Level), tlog.Hash(hash))
	})
	if err != nil {
		return fmt.Errorf("adding leaf %d: %w", t.size(), err)
	}
	return nil
}

// place puts a new complete subtree into its tile. The first hash of a level
// of tiles is the root of a full tile below, which is then handed out.
func (t *tree) place(level int, hash tlog.Hash) {
	l, h := level/tileHeight, level%tileHeight
	if h == 0 && l > 0 {
		t.seal(l - 1)
	}
	if l == len(t.edge.tiles) {
		t.edge.tiles = append(t.edge.tiles, edgeTile{})
	}
	nodes := &t.edge.tiles[l].nodes[h]
	if *nodes == nil {
		*nodes = make([]tlog.Hash, 0, tileWidth>>h)
	}
	*nodes = append(*nodes, hash)
}

func (t *tree) seal(l int) {
	done := t.edge.tiles[l]
	var leaves []commitment
	if l == 0 {
		leaves, t.edge.leaves = t.edge.leaves, nil
	}
	t.edge.tiles[l] = edgeTile{index: done.index + 1}
	if t.full != nil {
		t.full(l, done.index, done.nodes[0], leaves)
	}
}

// edgeWidth is how many hashes the partial tile at level l of a tree of the
// given size has, and its index in that level.
func edgeWidth(size int64, l int) (index int64, width int) {
	n := size >> (l * tileHeight)
	return n / tileWidth, int(n % tileWidth)
}

// edgeLevels is how many levels of tiles a tree of the given size has.
func edgeLevels(size int64) int {
	return (bits.Len64(uint64(size)) + tileHeight - 1) / tileHeight
}

// rebuildTree makes the tree of the given size from the leaves and the roots
// of full tiles at its right edge. Nothing of it is to be trusted before its
// root was compared with a signed one.
func rebuildTree(size int64, leaves []commitment, roots func(level int, from int64, n int) ([]tlog.Hash, error)) (*tree, error) {
	t := &tree{edge: edge{leaves: leaves}}
	for l := range edgeLevels(size) {
		index, width := edgeWidth(size, l)
		var hashes []tlog.Hash
		if l == 0 {
			for _, c := range leaves {
				hashes = append(hashes, tlog.RecordHash(c[:]))
			}
		} else {
			var err error
			if hashes, err = roots(l-1, index*tileWidth, width); err != nil {
				return nil, err
			}
		}
		if len(hashes) != width {
			return nil, fmt.Errorf("%d hashes at the edge of level %d, not %d", len(hashes), l, width)
		}
		t.edge.tiles = append(t.edge.tiles, edgeTile{index: index, nodes: subtrees(hashes)})
	}
	rng, err := hashing().NewRange(0, uint64(size), t.edge.peaks())
	if err != nil {
		return nil, fmt.Errorf("rebuilding the tree of size %d: %w", size, err)
	}
	t.rng = rng
	return t, nil
}

// subtrees computes the complete subtrees over the hashes of a tile.
func subtrees(hashes []tlog.Hash) (nodes [tileHeight][]tlog.Hash) {
	nodes[0] = hashes
	for h := 1; h < tileHeight; h++ {
		below := nodes[h-1]
		for i := 0; i+1 < len(below); i += 2 {
			nodes[h] = append(nodes[h], tlog.NodeHash(below[i], below[i+1]))
		}
	}
	return nodes
}

// peaks are the largest complete subtrees, from left to right.
func (e edge) peaks() [][]byte {
	var out [][]byte
	for l := len(e.tiles) - 1; l >= 0; l-- {
		t := &e.tiles[l]
		for h := tileHeight - 1; h >= 0; h-- {
			if n := len(t.nodes[h]); n%2 == 1 {
				out = append(out, slices.Clone(t.nodes[h][n-1][:]))
			}
		}
	}
	return out
}

// fullTile is a full tile with all nodes inside it: nodes[0] has its 256
// hashes, nodes[8] its root.
type fullTile [tileHeight + 1][]tlog.Hash

func expandTile(data []byte) (*fullTile, error) {
	if len(data) != tileBytes {
		return nil, fmt.Errorf("it has %d bytes, not %d", len(data), tileBytes)
	}
	all := make([]tlog.Hash, 2*tileWidth-1)
	var t fullTile
	for h := range t {
		width := tileWidth >> h
		t[h], all = all[:width:width], all[width:]
	}
	for i := range t[0] {
		t[0][i] = tlog.Hash(data[i*tlog.HashSize:])
	}
	for h := 1; h < len(t); h++ {
		for i := range t[h] {
			t[h][i] = tlog.NodeHash(t[h-1][2*i], t[h-1][2*i+1])
		}
	}
	return &t, nil
}

func (t *fullTile) root() tlog.Hash { return t[tileHeight][0] }

// encodeTile concatenates the hashes of a tile (C2SP tlog-tiles).
func encodeTile(hashes []tlog.Hash) []byte {
	out := make([]byte, 0, len(hashes)*tlog.HashSize)
	for i := range hashes {
		out = append(out, hashes[i][:]...)
	}
	return out
}

// encodeBundle is an entry bundle: for each leaf its data behind a uint16
// length (C2SP tlog-tiles).
func encodeBundle(leaves []commitment) []byte {
	out := make([]byte, 0, len(leaves)*(2+sha256.Size))
	for i := range leaves {
		out = append(out, 0, sha256.Size)
		out = append(out, leaves[i][:]...)
	}
	return out
}
