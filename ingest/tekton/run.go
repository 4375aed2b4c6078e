package tekton

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// builder is SLSA's builder.id of what a watcher saw of Tekton.
const builder = "https://tekton.dev"

// Limits of what is recorded.
const (
	maxParameter  = 32 << 10 // bytes of a value; of a longer one the digest is recorded
	maxParameters = 512
	maxMessage    = 512
)

// Statements are those that a watcher would make of TaskRuns and PipelineRuns in
// a file: one, a List of them, JSON Lines, or documents of YAML, with what Chains
// attests of them in their annotations. It is all or nothing; an error says which
// of them it is about, and holds a *schema.FieldError where one is at fault.
func Statements(raw []byte, naming ingest.Naming) ([]schema.Statement, []schema.Envelope, error) {
	objects, err := kube.Objects(raw)
	if err != nil {
		return nil, nil, err
	}
	var all []schema.Statement
	var attested []schema.Envelope
	for i, raw := range objects {
		o, err := parseObject(raw)
		var said []schema.Statement
		var signed []schema.Envelope
		if err == nil {
			said, signed, err = o.describe(false, naming)
		}
		if err != nil && len(objects) > 1 {
			err = fmt.Errorf("object %d: %w", i+1, err)
		}
		if err != nil {
			return nil, nil, err
		}
		all, attested = append(all, said...), append(attested, signed...)
	}
	return all, attested, nil
}

// step describes one run while its statement is made.
type step struct {
	o       *object
	status  *status
	run     string
	params  schema.StepParameters
	deps    []schema.Descriptor
	made    []schema.Descriptor
	models  map[string]schema.Descriptor
	metrics map[string]any
	exit    *int
	gaps    []schema.GapFact
}

func (s *step) gap(rule, format string, args ...any) {
	s.gaps = append(s.gaps, schema.GapFact{Rule: rule, Detail: fmt.Sprintf(format, args...)})
}

// describe makes the statements about a run that has ended, or was deleted or is
// recorded before it had: those of the tasks that stand in it, its own, and the
// models that it made. With them come the envelopes in which Chains attests it.
func (o *object) describe(deleted bool, naming ingest.Naming) ([]schema.Statement, []schema.Envelope, error) {
	var all []schema.Statement
	for _, name := range slices.Sorted(maps.Keys(o.Status.TaskRuns)) {
		in := o.Status.TaskRuns[name]
		part := o.part(&in.Status, o.Metadata.UID+"/"+name)
		part.params.Parent, part.params.Task = o.Metadata.UID, cmp.Or(in.PipelineTaskName, name)
		statements, err := part.task(deleted, naming)
		if err != nil {
			return nil, nil, fmt.Errorf("task run %s: %w", name, err)
		}
		all = append(all, statements...)
	}
	envelopes, attests, err := o.attested()
	if err != nil {
		return nil, nil, err
	}
	s := o.part(&o.Status, o.Metadata.UID)
	s.params.AttestedBy = attests
	var statements []schema.Statement
	if o.Kind == taskRun {
		s.params.Parent = o.parent()
		s.params.Task = o.task()
		statements, err = s.task(deleted, naming)
	} else {
		for _, t := range o.Status.SkippedTasks {
			s.params.Skipped = append(s.params.Skipped, t.Name)
		}
		statements, err = s.pipeline(deleted, naming)
	}
	return append(all, statements...), envelopes, err
}

// part begins the description of a run, or of one that stands in it.
func (o *object) part(st *status, run string) *step {
	s := &step{o: o, status: st, run: run, models: map[string]schema.Descriptor{}, metrics: map[string]any{}}
	s.params = schema.StepParameters{
		Engine: "tekton", Namespace: o.Metadata.Namespace, Pipeline: o.pipeline(),
		Parameters: map[string]string{}, Labels: labels(o.Metadata.Labels),
	}
	return s
}

// pipeline is what the run is one of, or a part of one.
func (o *object) pipeline() string {
	if name := o.Metadata.Labels["tekton.dev/pipeline"]; name != "" {
		return name
	}
	if o.Spec.PipelineRef != nil && o.Spec.PipelineRef.Name != "" {
		return o.Spec.PipelineRef.Name
	}
	if o.Kind == pipelineRun {
		return o.Metadata.Name
	}
	return ""
}

// task is what a TaskRun is called in its pipeline, or by itself.
func (o *object) task() string {
	task := cmp.Or(o.Metadata.Labels["tekton.dev/pipelineTask"], o.Metadata.Labels["tekton.dev/task"])
	if task == "" && o.Spec.TaskRef != nil {
		task = o.Spec.TaskRef.Name
	}
	return cmp.Or(task, o.Metadata.Name)
}

// parent is the UID of the PipelineRun that a TaskRun is a part of.
func (o *object) parent() string {
	for _, owner := range o.Metadata.OwnerReferences {
		if owner.Kind == pipelineRun && strings.HasPrefix(owner.APIVersion, group+"/") {
			return owner.UID
		}
	}
	return o.Metadata.Labels["tekton.dev/pipelineRunUID"]
}

// task describes a TaskRun.
func (s *step) task(deleted bool, naming ingest.Naming) ([]schema.Statement, error) {
	s.ended(deleted)
	var spec struct {
		Params []param `json:"params"`
		Steps  []struct {
			Image   string   `json:"image"`
			Script  string   `json:"script"`
			Command []string `json:"command"`
			Args    []string `json:"args"`
		} `json:"steps"`
	}
	if err := s.definition(s.status.TaskSpec, "task", &spec); err != nil {
		return nil, err
	}
	given := s.o.Spec.Params
	if s.o.Kind != taskRun {
		given = nil // those of the PipelineRun are not this task's
	}
	found := s.found(spec.Params, given)
	for _, state := range s.status.Steps {
		s.ran(state)
		found.read(state.Results, false)
		if t := state.Terminated; t != nil && (s.exit == nil || *s.exit == 0) {
			s.exit = &t.ExitCode
		}
	}
	for _, state := range s.status.Sidecars {
		s.ran(state)
	}
	if len(spec.Steps) == 1 && spec.Steps[0].Script == "" {
		s.command(slices.Concat(spec.Steps[0].Command, spec.Steps[0].Args), given)
	}
	s.artifacts()
	return s.finish(found, naming)
}

// pipeline describes a PipelineRun: what it was given, and what its results name.
func (s *step) pipeline(deleted bool, naming ingest.Naming) ([]schema.Statement, error) {
	s.ended(deleted)
	var spec struct {
		Params []param `json:"params"`
	}
	if err := s.definition(s.status.PipelineSpec, "pipeline", &spec); err != nil {
		return nil, err
	}
	return s.finish(s.found(spec.Params, s.o.Spec.Params), naming)
}

// ended says how the run did.
func (s *step) ended(deleted bool) {
	c := s.status.condition()
	s.params.Status = cmp.Or(c.Reason, "Unknown")
	switch {
	case !s.status.ended() && deleted:
		s.params.Status = "Deleted"
		s.gap("run-cut-short", "the run was deleted while it was %s", cmp.Or(c.Reason, "running"))
	case !s.status.ended():
		s.gap("run-cut-short", "the run was %s when it was recorded", cmp.Or(c.Reason, "running"))
	case c.Status == "False":
		s.gap("step-failed", "%s: %s", c.Reason, clip(c.Message))
	}
}

// definition notes what was to be done, and decodes the part of it that is read.
func (s *step) definition(raw jsontext.Value, kind string, spec any) error {
	if raw != nil {
		if err := json.Unmarshal(raw, spec); err != nil {
			return &schema.FieldError{Field: "status." + kind + "Spec", Reason: err.Error()}
		}
		canonical := raw.Clone()
		if err := canonical.Canonicalize(); err != nil {
			return &schema.FieldError{Field: "status." + kind + "Spec", Reason: err.Error()}
		}
		s.deps = append(s.deps, schema.Descriptor{
			Name: kind, Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(canonical).Hex()},
			Annotations: map[string]any{schema.AnnotationRole: schema.RoleDefinition, schema.AnnotationKind: "pipeline"},
		})
	}
	if from := s.status.Provenance.RefSource; from != nil && from.URI != "" {
		d := schema.Descriptor{Name: from.EntryPoint, URI: ingest.WithoutCredentials(from.URI), Annotations: map[string]any{schema.AnnotationRole: schema.RoleDefinition}}
		if key, err := schema.ParseKey(schema.GitCommit + ":" + from.Digest["sha1"]); err == nil {
			d.Digest = schema.DigestSet{schema.GitCommit: key.Hex()}
		} else if key, err := schema.ParseKey(schema.SHA256 + ":" + from.Digest["sha256"]); err == nil {
			d.Digest = schema.DigestSet{schema.SHA256: key.Hex()}
			d.Annotations[schema.AnnotationKind] = "oci" // a bundle of Tekton
		} else if len(from.Digest) > 0 {
			s.gap("hint-unusable", "refSource of %s has no whole digest", from.URI)
		}
		s.deps = append(s.deps, d)
	}
	return nil
}

// found reads the hints of what was given, by default and for this run, and of
// the results, and notes parameters and numbers.
func (s *step) found(declared, given []param) *hints {
	values := map[string]param{}
	for _, p := range declared {
		if p.Default != nil {
			values[p.Name] = param{Name: p.Name, Value: p.Default}
		}
	}
	for _, p := range given {
		values[p.Name] = p
	}
	var list []param
	for _, name := range slices.Sorted(maps.Keys(values)) {
		list = append(list, values[name])
		s.parameter(name, values[name].text())
	}
	h := &hints{}
	h.read(list, true)
	h.read(s.status.results(), false)
	for _, r := range s.status.results() {
		if number, err := strconv.ParseFloat(strings.TrimSpace(r.text()), 64); err == nil && r.Value.Kind() == '"' && !math.IsNaN(number) && !math.IsInf(number, 0) {
			s.metrics[r.Name] = number
		}
	}
	return h
}

// ran notes the image of a step, by the digest that the runtime resolved.
func (s *step) ran(state stepState) {
	if state.ImageID == "" {
		return
	}
	if d, ok := schema.ImageDescriptor(state.ImageID, state.ImageID); ok {
		s.deps = append(s.deps, annotated(d, schema.RoleImage))
		return
	}
	s.deps = append(s.deps, annotated(schema.Descriptor{Name: state.ImageID}, schema.RoleImage))
	s.gap("image-unresolved", "%s: step %s says no digest of its image", shown(state.ImageID), state.Name)
}

func annotated(d schema.Descriptor, role string) schema.Descriptor {
	d.Annotations = maps.Clone(d.Annotations)
	if d.Annotations == nil {
		d.Annotations = map[string]any{}
	}
	d.Annotations[schema.AnnotationRole] = role
	return d
}

// artifacts takes those that newer versions of Tekton list with their digests.
func (s *step) artifacts() {
	each := func(list []artifact, take func(schema.Descriptor)) {
		for _, a := range list {
			for _, v := range a.Values {
				d := schema.Descriptor{Name: a.Name, URI: ingest.WithoutCredentials(v.URI), Digest: schema.DigestSet{}}
				for alg, hex := range v.Digest {
					if alg == "sha1" {
						alg = schema.GitCommit
					}
					if key, err := schema.ParseKey(alg + ":" + hex); err == nil {
						d.Digest[key.Algorithm()] = key.Hex()
					}
				}
				if len(d.Digest) == 0 {
					s.gap("hint-unusable", "artifact %s has no whole digest", a.Name)
					continue
				}
				take(d)
			}
		}
	}
	each(s.status.Artifacts.Inputs, func(d schema.Descriptor) { s.deps = append(s.deps, annotated(d, schema.RoleInput)) })
	each(s.status.Artifacts.Outputs, func(d schema.Descriptor) { s.left(d.Name, d, nil) })
}

// command notes what the only step of a task ran, with the run's parameters put in.
func (s *step) command(words []string, given []param) {
	size := 0
	for _, word := range words {
		for _, p := range given {
			word = strings.ReplaceAll(word, "$(params."+p.Name+")", p.text())
		}
		name, value, assigned := strings.Cut(strings.TrimLeft(word, "-"), "=")
		if ingest.SecretValue(word) != "" || assigned && ingest.SecretName(name, value) != "" {
			word = withheld
		}
		if size += len(word); size > maxParameter {
			word = fmt.Sprintf("(%s, %d bytes)", schema.BytesKey([]byte(word)), len(word))
		}
		s.params.Argv = append(s.params.Argv, word)
	}
}

// parameter notes a value, unless it is a secret.
func (s *step) parameter(name, value string) {
	switch {
	case len(s.params.Parameters) >= maxParameters:
	case ingest.SecretValue(value) != "" || ingest.SecretName(name, value) != "":
		s.params.Secrets = append(s.params.Secrets, name)
	case len(value) > maxParameter:
		s.params.Parameters[name] = fmt.Sprintf("%s (%d bytes)", schema.BytesKey([]byte(value)), len(value))
	default:
		s.params.Parameters[name] = value
	}
}

// left notes an output, once, and whether it is a model: where a rule says so, or
// by its name. What a task left is named there, and not by the whole run again.
func (s *step) left(name string, d schema.Descriptor, naming ingest.Naming) {
	same := func(o schema.Descriptor) bool { return o.Key() == d.Key() && o.Name == d.Name }
	if slices.ContainsFunc(s.made, same) {
		return
	}
	s.made = append(s.made, d)
	if name == "model" && s.o.Kind == taskRun || naming.Matches(s.fields(name)) {
		s.models[name] = d
	}
}

// fields are what a rule can name a model by.
func (s *step) fields(output string) map[string]string {
	f := map[string]string{
		"namespace": s.o.Metadata.Namespace, "pipeline": s.params.Pipeline, "task": s.params.Task, "output": output, "run": cmp.Or(s.params.Parent, s.run),
	}
	for k, v := range s.o.Metadata.Labels {
		f["label."+k] = v
	}
	for k, v := range s.params.Parameters {
		f["param."+k] = v
	}
	return f
}

// finish adds what the hints name, and makes the statements.
func (s *step) finish(found *hints, naming ingest.Naming) ([]schema.Statement, error) {
	var used []schema.Key
	for _, h := range found.inputs {
		role := schema.RoleInput
		if h.what.Digest[schema.GitCommit] != "" {
			role = schema.RoleCode
		}
		if key := h.what.Key(); !slices.Contains(used, key) {
			used = append(used, key)
			s.deps = append(s.deps, annotated(h.what, role))
		}
	}
	for _, h := range found.outputs {
		s.left(h.name, h.what, naming)
	}
	for _, odd := range found.odd {
		s.gap("hint-unusable", "%s", odd)
	}
	for _, w := range s.o.Spec.Workspaces {
		if w.Claim != nil && w.Claim.ClaimName != "" {
			s.deps = append(s.deps, annotated(schema.Descriptor{Name: "workspace " + w.Name, URI: "pvc://" + s.o.Metadata.Namespace + "/" + w.Claim.ClaimName}, schema.RoleInput))
		}
	}
	return s.build(naming)
}

// build makes the statement of the run, and those of its models.
func (s *step) build(naming ingest.Naming) ([]schema.Statement, error) {
	type version struct{ output, name, version string }
	var named []version
	if s.status.condition().Status == "True" {
		for _, output := range slices.Sorted(maps.Keys(s.models)) {
			name, v, err := naming.Model(s.fields(output))
			if err != nil {
				s.gap("model-not-named", "%s: %v", output, err)
				continue
			}
			named = append(named, version{output, name, v})
		}
	}
	attests := s.params.AttestedBy
	s.params.AttestedBy = nil
	st, err := s.statement()
	if err == nil && len(attests) > 0 {
		// Before it was signed, the same run was recorded without this.
		s.params.AttestedBy, s.params.Replaces = attests, st.Subject[0].Key()
		st, err = s.statement()
	}
	if err != nil {
		return nil, err
	}
	out := []schema.Statement{st}
	for _, v := range named {
		d := s.models[v.output]
		m, err := schema.NewStatement(schema.ModelV1, schema.Model{Name: v.name, Version: v.version, Run: s.run}, schema.Descriptor{Name: d.Name, URI: d.URI, Digest: d.Digest})
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func (s *step) statement() (schema.Statement, error) {
	external, err := schema.Canonical(s.params)
	if err != nil {
		return schema.Statement{}, err
	}
	p := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{BuildType: schema.StepBuildType, ExternalParameters: external, ResolvedDependencies: s.deps},
		RunDetails: schema.RunDetails{
			Builder:  schema.Builder{ID: builder},
			Metadata: schema.Metadata{InvocationID: s.run, StartedOn: s.status.StartTime, FinishedOn: s.status.CompletionTime},
		},
	}
	add := func(name string, v any) {
		if err == nil {
			var raw []byte
			raw, err = schema.Canonical(v)
			p.RunDetails.Byproducts = append(p.RunDetails.Byproducts, schema.Descriptor{Name: name, Content: raw})
		}
	}
	if s.exit != nil {
		add(schema.ByproductExit, *s.exit)
	}
	if len(s.metrics) > 0 {
		add(schema.ByproductMetrics, s.metrics)
	}
	if len(s.gaps) > 0 {
		add(schema.ByproductGaps, s.gaps)
	}
	if err != nil {
		return schema.Statement{}, err
	}
	subject, err := schema.RunSubject(s.run, p)
	if err != nil {
		return schema.Statement{}, err
	}
	return schema.NewStatement(schema.ProvenanceV1, p, append([]schema.Descriptor{subject}, s.made...)...)
}

// labels are those that are not secrets. Tekton sets its own when a run begins.
func labels(all map[string]string) map[string]string {
	kept := map[string]string{}
	for k, v := range all {
		if ingest.SecretValue(v) == "" && ingest.SecretName(k, v) == "" {
			kept[k] = v
		}
	}
	return kept
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
