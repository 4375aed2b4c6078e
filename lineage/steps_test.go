package lineage_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/verify"
)

// TestStepsDoNotMatter follows a random log at once, entry by entry and in
// steps of many sizes, with and without the index being opened anew in between.
// All indexes hold the same bytes and give the same answers.
func TestStepsDoNotMatter(t *testing.T) {
	n := 2500 // more than two stretches
	if testing.Short() {
		n = 300
	}
	log := randomWorld(t, 21, n)
	rnd := rand.New(rand.NewPCG(21, 2))
	for range 5 {
		log.EraseFor(1+rnd.Int64N(log.Size()-1), "personal data", lineagetest.FileKey("file 3"))
	}
	want := log.Graph(t)
	answers := everything(t, at(t, want, lineage.At{}))
	for _, steps := range []struct {
		name   string
		length func() int64
		reopen bool
	}{
		{"one", func() int64 { return 1 }, false},
		{"a few", func() int64 { return 1 + rnd.Int64N(40) }, false},
		{"many", func() int64 { return 1 + rnd.Int64N(1500) }, false},
		{"many, opened anew", func() int64 { return 1 + rnd.Int64N(400) }, true},
	} {
		t.Run(steps.name, func(t *testing.T) {
			dir := t.TempDir()
			g, err := openIn(t, dir, log)
			for size := steps.length(); err == nil; size += steps.length() {
				part := log.Prefix(min(size, log.Size()))
				if err = g.Follow(t.Context(), part); err != nil || size >= log.Size() {
					break
				}
				if steps.reopen {
					if err = g.Close(); err == nil {
						g, err = openIn(t, dir, log)
					}
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			if err := g.Compare(t.Context(), want); err != nil {
				t.Error(err)
			}
			if got := everything(t, at(t, g, lineage.At{})); !reflect.DeepEqual(got, answers) { // cmp takes ten times as long
				t.Errorf("followed in steps, the index answers otherwise:\n%s", cmpDiff(answers, got))
			}
		})
	}
}

func openIn(t *testing.T, dir string, log *lineagetest.Log) (*lineage.Graph, error) {
	t.Helper()
	g, err := lineage.Open(dir, log, verify.Signers, verify.Trusted)
	if err != nil {
		return nil, fmt.Errorf("opening the index again: %w", err)
	}
	return g, nil
}
