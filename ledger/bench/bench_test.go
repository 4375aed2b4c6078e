package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
)

func TestAppend(t *testing.T) {
	results, err := Append(context.Background(), t.TempDir(), []int{1, 16}, 64)
	if err != nil {
		t.Fatal(err)
	}
	for i, callers := range []int{1, 16} {
		r := results[i]
		if r.Callers != callers || r.PerSecond <= 0 || r.RawPerSecond <= 0 || r.Ratio <= 0 || r.CheckingShare <= 0 || r.P50Ms <= 0 || r.P99Ms < r.P50Ms {
			t.Errorf("%+v", r)
		}
	}
}

// BenchmarkAppend reports entries per second, the same of a bare store, and
// the ratio of the two.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			entries := max(b.N, 4*callers)
			results, err := Append(b.Context(), b.TempDir(), []int{callers}, entries)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(results[0].PerSecond, "entries/s")
			b.ReportMetric(results[0].RawPerSecond, "raw-entries/s")
			b.ReportMetric(results[0].Ratio, "ratio")
			b.ReportMetric(results[0].CheckingRatio, "checking-ratio")
			b.ReportMetric(results[0].CheckingShare, "checking-share")
			b.ReportMetric(results[0].P99Ms, "p99-ms")
		})
	}
}

func TestGrow(t *testing.T) {
	dir := t.TempDir()
	var reported int64
	g, err := Grow(context.Background(), dir, 2000, func(done int64) { reported = done })
	if err != nil {
		t.Fatal(err)
	}
	if g.Entries != 2000 || reported != 2000 || len(g.Tenths) != 10 {
		t.Errorf("filled with %d, reported %d in %d parts; want 2000, 2000 and 10", g.Entries, reported, len(g.Tenths))
	}
	if g.PerSecond <= 0 || g.Flat <= 0 || g.IdleBytes <= 0 || g.OpenMs <= 0 || g.OpenColdMs <= 0 || g.FsckPerSecond <= 0 {
		t.Errorf("something took no time or memory: %+v", g)
	}
	if g.EnvelopeBytes < 2000*1500 || g.EnvelopeBytes > 2000*1900 || g.DiskBytes < g.EnvelopeBytes {
		t.Errorf("%d bytes of envelopes on %d of disk, want about 1.7 KB each and more disk", g.EnvelopeBytes, g.DiskBytes)
	}
	// 2,001 entries: a path has at most 11 hashes.
	if g.ProofBytes < 32 || g.ProofBytes > 11*32 || g.ProofText <= g.ProofBytes {
		t.Errorf("a proof of %d bytes, %d as text", g.ProofBytes, g.ProofText)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestGrowTooSmall(t *testing.T) {
	if _, err := Grow(context.Background(), t.TempDir(), 9, nil); err == nil {
		t.Error("Grow(9) did not refuse")
	}
}

func TestContest(t *testing.T) {
	key, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewContest(t.TempDir(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	envs, err := Envelopes(50)
	if err != nil {
		t.Fatal(err)
	}
	calls := [][]schema.Envelope{envs[:7]}
	for i := range envs[7:] {
		calls = append(calls, envs[7+i:8+i])
	}
	turn, batches, err := c.Append(t.Context(), 8, calls)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, b := range batches {
		n += b
	}
	if n != 50 || len(turn.Each) != 44 || turn.Took <= 0 || c.Log.Size() != 51 {
		t.Errorf("%d entries in batches, %d calls in %s, %d entries with the genesis; want 50, 44 and 51", n, len(turn.Each), turn.Took, c.Log.Size())
	}
	if raw, err := c.Raw(envs, batches); err != nil || raw.Took <= 0 {
		t.Errorf("Raw: %v, %v", raw.Took, err)
	}
}

// BenchmarkProveOpen reports the microseconds of one inclusion proof, made and
// verified, and the milliseconds of opening, in ledgers of different sizes.
func BenchmarkProveOpen(b *testing.B) {
	for _, size := range []int64{1e3, 1e5} {
		b.Run(fmt.Sprintf("size=%.0e", float64(size)), func(b *testing.B) {
			dir := filepath.Join(b.TempDir(), "ledger")
			key, err := keys.Generate()
			if err != nil {
				b.Fatal(err)
			}
			signer, verifier, err := create(dir, key)
			if err != nil {
				b.Fatal(err)
			}
			g := Growth{Entries: size}
			if err := g.fill(b.Context(), dir, signer, nil); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			for range b.N {
				if err := g.ask(b.Context(), dir, signer, verifier); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(g.ProveUs, "prove-µs")
			b.ReportMetric(g.VerifyUs, "verify-µs")
			b.ReportMetric(float64(g.ProofBytes), "proof-B")
			b.ReportMetric(g.OpenMs, "open-ms")
			b.ReportMetric(g.OpenColdMs, "cold-open-ms")
		})
	}
}
