package ledger_test

import (
	"testing"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
)

func BenchmarkOpen(b *testing.B) {
	w := filled(b, 2000, 100)
	unclean := ledgertest.Copy(b, w.Dir())
	w.Close()
	clean := w.Dir()
	b.Run("closed", func(b *testing.B) {
		for b.Loop() {
			l, err := ledger.Open(clean, w.Signer, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			l.Close()
			b.StartTimer()
		}
	})
	b.Run("killed", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			dir := ledgertest.Copy(b, unclean)
			b.StartTimer()
			l, err := ledger.Open(dir, w.Signer, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			l.Close()
			b.StartTimer()
		}
	})
	b.Run("readonly", func(b *testing.B) {
		for b.Loop() {
			l, err := ledger.OpenReadOnly(clean, w.Verifier, nil)
			if err != nil {
				b.Fatal(err)
			}
			l.Close()
		}
	})
}
