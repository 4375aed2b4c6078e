package mlflow

import (
	"cmp"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// builder is SLSA's builder.id of what MLflow says of a run.
const builder = "https://mlflow.org"

// Limits of what is recorded of a run.
const (
	maxParameter  = 16 << 10 // bytes of a value; of a longer one the digest is recorded
	maxParameters = 2000
	maxMetrics    = 2000
	maxModels     = 64
)

// Tags that MLflow sets itself (mlflow/utils/mlflow_tags.py).
const (
	tagParent   = "mlflow.parentRunId"
	tagSource   = "mlflow.source.name"
	tagKind     = "mlflow.source.type"
	tagEntry    = "mlflow.project.entryPoint"
	tagCommit   = "mlflow.source.git.commit"
	tagBranch   = "mlflow.source.git.branch"
	tagDirty    = "mlflow.source.git.dirty"
	tagRepo     = "mlflow.source.git.repoURL"
	tagImage    = "mlflow.docker.image.uri"
	tagImageID  = "mlflow.docker.image.id"
	tagHistory  = "mlflow.log-model.history"
	dataContext = "mlflow.data.context"
)

var commitID = regexp.MustCompile(`^[0-9a-f]{40}$`)

// step describes a run while its statement is made.
type step struct {
	params  schema.StepParameters
	deps    []schema.Descriptor
	outputs []schema.Descriptor
	metrics map[string]any
	gaps    []schema.GapFact
}

func (s *step) gap(rule, format string, args ...any) {
	s.gaps = append(s.gaps, schema.GapFact{Rule: rule, Detail: fmt.Sprintf(format, args...)})
}

// statement is the step that a run was, of an experiment with a name.
func (r *run) statement(experiment string) (schema.Statement, error) {
	tags := map[string]string{}
	for _, t := range r.Data.Tags {
		tags[t.Key] = t.Value
	}
	s := &step{metrics: map[string]any{}}
	s.params = schema.StepParameters{
		Engine: "mlflow", Pipeline: experiment, Task: cmp.Or(r.Info.Name, tags["mlflow.runName"]), Parent: tags[tagParent],
		Status: r.Info.Status, Parameters: map[string]string{}, Labels: map[string]string{},
	}
	for _, p := range r.Data.Params {
		s.parameter(p.Key, p.Value)
	}
	for _, m := range r.Data.Metrics {
		var number float64
		if json.Unmarshal(m.Value, &number) == nil && !math.IsNaN(number) && !math.IsInf(number, 0) && len(s.metrics) < maxMetrics {
			s.metrics[m.Key] = number
		}
	}
	s.code(tags)
	s.image(tags)
	for _, d := range r.Inputs.Datasets {
		s.dataset(&d)
	}
	for _, m := range r.Inputs.Models {
		s.use(schema.Descriptor{Name: m.ModelID, URI: loggedModel(m.ModelID)}, schema.RoleInput)
	}
	s.left(r, tags)
	if r.Info.Status != "FINISHED" {
		s.gap("step-failed", "%s", r.Info.Status)
	}
	return s.build(r)
}

// code notes where the run's program came from.
func (s *step) code(tags map[string]string) {
	for tag, label := range map[string]string{tagSource: "source", tagKind: "sourceType", tagEntry: "entryPoint", tagBranch: "branch"} {
		if v := tags[tag]; v != "" && !secret(label, v) {
			s.params.Labels[label] = ingest.WithoutCredentials(v)
		}
	}
	commit := tags[tagCommit]
	if commit == "" {
		return
	}
	d := schema.Descriptor{URI: ingest.WithoutCredentials(tags[tagRepo])}
	if !commitID.MatchString(commit) {
		s.gap("hint-unusable", "%s: %.80q is no whole commit", tagCommit, commit)
		if d.URI == "" {
			return
		}
	} else {
		d.Digest = schema.DigestSet{schema.GitCommit: commit}
	}
	s.use(d, schema.RoleCode)
	if strings.EqualFold(tags[tagDirty], "true") {
		s.gap("dirty-tree", "MLflow says that the tree was dirty, and keeps a part of the changes at most")
	}
}

func (s *step) image(tags map[string]string) {
	name, id := tags[tagImage], tags[tagImageID]
	if name == "" && id == "" {
		return
	}
	for _, digest := range []string{name, id} {
		if d, ok := schema.ImageDescriptor(name, digest); ok {
			s.use(d, schema.RoleImage)
			return
		}
	}
	s.use(schema.Descriptor{Name: cmp.Or(name, id)}, schema.RoleImage)
	s.gap("image-unresolved", "%.200s: MLflow says no digest of it", cmp.Or(name, id))
}

// dataset notes what a run read. MLflow's digest of it is eight characters that
// nobody else could make, and so only a parameter.
func (s *step) dataset(d *datasetInput) {
	of := &d.Dataset
	what := "dataset " + of.Name
	for _, t := range d.Tags {
		if t.Key == dataContext && t.Value != "" {
			what += " (" + t.Value + ")"
		}
	}
	s.parameter(what, of.Digest)
	at := sourceOf(of.Source)
	if at == "" {
		s.gap("location-unknown", "MLflow does not say where %s is (source type %s)", what, of.SourceType)
		if of.Name != "" {
			s.use(schema.Descriptor{Name: of.Name}, schema.RoleInput)
		}
		return
	}
	s.use(schema.Descriptor{Name: of.Name, URI: at, Annotations: map[string]any{schema.AnnotationKind: "dataset"}}, schema.RoleInput)
}

// sourceOf is the location in a dataset's source: a document of JSON whose form
// depends on its type, or a location itself.
func sourceOf(source string) string {
	var named map[string]any
	if json.Unmarshal([]byte(source), &named) != nil {
		return locationOf(source)
	}
	for _, key := range []string{"uri", "url", "path", "delta_table_name", "table_name"} {
		if text, ok := named[key].(string); ok && text != "" {
			if strings.HasSuffix(key, "table_name") {
				return "table:" + text
			}
			return locationOf(text)
		}
	}
	return ""
}

// locationOf writes a location as other kinds do; "" where it is none.
func locationOf(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	switch {
	case ok && (scheme == "s3a" || scheme == "s3n"):
		text = "s3://" + rest
	case ok || strings.Contains(text, ":/"): // such as models:/m-1, dbfs:/…
	case strings.HasPrefix(text, "/"):
		text = "file://" + path.Clean(text)
	default:
		return ""
	}
	if strings.ContainsAny(text, " \t\n") || secret("", text) {
		return ""
	}
	return strings.TrimSuffix(ingest.WithoutCredentials(text), "/")
}

// loggedModel is where a model of MLflow 3 is, as model versions name it.
func loggedModel(id string) string { return "models:/" + id }

// left notes where the run put things: its artifacts, and the models in them.
func (s *step) left(r *run, tags map[string]string) {
	root := locationOf(r.Info.ArtifactURI)
	add := func(name, at string) {
		if at == "" || slices.ContainsFunc(s.outputs, func(d schema.Descriptor) bool { return d.URI == at }) || len(s.outputs) > maxModels {
			return
		}
		s.outputs = append(s.outputs, schema.Descriptor{Name: name, URI: at, Annotations: map[string]any{schema.AnnotationRole: schema.RoleOutput}})
	}
	var logged []struct {
		Path string `json:"artifact_path"`
	}
	if root != "" && json.Unmarshal([]byte(tags[tagHistory]), &logged) == nil {
		for _, m := range logged {
			if p := strings.Trim(m.Path, "/"); p != "" && !strings.Contains(p, "..") {
				add(p, root+"/"+p)
			}
		}
	}
	for _, m := range r.Outputs.Models {
		if m.ModelID != "" {
			add(m.ModelID, loggedModel(m.ModelID))
		}
	}
	add("artifacts", root)
}

func (s *step) use(d schema.Descriptor, role string) {
	if d.Annotations == nil {
		d.Annotations = map[string]any{}
	}
	d.Annotations[schema.AnnotationRole] = role
	s.deps = append(s.deps, d)
}

// parameter notes a value, unless it is a secret.
func (s *step) parameter(name, value string) {
	switch {
	case len(s.params.Parameters) >= maxParameters:
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

func (s *step) build(r *run) (schema.Statement, error) {
	external, err := schema.Canonical(s.params)
	if err != nil {
		return schema.Statement{}, err
	}
	p := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{BuildType: schema.StepBuildType, ExternalParameters: external, ResolvedDependencies: s.deps},
		RunDetails: schema.RunDetails{
			Builder:    schema.Builder{ID: builder},
			Metadata:   schema.Metadata{InvocationID: r.Info.RunID, StartedOn: r.Info.Started.time(), FinishedOn: r.Info.Ended.time()},
			Byproducts: s.outputs,
		},
	}
	add := func(name string, v any) {
		if err == nil {
			var raw []byte
			raw, err = schema.Canonical(v)
			p.RunDetails.Byproducts = append(p.RunDetails.Byproducts, schema.Descriptor{Name: name, Content: raw})
		}
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
	subject, err := schema.RunSubject(r.Info.RunID, p)
	if err != nil {
		return schema.Statement{}, err
	}
	return schema.NewStatement(schema.ProvenanceV1, p, subject)
}

// statement names a version of a registered model.
func (v *modelVersion) statement() (schema.Statement, error) {
	return v.named(schema.Model{Name: v.Name, Version: v.Version})
}

// named is the statement that m says, of what the version is.
func (v *modelVersion) named(m schema.Model) (schema.Statement, error) {
	at := locationOf(v.Source)
	if at == "" {
		return schema.Statement{}, &schema.FieldError{Field: "source", Reason: fmt.Sprintf("%.200q is no location", v.Source)}
	}
	m.Run, m.Resource = v.RunID, &schema.Descriptor{Name: v.Name, URI: at}
	raw, err := schema.Canonical(m)
	if err != nil {
		return schema.Statement{}, err
	}
	subject := schema.Descriptor{Name: schema.ModelName(m.Name, m.Version), Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(raw).Hex()}}
	return schema.NewStatement(schema.ModelV1, m, subject)
}
