package lineage_test

import (
	"slices"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

// TestGapBlind tells the steps that ran while nobody looked from those that did
// not, by the coverage of their own source alone.
func TestGapBlind(t *testing.T) {
	log := lineagetest.New(t)
	at := func(second int) time.Time { return lineagetest.Epoch.Add(time.Duration(second) * time.Second) }
	coverage := func(from, to int, blind string) schema.Statement {
		return lineagetest.Statement(t, schema.CoverageV1, schema.Coverage{Source: "test", From: at(from), To: at(to), Blind: blind},
			schema.Descriptor{Name: "listing", Digest: schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(blind)).Hex()}})
	}
	step := func(id, parent string, from, to int) schema.Statement {
		return lineagetest.Run{ID: id, Argv: []string{"x"}, Parent: parent, Started: at(from), Took: time.Duration(to-from) * time.Second, Makes: []schema.Descriptor{file(id)}}.Statement(t)
	}
	for _, s := range []schema.Statement{
		coverage(0, 10, ""), coverage(10, 20, "the server is down"), coverage(20, 30, ""),
		step("before", "", 2, 9), step("into", "", 5, 12), step("within", "", 12, 15), step("after", "before", 21, 25), step("orphan", "nobody", 21, 25),
	} {
		log.Add(s)
	}
	log.AddUnsigned(coverage(20, 40, "says somebody"))
	v := log.View(t)
	for id, want := range map[string][]string{"before": nil, "into": {"watcher-blind"}, "within": {"watcher-blind"}, "after": nil, "orphan": {"parent-not-recorded"}} {
		gaps, err := v.Gaps(t.Context(), resolve(t, v, ref(id)), nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, g := range gaps {
			got = append(got, g.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: gaps %v, want %v", id, got, want)
		}
	}
}
