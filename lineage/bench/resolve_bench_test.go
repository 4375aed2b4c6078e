package bench

import (
	"testing"

	"github.com/retrace-ledger/retrace/lineage"
)

// BenchmarkResolve resolves whole digests, the references that programs ask by.
func BenchmarkResolve(b *testing.B) {
	l, err := newLog(2000)
	if err != nil {
		b.Fatal(err)
	}
	g, err := lineage.Open(b.TempDir(), l, noSigners, parseNothing)
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	if err := g.Follow(b.Context(), l); err != nil {
		b.Fatal(err)
	}
	v, err := g.View(lineage.At{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := v.Resolve(string(l.models[i%400])); err != nil {
			b.Fatal(err)
		}
	}
}
