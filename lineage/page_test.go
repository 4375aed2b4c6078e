package lineage_test

import (
	"slices"
	"testing"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

// TestManyEntriesOfOneResource uses one file in far more steps than a page
// lists, half of them followed later, and asks which those are as of many sizes.
func TestManyEntriesOfOneResource(t *testing.T) {
	log := lineagetest.New(t)
	var used []int64
	for range 700 {
		made := string(rune('a' + len(used)%5))
		used = append(used, log.Add(run(t, "run-"+made, made, "data")))
		log.Add(run(t, "other", "x", "y"))
	}
	g := log.Open(t, t.TempDir())
	for _, size := range []int64{600, log.Size()} {
		if err := g.Follow(t.Context(), log.Prefix(size)); err != nil {
			t.Fatal(err)
		}
	}
	rebuilt(t, g, log)
	for _, size := range []int64{2, 511, 512, 513, 514, 1025, log.Size()} {
		v := at(t, g, lineage.At{Size: size})
		got, err := v.Mentions(lineagetest.FileKey("data"))
		below, _ := slices.BinarySearch(used, size)
		if err != nil || !slices.Equal(got, used[:below]) {
			t.Errorf("as of %d entries, Mentions = %d entries, %v; want %d", size, len(got), err, below)
		}
	}
	n, err := at(t, g, lineage.At{}).Node(t.Context(), lineagetest.FileKey("data"), schema.Downstream)
	if err != nil || !slices.Equal(n.Used, used) || len(n.Made) > 0 {
		t.Errorf("the file is used by %d steps and made by %d, %v; want %d and none", len(n.Used), len(n.Made), err, len(used))
	}
	n, err = at(t, g, lineage.At{}).Node(t.Context(), lineagetest.FileKey("a"), schema.Upstream)
	if err != nil || len(n.Made) != len(used)/5 || n.Made[0] != used[0] {
		t.Errorf("Node = %+v, %v; want it made %d times", n, err, len(used)/5)
	}
}
