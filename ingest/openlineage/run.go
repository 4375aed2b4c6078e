package openlineage

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// Bounds of what is recorded of a run.
const (
	maxMessage   = 512      // bytes of an error
	maxParameter = 16 << 10 // bytes of a value; of a longer one its digest is recorded
	maxMetrics   = 2000     // numbers
	maxAliases   = 16       // other names of one dataset
	engine       = "openlineage"
)

// Statements are the steps that events of a document state, one for each run,
// in the order of their run IDs.
func Statements(raw []byte) ([]schema.Statement, error) {
	events, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	runs := map[string][]Event{}
	for _, e := range events {
		runs[e.RunID] = append(runs[e.RunID], e)
	}
	var all []schema.Statement
	for _, id := range slices.Sorted(maps.Keys(runs)) {
		s, err := Statement(runs[id], "")
		if err != nil {
			return nil, fmt.Errorf("run %s: %w", id, err)
		}
		all = append(all, s)
	}
	return all, nil
}

// Statement is the step that the events of one run state together, in whatever
// order they are given. It takes the place of the statement whose run has the key
// replaces, if that is not empty.
func Statement(events []Event, replaces schema.Key) (schema.Statement, error) {
	r := merge(events)
	s := &step{run: r, metrics: map[string]any{}}
	s.params = schema.StepParameters{
		Engine: engine, Namespace: r.job.Namespace, Task: r.job.Name, Status: cmp.Or(r.status, "UNKNOWN"), Replaces: replaces,
		Parameters: map[string]string{}, Labels: map[string]string{},
	}
	if err := s.read(); err != nil {
		return schema.Statement{}, err
	}
	return s.build()
}

// run is what the events of one run say together.
type run struct {
	id       string
	status   string
	began    time.Time
	ended    time.Time
	producer string // of the first event
	job      jobPart
	facets   facets
	inputs   []dataset // by namespace and name
	outputs  []dataset
}

// merge adds events up: facets and datasets of all of them, later ones before
// earlier ones by the time that they state.
func merge(events []Event) *run {
	events = slices.Clone(events)
	slices.SortFunc(events, func(a, b Event) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(rank(a.Type), rank(b.Type)), bytes.Compare(a.raw, b.raw))
	})
	events = slices.CompactFunc(events, func(a, b Event) bool { return bytes.Equal(a.raw, b.raw) })
	first := events[0]
	r := &run{id: first.RunID, began: first.Time, producer: first.doc.Producer, facets: facets{}}
	inputs, outputs := map[[2]string]*dataset{}, map[[2]string]*dataset{}
	of := facets{}
	for _, e := range events {
		switch {
		case terminal(e.Type):
			r.status, r.ended = e.Type, e.Time
		case e.Type != "" && e.Type != "OTHER" && !terminal(r.status):
			r.status = e.Type
		}
		r.job = *e.doc.Job
		maps.Copy(of, e.doc.Job.Facets)
		maps.Copy(r.facets, e.doc.Run.Facets)
		add(inputs, e.doc.Inputs)
		add(outputs, e.doc.Outputs)
	}
	r.job.Facets = of
	r.inputs, r.outputs = ordered(inputs), ordered(outputs)
	return r
}

// rank orders events of one time as a run goes.
func rank(eventType string) int {
	return slices.Index([]string{"START", "", "RUNNING", "OTHER", "ABORT", "FAIL", "COMPLETE"}, eventType)
}

func add(all map[[2]string]*dataset, more []dataset) {
	for _, d := range more {
		have := all[[2]string{d.Namespace, d.Name}]
		if have == nil {
			have = &dataset{Namespace: d.Namespace, Name: d.Name, Facets: facets{}, InputFacets: facets{}, OutputFacets: facets{}}
			all[[2]string{d.Namespace, d.Name}] = have
		}
		maps.Copy(have.Facets, d.Facets)
		maps.Copy(have.InputFacets, d.InputFacets)
		maps.Copy(have.OutputFacets, d.OutputFacets)
	}
}

func ordered(all map[[2]string]*dataset) []dataset {
	keys := slices.SortedFunc(maps.Keys(all), func(a, b [2]string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	out := make([]dataset, len(keys))
	for i, k := range keys {
		out[i] = *all[k]
	}
	return out
}

// step is a run while its statement is made.
type step struct {
	run     *run
	params  schema.StepParameters
	deps    []schema.Descriptor
	outputs []schema.Descriptor
	metrics map[string]any
	gaps    []schema.GapFact
}

func (s *step) gap(rule, format string, args ...any) {
	s.gaps = append(s.gaps, schema.GapFact{Rule: rule, Detail: fmt.Sprintf(format, args...)})
}

// read takes what the facets say. That they are as specified was checked when
// their events were read.
func (s *step) read() error {
	for _, read := range []func() error{s.aboutRun, s.aboutJob, s.datasets} {
		if err := read(); err != nil {
			return err
		}
	}
	switch status := s.run.status; {
	case status == "FAIL" || status == "ABORT":
		message := ""
		if f, err := facet[errorMessage](s.run.facets, "errorMessage"); err == nil && f != nil {
			message = f.Message
		}
		s.gap("step-failed", "%s: %s", status, clip(message))
	case !terminal(status):
		s.gap("run-cut-short", "no event said that the run had ended; the last was %s", cmp.Or(status, "of no type"))
	}
	return nil
}

func (s *step) aboutRun() error {
	of := s.run.facets
	if f, err := facet[parent](of, "parent"); err != nil {
		return err
	} else if f != nil {
		s.params.Parent = strings.ToLower(f.Run.RunID)
		s.label("parent", f.Job.Namespace+"/"+f.Job.Name)
	}
	if f, err := facet[nominalTime](of, "nominalTime"); err != nil {
		return err
	} else if f != nil {
		s.parameter("nominalStartTime", f.Start)
		s.parameter("nominalEndTime", f.End)
	}
	if f, err := facet[processingEngine](of, "processing_engine"); err != nil {
		return err
	} else if f != nil {
		s.label("engine", strings.TrimSpace(f.Name+" "+f.Version))
	}
	return nil
}

func (s *step) aboutJob() error {
	of := s.run.job.Facets
	if f, err := facet[jobType](of, "jobType"); err != nil {
		return err
	} else if f != nil {
		s.label("integration", f.Integration)
		s.label("processingType", f.Processing)
		s.label("jobType", f.Type)
	}
	if f, err := facet[sql](of, "sql"); err != nil {
		return err
	} else if f != nil {
		s.parameter("sql", f.Query)
	}
	if f, err := facet[sourceLocation](of, "sourceCodeLocation"); err != nil {
		return err
	} else if f != nil {
		s.code(f)
	}
	f, err := facet[sourceCode](of, "sourceCode")
	if err == nil && f != nil && f.Code != "" {
		s.deps = append(s.deps, schema.Descriptor{
			Name: "source code (" + f.Language + ")", Digest: schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(f.Code)).Hex()},
			Annotations: map[string]any{schema.AnnotationRole: schema.RoleDefinition},
		})
	}
	return err
}

// code notes the commit that the job was of, where its location names one.
func (s *step) code(f *sourceLocation) {
	repository := f.RepoURL
	if repository == "" {
		repository = f.URL
	}
	d := schema.Descriptor{Name: f.Path, URI: ingest.WithoutCredentials(escaped(repository)), Annotations: map[string]any{schema.AnnotationRole: schema.RoleCode}}
	if f.Type == "git" && commitID.MatchString(f.Version) {
		d.Digest = schema.DigestSet{schema.GitCommit: f.Version}
	}
	s.deps = append(s.deps, d)
	s.label("branch", f.Branch)
	s.label("tag", f.Tag)
}

func (s *step) datasets() error {
	for _, d := range s.run.inputs {
		described, err := s.describe(&d, schema.RoleInput)
		if err != nil {
			return err
		}
		s.deps = append(s.deps, described)
	}
	for _, d := range s.run.outputs {
		described, err := s.describe(&d, schema.RoleOutput)
		if err != nil {
			return err
		}
		s.outputs = append(s.outputs, described)
		f, err := facet[statistics](d.OutputFacets, "outputStatistics")
		if err != nil {
			return err
		}
		if f != nil {
			s.metric(d.Name+" rowCount", f.Rows)
			s.metric(d.Name+" size", f.Size)
			s.metric(d.Name+" fileCount", f.Files)
		}
	}
	return nil
}

// describe is a dataset by its location, and by its version where the event
// says which.
func (s *step) describe(d *dataset, role string) (schema.Descriptor, error) {
	at := location(d.Namespace, d.Name)
	out := schema.Descriptor{Name: d.Name, URI: at, Annotations: map[string]any{schema.AnnotationRole: role, schema.AnnotationKind: "dataset"}}
	v, err := facet[version](d.Facets, "version")
	if err != nil {
		return out, err
	}
	if v != nil {
		out.URI = versioned(at, v.Version)
		out.Annotations[schema.AnnotationLocation] = at
	} else {
		s.gap("dataset-unversioned", "%s %s", role, at)
	}
	links, err := facet[symlinks](d.Facets, "symlinks")
	if err != nil || links == nil {
		return out, err
	}
	var names []string
	for _, id := range links.Identifiers {
		if other := location(id.Namespace, id.Name); other != at {
			names = append(names, other)
		}
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > maxAliases {
		names = names[:maxAliases]
	}
	if len(names) > 0 {
		out.Annotations[schema.AnnotationLocation] = at
		out.Annotations[schema.AnnotationAliases] = names
	}
	return out, nil
}

func (s *step) metric(name string, value *float64) {
	if value != nil && len(s.metrics) < maxMetrics {
		s.metrics[name] = *value
	}
}

func (s *step) label(name, value string) {
	if value != "" && len(value) <= maxName && !secret(name, value) {
		s.params.Labels[name] = value
	}
}

// parameter notes a value, unless it is a secret.
func (s *step) parameter(name, value string) {
	switch {
	case value == "":
	case secret(name, value):
		s.params.Secrets = append(s.params.Secrets, name)
	case len(value) > maxParameter:
		s.params.Parameters[name] = fmt.Sprintf("%s (%d bytes)", schema.BytesKey([]byte(value)), len(value))
	default:
		s.params.Parameters[name] = value
	}
}

func secret(name, value string) bool {
	return ingest.SecretValue(value) != "" || ingest.SecretName(name, value) != ""
}

func clip(s string) string {
	if ingest.SecretValue(s) != "" {
		return withheld
	}
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}

func (s *step) build() (schema.Statement, error) {
	external, err := schema.Canonical(s.params)
	if err != nil {
		return schema.Statement{}, err
	}
	p := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{BuildType: schema.StepBuildType, ExternalParameters: external, ResolvedDependencies: s.deps},
		RunDetails: schema.RunDetails{
			Builder:    schema.Builder{ID: ingest.WithoutCredentials(s.run.producer)},
			Metadata:   schema.Metadata{InvocationID: s.run.id, StartedOn: s.run.began, FinishedOn: s.run.ended},
			Byproducts: s.outputs,
		},
	}
	for name, v := range map[string]any{schema.ByproductMetrics: s.metrics, schema.ByproductGaps: s.gaps} {
		if name == schema.ByproductMetrics && len(s.metrics) == 0 || name == schema.ByproductGaps && len(s.gaps) == 0 {
			continue
		}
		raw, err := schema.Canonical(v)
		if err != nil {
			return schema.Statement{}, err
		}
		p.RunDetails.Byproducts = append(p.RunDetails.Byproducts, schema.Descriptor{Name: name, Content: raw})
	}
	slices.SortStableFunc(p.RunDetails.Byproducts[len(s.outputs):], func(a, b schema.Descriptor) int { return cmp.Compare(a.Name, b.Name) })
	subject, err := schema.RunSubject(s.run.id, p)
	if err != nil {
		return schema.Statement{}, err
	}
	return schema.NewStatement(schema.ProvenanceV1, p, subject)
}
