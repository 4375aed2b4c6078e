package schema

import (
	"strings"
	"testing"
)

// watched is the statement of a step that a watcher saw, with what edit makes
// of its predicate.
func watched(t *testing.T, edit func(*Provenance, *StepParameters)) (Statement, error) {
	t.Helper()
	sp := StepParameters{Engine: "argo", Namespace: "ml", Pipeline: "forecast", Task: "train", Parent: "w1", Status: "Succeeded", Parameters: map[string]string{"ridge": "0.1"}}
	p := Provenance{
		BuildDefinition: BuildDefinition{
			BuildType:            StepBuildType,
			ResolvedDependencies: []Descriptor{{Name: "data", URI: "s3://data/weather.csv"}},
		},
		RunDetails: RunDetails{
			Builder:    Builder{ID: "https://github.com/retrace-ledger/retrace/ingest/argo"},
			Metadata:   Metadata{InvocationID: "w1/n1"},
			Byproducts: []Descriptor{{Name: "model", URI: "s3://models/w1/model", Annotations: map[string]any{AnnotationRole: RoleOutput}}},
		},
	}
	edit(&p, &sp)
	raw, err := Canonical(sp)
	if err != nil {
		t.Fatal(err)
	}
	p.BuildDefinition.ExternalParameters = raw
	run, err := RunSubject("w1/n1", p)
	if err != nil {
		t.Fatal(err)
	}
	return NewStatement(ProvenanceV1, p, run)
}

func TestWatchedStep(t *testing.T) {
	s, err := watched(t, func(*Provenance, *StepParameters) {})
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.Facts()
	if err != nil {
		t.Fatal(err)
	}
	if st := f.Step; st.Name != "forecast/train" || st.Parent != "w1" || st.Run != "w1/n1" || st.Parameters["ridge"] != "0.1" ||
		len(st.Uses) != 1 || st.Uses[0].Key != "uri:s3://data/weather.csv" ||
		len(st.Generates) != 1 || st.Generates[0].Key != "uri:s3://models/w1/model" {
		t.Errorf("step %+v", st)
	}
	for want, edit := range map[string]func(*Provenance, *StepParameters){
		"externalParameters.engine: missing":    func(_ *Provenance, sp *StepParameters) { sp.Engine = "" },
		"externalParameters.status: missing":    func(_ *Provenance, sp *StepParameters) { sp.Status = "" },
		"invocationId: missing":                 func(p *Provenance, _ *StepParameters) { p.RunDetails.Metadata.InvocationID = "" },
		"is not the run itself":                 func(p *Provenance, _ *StepParameters) { p.RunDetails.Metadata.InvocationID = "w2" },
		"byproducts.0: an output here has a lo": func(p *Provenance, _ *StepParameters) { p.RunDetails.Byproducts[0].URI = "" },
	} {
		if _, err := watched(t, edit); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
