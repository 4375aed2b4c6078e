package bench

import (
	"strconv"
	"testing"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// BenchmarkImpact asks what the resource reaches that most models rest on: the
// first hundred versions, and all of them.
func BenchmarkImpact(b *testing.B) {
	for _, models := range []int{1000, 100000} {
		log, err := namedLog(models)
		if err != nil {
			b.Fatal(err)
		}
		g, err := lineage.Open(b.TempDir(), log, noSigners, parseNothing)
		if err != nil {
			b.Fatal(err)
		}
		defer g.Close()
		if err := g.Follow(b.Context(), log); err != nil {
			b.Fatal(err)
		}
		v, err := g.View(lineage.At{})
		if err != nil {
			b.Fatal(err)
		}
		most, used := mostUsed(b, log)
		b.Logf("%d models: %s is used by %d steps", models, most.Short(), used)
		for _, page := range []int{100, models} {
			b.Run("models="+strconv.Itoa(models)+"/first="+strconv.Itoa(page), func(b *testing.B) {
				for b.Loop() {
					n := 0
					for _, err := range v.Impact(b.Context(), []schema.Start{{Key: most}}, lineage.Span{}) {
						if err != nil {
							b.Fatal(err)
						}
						if n++; n == page {
							break
						}
					}
					if n == 0 {
						b.Fatal("nothing is reached")
					}
				}
			})
		}
	}
}

// mostUsed is the resource that most steps use, and how many do.
func mostUsed(b *testing.B, log *log) (schema.Key, int) {
	b.Helper()
	uses := map[schema.Key]int{}
	for _, e := range log.entries {
		s, err := e.Envelope.Statement()
		if err != nil {
			b.Fatal(err)
		}
		f, err := s.Facts()
		if err != nil {
			b.Fatal(err)
		}
		if f.Step == nil {
			continue
		}
		for _, u := range f.Step.Uses {
			uses[u.Key]++
		}
	}
	var most schema.Key
	for k, n := range uses {
		if n > uses[most] || n == uses[most] && k < most {
			most = k
		}
	}
	return most, uses[most]
}
