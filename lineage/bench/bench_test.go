package bench

import (
	"encoding/json"
	"os"
	"strconv"
	"testing"
)

// TestLineage checks that the measurement runs and compares like with like;
// RETRACE_BENCH_MODELS makes it larger, and -v shows it.
func TestLineage(t *testing.T) {
	models := 60
	if n, err := strconv.Atoi(os.Getenv("RETRACE_BENCH_MODELS")); err == nil {
		models = n
	}
	got, err := Lineage(t.Context(), t.TempDir(), models)
	if err != nil {
		t.Fatal(err)
	}
	r := got[0]
	if r.Models != models || r.Edges < 18*models || r.P50Us <= 0 || r.MapP50Us <= 0 || r.Ratio <= 0 {
		t.Errorf("Lineage = %+v", r)
	}
	raw, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", raw)
}
