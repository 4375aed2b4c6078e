package bench

import (
	"context"
	"fmt"
	"testing"
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
