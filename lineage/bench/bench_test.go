package bench

import (
	"encoding/json"
	"os"
	"strconv"
	"testing"

	"github.com/retrace-ledger/retrace/schema"
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

// TestStatements checks that what is stated of each model ends in its name.
func TestStatements(t *testing.T) {
	all, err := Statements(20)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 20 {
		t.Fatalf("Statements(20) = %d models", len(all))
	}
	for i, of := range all {
		if len(of) != 7 || of[6].PredicateType != schema.ModelV1 {
			t.Fatalf("model %d has %d statements, want 7 with its name last", i, len(of))
		}
		made, named := of[5].Subject[0].Digest[schema.SHA256], of[6].Subject[0].Digest[schema.SHA256]
		if made == "" || made != named {
			t.Errorf("model %d: the last step made %s, the name is for %s", i, made, named)
		}
	}
}
