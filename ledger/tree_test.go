package ledger

import (
	"encoding/base64"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"
)

// TestTreeVectors compares the tree with values that x/mod, Tessera's merkle
// and torchwood agree on.
func TestTreeVectors(t *testing.T) {
	if got, want := hex.EncodeToString(rootOf(t, newTree())), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"; got != want {
		t.Errorf("root of the empty tree = %s, want %s", got, want)
	}
	tree := newTree()
	for i, v := range []struct{ data, leaf, root string }{
		{"alpha", "2a158d8afd48e3f88cb4195dfdb2a9e4817d95fa57fd34440d93f9aae5c4f82b", "KhWNiv1I4/iMtBld/bKp5IF9lfpX/TREDZP5quXE+Cs="},
		{"beta", "e23537b050e84af2cbaab46f2f83d8d3b5febc8e5ac6200d306284f687d46924", "mDy1fATN3VJjTtqzinvvhXCKl08RS72aqexdTOZla0s="},
		{"gamma", "4c79d0d62f7cf5ca8874155f2d3b875f2625da2bb3abc86bbd6833f25ba90e51", "OF2jDzkXKCyJOd/4UZV+UZqxhGsTUaFMCts7EWMnQqo="},
	} {
		leaf := tlog.RecordHash([]byte(v.data))
		if got := hex.EncodeToString(leaf[:]); got != v.leaf {
			t.Errorf("leaf %q = %s, want %s", v.data, got, v.leaf)
		}
		if err := tree.grow(leaf); err != nil {
			t.Fatal(err)
		}
		if got := base64.StdEncoding.EncodeToString(rootOf(t, tree)); got != v.root {
			t.Errorf("root of size %d = %s, want %s", i+1, got, v.root)
		}
	}
	var l Ledger
	v := &view{edge: tree.edge}
	p, err := tlog.ProveRecord(3, 1, l.hashes(nil, v))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range p {
		got = append(got, h.String())
	}
	want := []string{"KhWNiv1I4/iMtBld/bKp5IF9lfpX/TREDZP5quXE+Cs=", "THnQ1i989cqIdBVfLTuHXyYl2iuzq8hrvWgz8lupDlE="}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inclusion of 1 in 3: %s", diff)
	}
	c, err := tlog.ProveTree(3, 2, l.hashes(nil, v))
	if err != nil {
		t.Fatal(err)
	}
	if len(c) != 1 || c[0].String() != want[1] {
		t.Errorf("consistency of 2 with 3 = %v, want [%s]", c, want[1])
	}
}

func rootOf(t *testing.T, tree *tree) []byte {
	t.Helper()
	root, err := tree.root()
	if err != nil {
		t.Fatal(err)
	}
	return root[:]
}

// TestTreeRebuild compares a tree that grew with one that was rebuilt from its
// right edge, and both with the reference of package tlog, at sizes around
// every boundary.
func TestTreeRebuild(t *testing.T) {
	const most = 1 << 17
	rnd := rand.New(rand.NewPCG(1, 2))
	check := map[int64]bool{}
	for _, at := range []int64{1, 2, 3, 255, 256, 257, 511, 512, 513, 65279, 65280, 65281, 65535, 65536, 65537, 65792, 65793, most} {
		check[at] = true
	}
	for range 60 {
		check[1+rnd.Int64N(most)] = true
	}
	grown := newTree()
	tiles := map[tileID][]tlog.Hash{}
	grown.full = func(level int, index int64, hashes []tlog.Hash, leaves []commitment) {
		if want := map[bool]int{true: tileWidth}[level == 0]; len(leaves) != want || len(hashes) != tileWidth {
			t.Fatalf("tile %d of level %d has %d hashes and %d leaves", index, level, len(hashes), len(leaves))
		}
		tiles[tileID{level, index}] = hashes
	}
	var leaves []commitment
	var reference []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range at {
			out = append(out, reference[i])
		}
		return out, nil
	})
	for size := int64(1); size <= most; size++ {
		var c commitment
		for i := range c {
			c[i] = byte(rnd.Uint32())
		}
		leaves = append(leaves, c)
		stored, err := tlog.StoredHashes(size-1, c[:], reader)
		if err != nil {
			t.Fatal(err)
		}
		reference = append(reference, stored...)
		if _, err := grown.add(c); err != nil {
			t.Fatal(err)
		}
		if !check[size] {
			continue
		}
		want, err := tlog.TreeHash(size, reader)
		if err != nil {
			t.Fatal(err)
		}
		if got := tlog.Hash(rootOf(t, grown)); got != want {
			t.Fatalf("root of size %d = %v, want %v", size, got, want)
		}
		_, width := edgeWidth(size, 0)
		rebuilt, err := rebuildTree(size, leaves[size-int64(width):], func(level int, from int64, n int) ([]tlog.Hash, error) {
			var roots []tlog.Hash
			for i := range n {
				tile, err := expandTile(encodeTile(tiles[tileID{level, from + int64(i)}]))
				if err != nil {
					return nil, err
				}
				roots = append(roots, tile.root())
			}
			return roots, nil
		})
		if err != nil {
			t.Fatalf("rebuilding size %d: %v", size, err)
		}
		if got := tlog.Hash(rootOf(t, rebuilt)); got != want {
			t.Fatalf("rebuilt root of size %d = %v, want %v", size, got, want)
		}
		for level := range 24 {
			for _, n := range []int64{size>>level - 1, size >> level} {
				a, okA := grown.edge.node(level, n)
				b, okB := rebuilt.edge.node(level, n)
				if a != b || okA != okB {
					t.Fatalf("size %d: node %d of level %d: grown %v %v, rebuilt %v %v", size, n, level, a, okA, b, okB)
				}
			}
		}
	}
}
