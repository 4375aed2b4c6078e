package lineage_test

import (
	"slices"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

// pipelineStep is a step of a pipeline that digests nothing: it reads and leaves
// things at locations.
func pipelineStep(t *testing.T, run, reads, leaves string) schema.Statement {
	t.Helper()
	external, err := schema.Canonical(schema.StepParameters{Engine: "test", Status: "Succeeded"})
	if err != nil {
		t.Fatal(err)
	}
	at := func(role, uri string) schema.Descriptor {
		return lineagetest.As(role, "", schema.Descriptor{Name: uri, URI: uri})
	}
	p := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{BuildType: schema.StepBuildType, ExternalParameters: external, ResolvedDependencies: []schema.Descriptor{at(schema.RoleInput, reads)}},
		RunDetails: schema.RunDetails{
			Builder:    schema.Builder{ID: "https://example.com/engine"},
			Metadata:   schema.Metadata{InvocationID: run, StartedOn: lineagetest.Epoch, FinishedOn: lineagetest.Epoch.Add(time.Second)},
			Byproducts: []schema.Descriptor{at(schema.RoleOutput, leaves)},
		},
	}
	subject, err := schema.RunSubject(run, p)
	if err != nil {
		t.Fatal(err)
	}
	return lineagetest.Statement(t, schema.ProvenanceV1, p, subject)
}

// seen states what was found at a location.
func seen(t *testing.T, uri, version, content, run string) schema.Statement {
	t.Helper()
	d := file(content)
	d.URI = uri + "?versionId=" + version
	return lineagetest.Statement(t, schema.SnapshotV1, schema.Snapshot{Source: uri, Run: run, Count: 1, Version: version}, d)
}

// TestLocatedBytes checks that bytes which were found at a location lead to the
// step that left them there, and the location to its bytes.
func TestLocatedBytes(t *testing.T) {
	const table, model = "s3://b/table", "s3://b/model"
	log := lineagetest.New(t)
	log.Add(pipelineStep(t, "prepare", "s3://b/raw", table))
	log.Add(pipelineStep(t, "train", table, model))
	log.Add(seen(t, table, "1", "the table", "prepare"))
	before := log.Size()
	log.Add(seen(t, model, "1", "the model", "train"))
	v := log.View(t)

	for _, start := range []string{model, ref("the model")} {
		l := answer(t, v, start, lineage.LineageOptions{})
		var runs []string
		for _, s := range l.Steps {
			runs = append(runs, s.Step.Run)
		}
		slices.Sort(runs)
		if !slices.Equal(runs, []string{"prepare", "train"}) {
			t.Errorf("%s was made by the runs %v, want those that left it and its table", start, runs)
		}
		for _, key := range []schema.Key{lineagetest.FileKey("the table"), lineagetest.FileKey("the model"), schema.URIKey("s3://b/raw")} {
			if !slices.ContainsFunc(l.Resources, func(r schema.Resource) bool { return r.Key == key }) {
				t.Errorf("the lineage of %s is without %s", start, key)
			}
		}
	}
	if l := answer(t, v, ref("the table"), lineage.LineageOptions{Direction: schema.Downstream}); !slices.ContainsFunc(l.Resources, func(r schema.Resource) bool { return r.Key == lineagetest.FileKey("the model") }) {
		t.Errorf("what was made from the table is without the model: %v", edges(l))
	}

	gaps := func(v *lineage.View) (ids []string) {
		t.Helper()
		found, err := v.Gaps(t.Context(), resolve(t, v, model), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range found {
			if g.Key == schema.URIKey(model) {
				ids = append(ids, g.ID)
			}
		}
		return ids
	}
	if got := gaps(v); len(got) > 0 {
		t.Errorf("gaps of a location whose bytes are known: %v", got)
	}
	if got := gaps(at(t, log.Graph(t), lineage.At{Size: before})); !slices.Contains(got, "no-digest") {
		t.Errorf("gaps of a location before anybody looked there: %v, want no-digest", got)
	}
	log.Add(seen(t, model, "2", "another model", "train"))
	if got := gaps(log.View(t)); !slices.Contains(got, "location-reused") {
		t.Errorf("gaps of a location that held two contents: %v, want location-reused", got)
	}
}
