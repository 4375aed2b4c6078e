package lineage_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

// deployed says that a workload serves a model, as a watcher does.
func deployed(t *testing.T, name, previous string, deleted bool, models ...schema.Descriptor) schema.Statement {
	t.Helper()
	d := schema.Deployment{Workload: "prod/ml/InferenceService/" + name, Models: models, Deleted: deleted, Previous: previous}
	raw, err := schema.Canonical(d)
	if err != nil {
		t.Fatal(err)
	}
	return lineagetest.Statement(t, schema.DeploymentV1, d, schema.Descriptor{
		Name: "workload:" + d.Workload, Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(raw).Hex()},
	})
}

// reached lists what an impact gives: NAME, ! where it runs, ? where the way to
// it rests on a claim, @DEPTH.
func reached(t *testing.T, v *lineage.View, span lineage.Span, starts ...schema.Start) []string {
	t.Helper()
	var out []string
	for r, err := range v.Impact(t.Context(), starts, span) {
		if err != nil {
			t.Fatal(err)
		}
		s := strings.TrimPrefix(strings.TrimPrefix(r.Name, "model:"), "workload:prod/ml/InferenceService/")
		if r.Running {
			s += "!"
		}
		if r.Claimed {
			s += "?"
		}
		out = append(out, fmt.Sprintf("%s@%d", s, r.Depth))
	}
	return out
}

func start(content string) schema.Start { return schema.Start{Key: lineagetest.FileKey(content)} }

func TestImpact(t *testing.T) {
	log := lineagetest.New(t)
	log.Add(run(t, "one", "features", "data"))                        // 1
	log.Add(run(t, "two", "weights", "features"))                     // 2
	log.Add(run(t, "other", "weights", "other data"))                 // 3: the same bytes, by another run
	log.Add(lineagetest.Model(t, "m", "1", "two", file("weights")))   // 4
	log.Add(lineagetest.Model(t, "m", "2", "other", file("weights"))) // 5
	log.AddUnsigned(run(t, "claimed", "copy", "weights"))             // 6
	log.AddUnsigned(lineagetest.Model(t, "c", "1", "claimed", file("copy")))
	log.Add(deployed(t, "old", "", false, file("weights"))) // 8
	log.Add(deployed(t, "new", "", false, file("weights"))) // 9
	log.Add(deployed(t, "old", strings.Repeat("a", 64), false, file("something else")))
	log.Add(deployed(t, "gone", "", false, file("weights"))) // 11
	log.Add(deployed(t, "gone", strings.Repeat("b", 64), true, file("weights")))
	v := log.View(t)
	for name, c := range map[string]struct {
		from string
		span lineage.Span
		want []string
	}{
		"now":        {"data", lineage.Span{}, []string{"m@1@2", "c@1?@3", "old@3", "new!@3", "gone@3"}},
		"other data": {"other data", lineage.Span{}, []string{"m@2@1", "c@1?@2", "old@2", "new!@2", "gone@2"}},
		"a span": {"data", lineage.Span{Since: lineagetest.RecordedAt(8), Until: lineagetest.RecordedAt(9)},
			[]string{"m@1@2", "c@1?@3", "old!@3", "new@3", "gone@3"}},
		"since": {"data", lineage.Span{Since: lineagetest.RecordedAt(10).Add(time.Second)},
			[]string{"m@1@2", "c@1?@3", "old@3", "new!@3", "gone!@3"}},
		"nothing": {"nobody knows it", lineage.Span{}, nil},
	} {
		if diff := cmp.Diff(c.want, reached(t, v, c.span, start(c.from))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	// As of an earlier size and an earlier time.
	if diff := cmp.Diff([]string{"m@1@2", "c@1?@3", "old!@3"}, reached(t, at(t, log.Graph(t), lineage.At{Size: 9}), lineage.Span{}, start("data"))); diff != "" {
		t.Errorf("as of size 9 (-want +got):\n%s", diff)
	}
	then := at(t, log.Graph(t), lineage.At{Time: lineagetest.RecordedAt(9)})
	if diff := cmp.Diff([]string{"m@1@2", "c@1?@3", "old!@3", "new!@3", "gone@3"}, reached(t, then, lineage.Span{}, start("data"))); diff != "" {
		t.Errorf("at an earlier time (-want +got):\n%s", diff)
	}
	// Two places to begin from give nothing twice.
	if got := reached(t, v, lineage.Span{}, start("data"), start("features"), start("other data")); len(got) != 6 {
		t.Errorf("from three places: %v", got)
	}
}

// TestImpactOfKey begins from everything that a key vouched for.
func TestImpactOfKey(t *testing.T) {
	log := lineagetest.New(t)
	bad := lineagetest.Key(t, 11)
	log.Add(lineagetest.Trust(t, bad, nil))
	log.AddBy(bad, run(t, "bad", "features", "data"))
	log.Add(run(t, "good", "weights", "features"))
	log.Add(lineagetest.Model(t, "m", "1", "good", file("weights")))
	log.Add(run(t, "apart", "other", "data"))
	log.Add(lineagetest.Model(t, "o", "1", "apart", file("other")))
	v := log.View(t)
	starts, err := v.SignedBy(t.Context(), log.Entry, bad.ID())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"m@1@1"}, reached(t, v, lineage.Span{}, starts...)); diff != "" {
		t.Errorf("what the key vouched for (-want +got):\n%s", diff)
	}
	if starts, err := v.SignedBy(t.Context(), log.Entry, "SHA256:nobody"); err != nil || len(starts) != 0 {
		t.Errorf("a key that signed nothing: %v, %v", starts, err)
	}
}
