package argo

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// Builders of steps, as SLSA's builder.id.
const (
	argoBuilder     = "https://argoproj.github.io/workflows"
	kubeflowBuilder = "https://kubeflow.org/pipelines"
)

// image is what the pod of a step says that its main container ran.
type image struct {
	Image   string
	ImageID string
}

// step describes one step while its statement is made.
type step struct {
	w       *workflow
	n       *node
	task    string
	params  schema.StepParameters
	deps    []schema.Descriptor
	outputs []schema.Descriptor // by location
	made    []schema.Descriptor // with a digest
	models  map[string]schema.Descriptor
	metrics map[string]any
	gaps    []schema.GapFact
}

func (s *step) gap(rule, format string, args ...any) {
	s.gaps = append(s.gaps, schema.GapFact{Rule: rule, Detail: fmt.Sprintf(format, args...)})
}

// runs says whether a node is a step of the user's that did something, or was
// spared doing it.
func (n *node) runs() bool {
	switch n.Type {
	case "Pod", "HTTP", "Plugin":
		return !n.driver() || n.cached()
	}
	return false
}

// runID is that of a step within the run of the Workflow.
func (w *workflow) runID(n *node) string { return w.Metadata.UID + "/" + n.ID }

// finished are the steps that have ended, by ID.
func (w *workflow) finished() []*node {
	var list []*node
	for _, id := range slices.Sorted(maps.Keys(w.nodes)) {
		if n := w.nodes[id]; n.runs() && ended(n.Phase) {
			list = append(list, n)
		}
	}
	return list
}

// task is what the step is called in its pipeline: attempts have the name of
// what they are attempts at, and Kubeflow's executors that of their task.
func (w *workflow) task(n *node) string {
	if n.driver() {
		if name := n.parameter("task-name"); name != "" {
			return name
		}
		return strings.TrimSuffix(n.DisplayName, kubeflowDriver)
	}
	if strings.HasPrefix(n.TemplateName, kubeflowPrefix) {
		if dag := w.nodes[n.BoundaryID]; dag != nil && dag.DisplayName != "" {
			return dag.DisplayName
		}
	}
	if of := w.attempts[n.ID]; of != "" {
		return of
	}
	if n.DisplayName != "" {
		return n.DisplayName
	}
	return n.Name
}

// statements are those about one finished step: the step, and the models that
// it made. The image is nil where the step's pod is not there any more.
func (w *workflow) statements(n *node, ran *image, naming ingest.Naming) ([]schema.Statement, error) {
	s := &step{w: w, n: n, task: w.task(n), models: map[string]schema.Descriptor{}, metrics: map[string]any{}}
	s.params = schema.StepParameters{
		Engine: w.engine(), Namespace: w.Metadata.Namespace, Pipeline: w.pipeline(), Task: s.task,
		Parent: w.Metadata.UID, Status: n.Phase, Parameters: map[string]string{}, Labels: labels(w.Metadata.Labels, w.Metadata.Annotations),
	}
	if t := w.template(n); t != nil {
		maps.Copy(s.params.Labels, labels(nil, t.Metadata.Annotations))
		maps.Copy(s.params.Labels, labels(nil, t.Metadata.Labels))
	}
	if err := s.read(ran, naming); err != nil {
		return nil, err
	}
	return s.build(naming)
}

func (w *workflow) engine() string {
	if w.kubeflow() {
		return "kubeflow"
	}
	return "argo"
}

// read takes all that the Workflow says of the step.
func (s *step) read(ran *image, naming ingest.Naming) error {
	t := s.w.template(s.n)
	kfp, isKfp, err := s.n.execution()
	if err != nil {
		return err
	}
	if m := s.n.Memoization; m != nil && m.Hit {
		s.params.Reused = strings.Trim(m.CacheName+"/"+m.Key, "/")
	}
	if s.n.cached() {
		s.params.Reused = "kubeflow cache"
	}
	s.definition(t)
	if isKfp {
		s.executed(kfp)
	} else {
		s.given(naming)
	}
	program := t.program()
	switch {
	case isKfp:
		s.command(kfp.command)
		s.ran(ran, kfp.image)
	case program != nil:
		s.command(slices.Concat(program.Command, program.Args))
		s.environment(program)
		s.mounts()
		if program.Source != "" {
			s.deps = append(s.deps, schema.Descriptor{
				Name: "script", Digest: schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(program.Source)).Hex()},
				Annotations: map[string]any{schema.AnnotationRole: schema.RoleDefinition},
			})
		}
		s.ran(ran, program.Image)
	default:
		s.ran(ran, "")
	}
	if s.n.Phase != "Succeeded" {
		s.gap("step-failed", "%s: %s", s.n.Phase, clip(s.n.Message))
	}
	return nil
}

// definition notes what the step was told to do.
func (s *step) definition(t *template) {
	if t == nil {
		return
	}
	raw := t.raw.Clone()
	if raw.Canonicalize() != nil {
		return
	}
	s.deps = append(s.deps, schema.Descriptor{
		Name: t.Name, Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(raw).Hex()},
		Annotations: map[string]any{schema.AnnotationRole: schema.RoleDefinition, schema.AnnotationKind: "pipeline"},
	})
}

// given takes parameters and artifacts as Argo has them.
func (s *step) given(naming ingest.Naming) {
	repository := &s.w.Status.ArtifactRepoState.Repository
	for _, p := range s.n.Inputs.Parameters {
		s.parameter(p.Name, p.text())
		if uri := p.text(); objectPattern.MatchString(uri) {
			if producer := s.w.producer(normal(uri), s.n); producer != "" {
				s.use(schema.Descriptor{Name: p.Name, URI: normal(uri)}, producer)
			}
		}
	}
	for _, a := range s.n.Inputs.Artifacts {
		d, ok := a.descriptor(repository)
		if !ok {
			s.gap("location-unknown", "the Workflow does not say where input %s is", a.Name)
			continue
		}
		s.use(d, s.w.producer(d.URI, s.n))
	}
	for _, p := range s.n.Outputs.Parameters {
		text := p.text()
		if number, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(number) && !math.IsInf(number, 0) {
			s.metrics[p.Name] = number
		}
		if objectPattern.MatchString(text) {
			s.left(schema.Descriptor{Name: p.Name, URI: normal(text)}, naming)
		}
	}
	for _, a := range s.n.Outputs.Artifacts {
		d, ok := a.descriptor(repository)
		if !ok {
			s.gap("location-unknown", "the Workflow does not say where output %s is", a.Name)
			continue
		}
		s.left(d, naming)
	}
}

// executed takes what Kubeflow's launcher was told.
func (s *step) executed(e *execution) {
	for _, name := range slices.Sorted(maps.Keys(e.input.Inputs.ParameterValues)) {
		s.parameter(name, parameter{Value: e.input.Inputs.ParameterValues[name]}.text())
	}
	sorted(e.input.Inputs.Artifacts, func(name string, a runtimeArtifact) {
		if a.URI != "" {
			s.use(schema.Descriptor{Name: name, URI: normal(a.URI)}, s.w.producer(normal(a.URI), s.n))
		}
	})
	sorted(e.input.Outputs.Artifacts, func(name string, a runtimeArtifact) {
		if a.Type.SchemaTitle == metricsType {
			a.numbers(s.metrics)
		}
		if a.URI == "" {
			return
		}
		d := schema.Descriptor{Name: name, URI: normal(a.URI)}
		s.output(d)
		if a.Type.SchemaTitle == modelType {
			s.models[name] = d
		}
	})
}

// use notes an input.
func (s *step) use(d schema.Descriptor, producer string) {
	s.deps = append(s.deps, annotated(d, schema.RoleInput, producer))
}

func annotated(d schema.Descriptor, role, producer string) schema.Descriptor {
	d.Annotations = maps.Clone(d.Annotations)
	if d.Annotations == nil {
		d.Annotations = map[string]any{}
	}
	d.Annotations[schema.AnnotationRole] = role
	if producer != "" {
		d.Annotations[schema.AnnotationProducer] = producer
	}
	return d
}

// left notes an output, and whether it is a model: where a rule says so, or by
// its name.
func (s *step) left(d schema.Descriptor, naming ingest.Naming) {
	s.output(d)
	if d.Name == "model" || naming.Matches(s.fields(d.Name)) {
		s.models[d.Name] = d
	}
}

func (s *step) output(d schema.Descriptor) {
	switch {
	case s.params.Reused != "":
		s.deps = append(s.deps, annotated(d, schema.RoleReused, ""))
	case len(d.Digest) > 0:
		s.made = append(s.made, d)
	default:
		s.outputs = append(s.outputs, annotated(d, schema.RoleOutput, ""))
	}
}

// parameter notes a value, unless it is a secret.
func (s *step) parameter(name, value string) {
	switch {
	case len(s.params.Parameters) >= maxParameters:
		return
	case s.secret(name, value):
		s.params.Secrets = append(s.params.Secrets, name)
	case len(value) > maxParameter:
		s.params.Parameters[name] = fmt.Sprintf("%s (%d bytes)", schema.BytesKey([]byte(value)), len(value))
	default:
		s.params.Parameters[name] = value
	}
}

func (s *step) secret(name, value string) bool {
	return ingest.SecretValue(value) != "" || ingest.SecretName(name, value) != ""
}

// withheld stands for a word of a command that looks like a secret.
const withheld = "(withheld)"

// command notes what was run, with the step's own parameters put in.
func (s *step) command(words []string) {
	size := 0
	for i, word := range words {
		for _, p := range s.n.Inputs.Parameters {
			word = strings.ReplaceAll(word, "{{inputs.parameters."+p.Name+"}}", p.text())
		}
		name, value, assigned := strings.Cut(strings.TrimLeft(word, "-"), "=")
		before := ""
		if i > 0 {
			before = strings.TrimLeft(words[i-1], "-")
		}
		if ingest.SecretValue(word) != "" || assigned && ingest.SecretName(name, value) != "" || strings.HasPrefix(words[max(i-1, 0)], "-") && ingest.SecretName(before, word) != "" {
			word = withheld
		}
		if size += len(word); size > maxParameter {
			word = fmt.Sprintf("(%s, %d bytes)", schema.BytesKey([]byte(word)), len(word))
		}
		s.params.Argv = append(s.params.Argv, word)
	}
}

// environment notes the variables that are written out; of others, that they
// were withheld.
func (s *step) environment(c *container) {
	for _, v := range c.Env {
		switch {
		case v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil, v.Value != "" && s.secret(v.Name, v.Value):
			s.params.Secrets = append(s.params.Secrets, v.Name)
		case v.Value != "" && len(v.Value) <= maxParameter:
			if s.params.Environment == nil {
				s.params.Environment = map[string]string{}
			}
			s.params.Environment[v.Name] = v.Value
		}
	}
}

// mounts notes the claims that the step could read and write, and the snapshots
// that show what it left there.
func (s *step) mounts() {
	for _, m := range s.w.mounted(s.n) {
		s.use(schema.Descriptor{Name: m.path, URI: "pvc://" + s.w.Metadata.Namespace + "/" + m.name}, "")
		for _, snapshot := range s.w.left(s.n, m.name) {
			if snapshot.deleted {
				s.gap("snapshot-policy-delete", "%s: %s", m.path, snapshot.uri)
			}
			s.output(schema.Descriptor{Name: m.path, URI: snapshot.uri, Annotations: map[string]any{schema.AnnotationKind: "snapshot"}})
		}
	}
}

// ran notes the image: by digest as the pod says, else as it was asked for.
func (s *step) ran(pod *image, asked string) {
	if pod != nil {
		if d, ok := schema.ImageDescriptor(pod.Image, pod.ImageID); ok {
			s.deps = append(s.deps, annotated(d, schema.RoleImage, ""))
			return
		}
	}
	if asked == "" {
		return
	}
	if d, ok := schema.ImageDescriptor(asked, asked); ok {
		s.deps = append(s.deps, annotated(d, schema.RoleImage, ""))
		return
	}
	s.deps = append(s.deps, annotated(schema.Descriptor{Name: asked}, schema.RoleImage, ""))
	s.gap("image-unresolved", "%s: the pod of the step was not there to say which image it ran", asked)
}

// producer is the run ID of the step of this run that left something at a
// location; "" if there is none, or it is n itself.
func (w *workflow) producer(uri string, n *node) string {
	for _, id := range w.leavers[uri] {
		if id != n.ID {
			return w.runID(w.nodes[id])
		}
	}
	return ""
}

// leaves are the locations where the step left something.
func (n *node) leaves(repository *location) []string {
	var uris []string
	for _, a := range n.Outputs.Artifacts {
		if uri := a.location.uri(repository); uri != "" {
			uris = append(uris, uri)
		}
	}
	for _, p := range n.Outputs.Parameters {
		if text := p.text(); objectPattern.MatchString(text) {
			uris = append(uris, normal(text))
		}
	}
	// One that cannot be read is said where the step itself is.
	if e, ok, err := n.execution(); ok && err == nil {
		sorted(e.input.Outputs.Artifacts, func(_ string, a runtimeArtifact) {
			if a.URI != "" {
				uris = append(uris, normal(a.URI))
			}
		})
	}
	return uris
}

// fields are what a rule can name a model by.
func (s *step) fields(output string) map[string]string {
	f := map[string]string{
		"namespace": s.w.Metadata.Namespace, "pipeline": s.params.Pipeline, "task": s.task, "output": output, "run": s.w.Metadata.UID,
	}
	for k, v := range s.w.Metadata.Labels {
		f["label."+k] = v
	}
	for _, p := range s.w.Spec.Arguments.Parameters {
		f["param."+p.Name] = p.text()
	}
	for k, v := range s.params.Parameters {
		f["param."+k] = v
	}
	return f
}

// build makes the statements.
func (s *step) build(naming ingest.Naming) ([]schema.Statement, error) {
	builder := argoBuilder
	if s.params.Engine == "kubeflow" {
		builder = kubeflowBuilder
	}
	named := s.named(naming)
	external, err := schema.Canonical(s.params)
	if err != nil {
		return nil, err
	}
	run := s.w.runID(s.n)
	p := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{BuildType: schema.StepBuildType, ExternalParameters: external, ResolvedDependencies: s.deps},
		RunDetails: schema.RunDetails{
			Builder:    schema.Builder{ID: builder},
			Metadata:   schema.Metadata{InvocationID: run, StartedOn: s.n.StartedAt, FinishedOn: s.n.FinishedAt},
			Byproducts: s.outputs,
		},
	}
	if err := s.byproducts(&p); err != nil {
		return nil, err
	}
	subject, err := schema.RunSubject(run, p)
	if err != nil {
		return nil, err
	}
	st, err := schema.NewStatement(schema.ProvenanceV1, p, append([]schema.Descriptor{subject}, s.made...)...)
	if err != nil {
		return nil, err
	}
	out := []schema.Statement{st}
	for _, v := range named {
		m, err := s.model(run, subject, v)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// version is a model with its name.
type version struct {
	output, name, version string
}

// named gives the models that the step made their names. One that no rule names
// is an output all the same.
func (s *step) named(naming ingest.Naming) []version {
	if s.n.Phase != "Succeeded" || s.params.Reused != "" {
		return nil
	}
	var all []version
	for _, output := range slices.Sorted(maps.Keys(s.models)) {
		called, v, err := naming.Model(s.fields(output))
		if err != nil {
			s.gap("model-not-named", "%s: %v", output, err)
			continue
		}
		all = append(all, version{output, called, v})
	}
	return all
}

// byproducts adds what the step left beside its outputs.
func (s *step) byproducts(p *schema.Provenance) error {
	add := func(name string, v any) error {
		raw, err := schema.Canonical(v)
		if err != nil {
			return err
		}
		p.RunDetails.Byproducts = append(p.RunDetails.Byproducts, schema.Descriptor{Name: name, Content: raw})
		return nil
	}
	if code, err := strconv.Atoi(s.n.Outputs.ExitCode); err == nil {
		if err := add(schema.ByproductExit, code); err != nil {
			return err
		}
	}
	if len(s.metrics) > 0 {
		if err := add(schema.ByproductMetrics, s.metrics); err != nil {
			return err
		}
	}
	if len(s.gaps) > 0 {
		return add(schema.ByproductGaps, s.gaps)
	}
	return nil
}

// model states what the step left as a version of a model.
func (s *step) model(run string, subject schema.Descriptor, v version) (schema.Statement, error) {
	d := s.models[v.output]
	m := schema.Model{Name: v.name, Version: v.version, Run: run, Metrics: s.metrics}
	if len(m.Metrics) == 0 {
		m.Metrics = nil
	}
	if len(d.Digest) > 0 {
		return schema.NewStatement(schema.ModelV1, m, schema.Descriptor{Name: d.Name, Digest: d.Digest})
	}
	m.Resource = &schema.Descriptor{Name: d.Name, URI: d.URI}
	return schema.NewStatement(schema.ModelV1, m, subject)
}

// run is the statement about the whole run, as it ended or was seen last.
func (w *workflow) run(deleted bool) (schema.Statement, error) {
	phase := w.Status.Phase
	s := &step{w: w, n: &node{Phase: "Succeeded"}, metrics: map[string]any{}}
	s.params = schema.StepParameters{
		Engine: w.engine(), Namespace: w.Metadata.Namespace, Pipeline: w.pipeline(), Status: phase,
		Parameters: map[string]string{}, Labels: labels(w.Metadata.Labels, w.Metadata.Annotations),
	}
	if deleted && !ended(phase) {
		s.params.Status = "Deleted"
		s.gap("run-cut-short", "the run was deleted while it was %s; its steps are recorded as far as they were seen", phase)
	} else if !ended(phase) {
		s.gap("run-cut-short", "the run was %s when it was recorded", phase)
	} else if phase != "Succeeded" {
		s.gap("step-failed", "%s: %s", phase, clip(w.Status.Message))
	}
	if len(w.nodes) == 0 && w.Status.OffloadVersion != "" {
		s.gap("steps-elsewhere", "Argo keeps the steps of this run in its database (offloadNodeStatusVersion %s)", w.Status.OffloadVersion)
	}
	for _, p := range w.Spec.Arguments.Parameters {
		if strings.HasPrefix(p.Name, "components-") || strings.HasPrefix(p.Name, "implementations-") || strings.HasPrefix(p.Name, "kubernetes-comp-") {
			continue // Kubeflow's own, which the definitions of the steps hold
		}
		s.parameter(p.Name, p.text())
	}
	for _, id := range slices.Sorted(maps.Keys(w.nodes)) {
		if n := w.nodes[id]; n.Phase == "Skipped" || n.Phase == "Omitted" {
			s.params.Skipped = append(s.params.Skipped, n.DisplayName)
		}
	}
	return s.wholeRun()
}

func (s *step) wholeRun() (schema.Statement, error) {
	builder := argoBuilder
	if s.params.Engine == "kubeflow" {
		builder = kubeflowBuilder
	}
	external, err := schema.Canonical(s.params)
	if err != nil {
		return schema.Statement{}, err
	}
	run := s.w.Metadata.UID
	p := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{BuildType: schema.StepBuildType, ExternalParameters: jsontext.Value(external)},
		RunDetails: schema.RunDetails{
			Builder:  schema.Builder{ID: builder},
			Metadata: schema.Metadata{InvocationID: run, StartedOn: s.w.Status.StartedAt, FinishedOn: s.w.Status.FinishedAt},
		},
	}
	if err := s.byproducts(&p); err != nil {
		return schema.Statement{}, err
	}
	subject, err := schema.RunSubject(run, p)
	if err != nil {
		return schema.Statement{}, err
	}
	return schema.NewStatement(schema.ProvenanceV1, p, subject)
}

// volatile are labels that controllers set while a run goes on, and after it.
func volatile(label string) bool {
	switch strings.TrimPrefix(label, "workflows.argoproj.io/") {
	case "phase", "completed", "workflow-archiving-status", "controller-instanceid", "pipeline/persistedFinalState":
		return true
	}
	return false
}

// kale begins what Kale writes on pipelines that it makes of notebooks, and on
// their steps.
const kale = "kubeflow-kale.org/"

// labels are those that stay as they are and are not secrets, with the
// annotations that Kale wrote.
func labels(all, annotations map[string]string) map[string]string {
	kept := map[string]string{}
	keep := func(k, v string) {
		if !volatile(k) && ingest.SecretValue(v) == "" && ingest.SecretName(k, v) == "" {
			kept[k] = v
		}
	}
	for k, v := range annotations {
		if strings.HasPrefix(k, kale) && len(v) <= maxParameter {
			keep(k, v)
		}
	}
	for k, v := range all {
		keep(k, v)
	}
	return kept
}

// maxMessage is how much of a message is recorded, in bytes.
const maxMessage = 512

func clip(s string) string {
	if ingest.SecretValue(s) != "" {
		return withheld
	}
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}
