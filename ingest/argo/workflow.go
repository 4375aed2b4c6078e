package argo

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// workflow is what is read of a Workflow (argoproj.io/v1alpha1).
type workflow struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		kube.Meta
		GenerateName string `json:"generateName"`
	} `json:"metadata"`
	Spec   spec   `json:"spec"`
	Status status `json:"status"`

	nodes     map[string]*node
	templates map[string]*template
	attempts  map[string]string   // by ID of a node, what the node is called that it is an attempt at
	leavers   map[string][]string // by location, the IDs of the steps that left something there, in order
	taken     map[string][]taken  // snapshots by claim, in the order of time; nil where nobody asked
}

type spec struct {
	Arguments           values           `json:"arguments"`
	Templates           []jsontext.Value `json:"templates"`
	Volumes             []volume         `json:"volumes"`
	WorkflowTemplateRef struct {
		Name string `json:"name"`
	} `json:"workflowTemplateRef"`
}

type status struct {
	Phase             string                    `json:"phase"`
	StartedAt         time.Time                 `json:"startedAt"`
	FinishedAt        time.Time                 `json:"finishedAt"`
	Message           string                    `json:"message"`
	Nodes             map[string]*node          `json:"nodes"`
	CompressedNodes   string                    `json:"compressedNodes"`
	OffloadVersion    string                    `json:"offloadNodeStatusVersion"`
	StoredTemplates   map[string]jsontext.Value `json:"storedTemplates"`
	StoredSpec        spec                      `json:"storedWorkflowTemplateSpec"`
	ArtifactRepoState struct {
		Repository location `json:"artifactRepository"`
	} `json:"artifactRepositoryRef"`
}

// node is a NodeStatus: a step, or a knot of the graph of steps.
type node struct {
	ID            string    `json:"id"`
	Name          string    `json:"name"`
	DisplayName   string    `json:"displayName"`
	Type          string    `json:"type"`
	TemplateName  string    `json:"templateName"`
	TemplateScope string    `json:"templateScope"`
	TemplateRef   ref       `json:"templateRef"`
	Phase         string    `json:"phase"`
	BoundaryID    string    `json:"boundaryID"`
	Message       string    `json:"message"`
	StartedAt     time.Time `json:"startedAt"`
	FinishedAt    time.Time `json:"finishedAt"`
	Inputs        values    `json:"inputs"`
	Outputs       values    `json:"outputs"`
	Children      []string  `json:"children"`
	Memoization   *struct {
		Hit       bool   `json:"hit"`
		Key       string `json:"key"`
		CacheName string `json:"cacheName"`
	} `json:"memoizationStatus"`
}

type ref struct {
	Name     string `json:"name"`
	Template string `json:"template"`
}

type values struct {
	Parameters []parameter `json:"parameters"`
	Artifacts  []artifact  `json:"artifacts"`
	ExitCode   string      `json:"exitCode"`
}

// parameter has a value of any JSON type: older versions wrote numbers.
type parameter struct {
	Name  string         `json:"name"`
	Value jsontext.Value `json:"value"`
}

// text is the value as Argo passes it on.
func (p parameter) text() string {
	if p.Value.Kind() != '"' {
		return string(p.Value)
	}
	text, err := jsontext.AppendUnquote(nil, p.Value)
	if err != nil {
		return ""
	}
	return string(text)
}

type template struct {
	Name      string     `json:"name"`
	Container *container `json:"container"`
	Script    *container `json:"script"`
	Volumes   []volume   `json:"volumes"`
	Metadata  struct {   // of its pods
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`

	raw jsontext.Value
}

// program is what the template runs; nil for one that runs other templates.
func (t *template) program() *container {
	if t == nil {
		return nil
	}
	if t.Script != nil {
		return t.Script
	}
	return t.Container
}

type container struct {
	Image        string   `json:"image"`
	Command      []string `json:"command"`
	Args         []string `json:"args"`
	Source       string   `json:"source"` // of a script
	Env          []envVar `json:"env"`
	VolumeMounts []struct {
		Name      string `json:"name"`
		MountPath string `json:"mountPath"`
	} `json:"volumeMounts"`
}

type envVar struct {
	Name      string `json:"name"`
	Value     string `json:"value"`
	ValueFrom *struct {
		SecretKeyRef *struct{} `json:"secretKeyRef"`
	} `json:"valueFrom"`
}

type volume struct {
	Name  string `json:"name"`
	Claim *struct {
		ClaimName string `json:"claimName"`
	} `json:"persistentVolumeClaim"`
}

// Limits of what is decoded.
const (
	maxNodes      = 64 << 20 // bytes of compressed nodes, inflated
	maxParameter  = 32 << 10 // bytes of a value; of a longer one the digest is recorded
	maxParameters = 512
)

// parseWorkflow decodes a Workflow that ran, or is running.
func parseWorkflow(raw []byte) (*workflow, error) {
	w := &workflow{}
	if err := json.Unmarshal(raw, w); err != nil {
		return nil, &schema.FieldError{Reason: fmt.Sprintf("is not a Workflow: %v", err)}
	}
	switch {
	case w.Kind != "" && w.Kind != "Workflow" || w.APIVersion != "" && !strings.HasPrefix(w.APIVersion, "argoproj.io/"):
		return nil, &schema.FieldError{Field: "kind", Reason: fmt.Sprintf("%q of %q is not a Workflow of argoproj.io", w.Kind, w.APIVersion)}
	case w.Status.isZero():
		return nil, &schema.FieldError{Field: "status", Reason: "missing: this says what is to be done, and nothing of a run"}
	case w.Metadata.UID == "":
		return nil, &schema.FieldError{Field: "metadata.uid", Reason: "missing: only a Workflow that was submitted has one, and only such a one ran"}
	case w.Status.StartedAt.IsZero():
		return nil, &schema.FieldError{Field: "status.startedAt", Reason: "missing: the Workflow has not begun"}
	}
	var err error
	if w.nodes, err = w.allNodes(); err != nil {
		return nil, err
	}
	w.Status.Phase = w.phase()
	w.index()
	return w, w.readTemplates()
}

// index notes what is looked up for each step, so that a Workflow of thousands of
// steps is not gone through for each of them.
func (w *workflow) index() {
	w.attempts, w.leavers = map[string]string{}, map[string][]string{}
	repository := &w.Status.ArtifactRepoState.Repository
	for _, id := range slices.Sorted(maps.Keys(w.nodes)) {
		n := w.nodes[id]
		if n.Type == "Retry" {
			for _, child := range n.Children {
				w.attempts[child] = n.DisplayName
			}
		}
		if !n.runs() {
			continue
		}
		for _, uri := range n.leaves(repository) {
			if have := w.leavers[uri]; len(have) == 0 || have[len(have)-1] != id {
				w.leavers[uri] = append(have, id)
			}
		}
	}
}

// isZero says whether there is no status at all.
func (s *status) isZero() bool {
	return s.Phase == "" && s.StartedAt.IsZero() && len(s.Nodes) == 0 && s.CompressedNodes == "" && s.OffloadVersion == ""
}

// phase is that of the run: where the status does not say, as the label or the
// root of the steps does.
func (w *workflow) phase() string {
	if w.Status.Phase != "" {
		return w.Status.Phase
	}
	if label := w.Metadata.Labels["workflows.argoproj.io/phase"]; label != "" {
		return label
	}
	if root := w.nodes[w.Metadata.Name]; root != nil && root.Phase != "" {
		return root.Phase
	}
	return "Running"
}

// allNodes are the steps, wherever Argo put them. A status that Argo moved into
// its database has none here.
func (w *workflow) allNodes() (map[string]*node, error) {
	nodes := w.Status.Nodes
	if len(nodes) == 0 && w.Status.CompressedNodes != "" {
		packed, err := base64.StdEncoding.DecodeString(w.Status.CompressedNodes)
		if err != nil {
			return nil, &schema.FieldError{Field: "status.compressedNodes", Reason: err.Error()}
		}
		unzip, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			return nil, &schema.FieldError{Field: "status.compressedNodes", Reason: err.Error()}
		}
		raw, err := io.ReadAll(io.LimitReader(unzip, maxNodes+1))
		if err == nil && len(raw) > maxNodes {
			err = fmt.Errorf("holds more than %d bytes", maxNodes)
		}
		if err == nil {
			err = json.Unmarshal(raw, &nodes)
		}
		if err != nil {
			return nil, &schema.FieldError{Field: "status.compressedNodes", Reason: err.Error()}
		}
	}
	for id, n := range nodes {
		if n == nil || n.ID != id {
			return nil, &schema.FieldError{Field: "status.nodes." + id, Reason: "has another id, or none"}
		}
	}
	return nodes, nil
}

// readTemplates decodes what the Workflow's steps were told to do.
func (w *workflow) readTemplates() error {
	w.templates = map[string]*template{}
	add := func(key string, raw jsontext.Value) error {
		t := &template{}
		if err := json.Unmarshal(raw, t); err != nil {
			return &schema.FieldError{Field: "spec.templates", Reason: err.Error()}
		}
		t.raw = raw.Clone()
		if key == "" {
			key = t.Name
		}
		w.templates[key] = t
		return nil
	}
	for _, raw := range slices.Concat(w.Status.StoredSpec.Templates, w.Spec.Templates) {
		if err := add("", raw); err != nil {
			return err
		}
	}
	for key, raw := range w.Status.StoredTemplates {
		if err := add(key, raw); err != nil {
			return err
		}
	}
	return nil
}

// template is what a step was told to do; nil where the Workflow does not say.
func (w *workflow) template(n *node) *template {
	if n.TemplateRef.Name == "" {
		if t := w.templates[n.TemplateName]; t != nil {
			return t
		}
		return w.templates[n.TemplateScope+"/"+n.TemplateName]
	}
	// As storedTemplates are keyed: scope, the template's resource, its name.
	for _, scope := range []string{"namespaced", "cluster"} {
		if t := w.templates[scope+"/"+n.TemplateRef.Name+"/"+n.TemplateRef.Template]; t != nil {
			return t
		}
	}
	return nil
}

// pipeline is what people call that of which this is a run.
func (w *workflow) pipeline() string {
	for _, label := range []string{"pipelines.kubeflow.org/pipeline_name", "workflows.argoproj.io/workflow-template", "workflows.argoproj.io/cluster-workflow-template", "workflows.argoproj.io/cron-workflow", "scheduledworkflows.kubeflow.org/scheduledWorkflowName"} {
		if v := w.Metadata.Labels[label]; v != "" {
			return v
		}
	}
	if v := w.Metadata.Annotations["pipelines.kubeflow.org/pipeline_name"]; v != "" {
		return v
	}
	if v := w.Spec.WorkflowTemplateRef.Name; v != "" {
		return v
	}
	if v := strings.TrimRight(w.Metadata.GenerateName, "-"); v != "" {
		return v
	}
	return w.Metadata.Name
}

// kubeflow says whether Kubeflow Pipelines submitted the Workflow.
func (w *workflow) kubeflow() bool {
	if _, ok := w.Metadata.Labels["pipeline/runid"]; ok {
		return true
	}
	for _, m := range []map[string]string{w.Metadata.Labels, w.Metadata.Annotations} {
		for k := range m {
			if strings.HasPrefix(k, "pipelines.kubeflow.org/") {
				return true
			}
		}
	}
	return false
}

// ended says whether nothing more happens in a phase.
func ended(phase string) bool { return phase == "Succeeded" || phase == "Failed" || phase == "Error" }
