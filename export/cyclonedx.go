package export

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// CycloneDX writes the answer as a bill of materials of CycloneDX 1.6 in JSON:
// the root as the component that it is of, with its metrics where it is a model;
// what it was made from as components, with their digests and what each depends
// on; the steps as the tasks of a workflow (formulation). The serial number is a
// function of the log, the root and the size of the ledger.
func CycloneDX(w io.Writer, a *Answer) error {
	l := a.Lineage
	bom := cyclonedx.NewBOM()
	bom.SerialNumber = "urn:uuid:" + uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "retrace:%s:%d:%s:%s", a.Origin, l.Size, a.root().Key, l.Ref.Start.Run)).String()
	root := a.component(a.root())
	bom.Metadata = &cyclonedx.Metadata{
		Timestamp: bomTime(l.Recorded), Component: &root,
		Properties: &[]cyclonedx.Property{{Name: "retrace:origin", Value: a.Origin}, {Name: "retrace:size", Value: strconv.FormatInt(l.Size, 10)}},
	}
	var components []cyclonedx.Component
	for _, r := range l.Resources[1:] {
		components = append(components, a.component(r))
	}
	bom.Components = &components
	bom.Dependencies = a.dependencies()
	if len(l.Steps) > 0 {
		bom.Formulation = &[]cyclonedx.Formula{{Workflows: &[]cyclonedx.Workflow{a.workflow()}}}
	}
	e := cyclonedx.NewBOMEncoder(w, cyclonedx.BOMFileFormatJSON)
	e.SetPretty(true)
	return e.EncodeVersion(bom, cyclonedx.SpecVersion1_6)
}

// hashes are the digests that CycloneDX has names for.
var hashes = map[string]cyclonedx.HashAlgorithm{
	"md5": cyclonedx.HashAlgoMD5, "sha1": cyclonedx.HashAlgoSHA1, schema.SHA256: cyclonedx.HashAlgoSHA256,
	schema.SHA384: cyclonedx.HashAlgoSHA384, schema.SHA512: cyclonedx.HashAlgoSHA512,
}

func (a *Answer) component(r schema.Resource) cyclonedx.Component {
	c := cyclonedx.Component{BOMRef: string(r.Key), Type: a.componentType(r), Name: a.title(r), MIMEType: mediaType(r.MediaType)}
	if full, ok := strings.CutPrefix(c.Name, schema.NameModel+":"); ok && r.Key == a.root().Key {
		c.Name, c.Version, _ = strings.Cut(full, "@")
	}
	var known []cyclonedx.Hash
	properties := []cyclonedx.Property{{Name: "retrace:key", Value: string(r.Key)}}
	if r.Kind != "" {
		properties = append(properties, cyclonedx.Property{Name: "retrace:kind", Value: r.Kind})
	}
	for _, k := range r.Digests.Keys() {
		if alg, ok := hashes[k.Algorithm()]; ok {
			known = append(known, cyclonedx.Hash{Algorithm: alg, Value: k.Hex()})
		} else if k != r.Key {
			properties = append(properties, cyclonedx.Property{Name: "retrace:digest", Value: string(k)})
		}
	}
	if len(known) > 0 {
		c.Hashes = &known
	}
	if r.Key.Algorithm() == schema.GitCommit {
		c.Version = r.Key.Hex()
	}
	if r.URI != "" {
		kind := cyclonedx.ERTypeDistribution
		if r.Kind == "git" {
			kind = cyclonedx.ERTypeVCS
		}
		c.ExternalReferences = &[]cyclonedx.ExternalReference{{Type: kind, URL: r.URI}}
	}
	if i := slices.IndexFunc(a.Lineage.Edges, func(e schema.Edge) bool { return e.To == r.Key }); i >= 0 {
		// How the nearest edge to it is known.
		properties = append(properties, cyclonedx.Property{Name: "retrace:evidence", Value: string(a.Lineage.Edges[i].Evidence)})
	}
	c.Properties = &properties
	if c.Type == cyclonedx.ComponentTypeMachineLearningModel && r.Key == a.root().Key {
		c.ModelCard = a.modelCard()
	}
	return c
}

// mediaType is a media type without its parameters, which the schema refuses.
func mediaType(s string) string {
	s, _, _ = strings.Cut(s, ";")
	return strings.TrimSpace(s)
}

func (a *Answer) componentType(r schema.Resource) cyclonedx.ComponentType {
	switch {
	case r.Kind == "model", r.Key == a.root().Key && strings.HasPrefix(a.Lineage.Ref.Name, schema.NameModel+":"):
		return cyclonedx.ComponentTypeMachineLearningModel
	case r.Kind == "oci":
		return cyclonedx.ComponentTypeContainer
	case r.Kind == "git", r.Kind == "workload", r.Kind == "run":
		return cyclonedx.ComponentTypeApplication
	case r.Kind == "snapshot":
		return cyclonedx.ComponentTypeData
	}
	return cyclonedx.ComponentTypeFile
}

// modelCard holds the metrics, nil where none were reported.
func (a *Answer) modelCard() *cyclonedx.MLModelCard {
	var metrics []cyclonedx.MLPerformanceMetric
	for _, name := range slices.Sorted(maps.Keys(a.Metrics)) {
		metrics = append(metrics, cyclonedx.MLPerformanceMetric{Type: name, Value: fmt.Sprint(a.Metrics[name])})
	}
	if metrics == nil {
		return nil
	}
	return &cyclonedx.MLModelCard{QuantitativeAnalysis: &cyclonedx.MLQuantitativeAnalysis{PerformanceMetrics: &metrics}}
}

// dependencies are what each resource was made from, in the order of resources.
func (a *Answer) dependencies() *[]cyclonedx.Dependency {
	on := map[schema.Key][]string{}
	for _, e := range a.Lineage.Edges {
		if to := string(e.To); e.From != e.To && !slices.Contains(on[e.From], to) {
			on[e.From] = append(on[e.From], to)
		}
	}
	all := []cyclonedx.Dependency{}
	for _, r := range a.Lineage.Resources {
		d := cyclonedx.Dependency{Ref: string(r.Key)}
		if refs := on[r.Key]; len(refs) > 0 {
			d.Dependencies = &refs
		}
		all = append(all, d)
	}
	return &all
}

func (a *Answer) workflow() cyclonedx.Workflow {
	var tasks []cyclonedx.Task
	for _, s := range a.Lineage.Steps {
		tasks = append(tasks, a.task(s))
	}
	return cyclonedx.Workflow{
		BOMRef: "workflow", UID: "workflow:" + string(a.root().Key), TaskTypes: &[]cyclonedx.TaskType{cyclonedx.TaskTypeBuild}, Tasks: &tasks,
	}
}

func (a *Answer) task(s lineage.StepInfo) cyclonedx.Task {
	ref := "step:" + strconv.FormatInt(s.Entry, 10)
	t := cyclonedx.Task{
		BOMRef: ref, UID: ref, Name: s.Step.Name, TaskTypes: &[]cyclonedx.TaskType{cyclonedx.TaskTypeBuild},
		TimeStart: bomTime(s.Step.Started), TimeEnd: bomTime(s.Step.Finished),
	}
	properties := []cyclonedx.Property{{Name: "retrace:evidence", Value: string(s.Evidence)}}
	if s.Step.Run != "" {
		properties = append(properties, cyclonedx.Property{Name: "retrace:run", Value: s.Step.Run})
	}
	if s.Step.Builder != "" {
		properties = append(properties, cyclonedx.Property{Name: "retrace:builder", Value: s.Step.Builder})
	}
	t.Properties = &properties
	if len(s.Step.Argv) > 0 {
		t.Steps = &[]cyclonedx.TaskStep{{Commands: &[]cyclonedx.TaskCommand{{Executed: strings.Join(s.Step.Argv, " ")}}}}
	}
	var inputs []cyclonedx.TaskInput
	seen := map[schema.Key]bool{}
	for _, u := range s.Step.Uses {
		if !seen[u.Key] && a.shows(u.Key) {
			seen[u.Key] = true
			inputs = append(inputs, cyclonedx.TaskInput{Resource: &cyclonedx.ResourceReferenceChoice{Ref: string(u.Key)}})
		}
	}
	if len(s.Step.Parameters) > 0 {
		var parameters []cyclonedx.Parameter
		for _, name := range slices.Sorted(maps.Keys(s.Step.Parameters)) {
			parameters = append(parameters, cyclonedx.Parameter{Name: name, Value: s.Step.Parameters[name]})
		}
		inputs = append(inputs, cyclonedx.TaskInput{Parameters: &parameters})
	}
	if inputs != nil {
		t.Inputs = &inputs
	}
	var outputs []cyclonedx.TaskOutput
	for _, k := range a.made(s) {
		outputs = append(outputs, cyclonedx.TaskOutput{Type: cyclonedx.TaskOutputTypeArtifact, Resource: &cyclonedx.ResourceReferenceChoice{Ref: string(k)}})
	}
	if outputs != nil {
		t.Outputs = &outputs
	}
	return t
}

// shows says whether the answer holds a resource.
func (a *Answer) shows(k schema.Key) bool {
	return slices.ContainsFunc(a.Lineage.Resources, func(r schema.Resource) bool { return r.Key == k })
}

func bomTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
