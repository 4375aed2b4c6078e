package bench

import (
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// BenchmarkFollow builds the index of a thousand and of ten thousand models
// whose entries are in memory already, without looking at signatures: what the
// index itself costs.
func BenchmarkFollow(b *testing.B) {
	for _, models := range []int{1000, 10000} {
		b.Run("models="+strconv.Itoa(models), func(b *testing.B) {
			log, err := namedLog(models)
			if err != nil {
				b.Fatal(err)
			}
			dir := b.TempDir()
			var took time.Duration
			for i := range b.N {
				g, err := lineage.Open(filepath.Join(dir, strconv.Itoa(i)), log, noSigners, parseNothing)
				if err != nil {
					b.Fatal(err)
				}
				start := time.Now()
				if err := g.Follow(b.Context(), log); err != nil {
					b.Fatal(err)
				}
				took += time.Since(start)
				if err := g.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(took.Microseconds())/float64(int64(b.N)*log.Size()), "µs/entry")
		})
	}
}

// namedLog is the log of the user's case: the genesis, and what Statements
// states.
func namedLog(models int) (*log, error) {
	all, err := Statements(models)
	if err != nil {
		return nil, err
	}
	l := new(log)
	if err := l.genesis(); err != nil {
		return nil, err
	}
	for _, of := range all {
		for _, s := range of {
			if err := l.state(s); err != nil {
				return nil, err
			}
		}
	}
	return l, nil
}

// state appends s as newLog does.
func (l *log) state(s schema.Statement) error {
	return l.add(s.PredicateType, s.Predicate, s.Subject...)
}
