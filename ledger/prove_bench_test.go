package ledger_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/verify"
)

// BenchmarkProve makes inclusion proofs of random entries, with all tiles in
// the cache and with none, and verifies one: the hashes alone, and with the
// checkpoint's signature.
func BenchmarkProve(b *testing.B) {
	const size = 20_000
	w := filled(b, size, 1000)
	ctx := context.Background()
	prove := func(b *testing.B) {
		if _, err := w.ProveInclusion(ctx, rand.Int64N(size), size); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("warm", func(b *testing.B) {
		for at := int64(0); at < size; at += 256 {
			if _, err := w.ProveInclusion(ctx, at, size); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportAllocs()
		for b.Loop() {
			prove(b)
		}
	})
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			reopen(b, w)
			b.StartTimer()
			prove(b)
		}
	})
	const index = 12_345
	e, err := w.Entry(ctx, index)
	if err != nil {
		b.Fatal(err)
	}
	p, err := w.Proof(ctx, index)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("verify", func(b *testing.B) {
		cp, err := verify.OpenCheckpoint(p.Checkpoint, w.Verifier)
		if err != nil {
			b.Fatal(err)
		}
		leaf := tlog.RecordHash(e.Commitment[:])
		for b.Loop() {
			if err := tlog.CheckRecord(p.Hashes, cp.Size, cp.Root, index, leaf); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify-signed", func(b *testing.B) {
		for b.Loop() {
			if _, err := p.Verify(e.Commitment, w.Verifier); err != nil {
				b.Fatal(err)
			}
		}
	})
}
