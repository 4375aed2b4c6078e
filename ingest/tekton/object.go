package tekton

import (
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// object is what is read of a TaskRun or a PipelineRun (tekton.dev/v1, and
// v1beta1 where it calls things otherwise).
type object struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Metadata   kube.Meta `json:"metadata"`
	Spec       struct {
		Params      []param     `json:"params"`
		TaskRef     *ref        `json:"taskRef"`
		PipelineRef *ref        `json:"pipelineRef"`
		Workspaces  []workspace `json:"workspaces"`
	} `json:"spec"`
	Status status `json:"status"`
}

type ref struct {
	Name string `json:"name"`
}

type workspace struct {
	Name  string `json:"name"`
	Claim *struct {
		ClaimName string `json:"claimName"`
	} `json:"persistentVolumeClaim"`
}

type status struct {
	StartTime      time.Time   `json:"startTime"`
	CompletionTime time.Time   `json:"completionTime"`
	Conditions     []condition `json:"conditions"`
	Provenance     struct {
		RefSource *refSource `json:"refSource"`
	} `json:"provenance"`

	// Of a TaskRun.
	Steps       []stepState    `json:"steps"`
	Sidecars    []stepState    `json:"sidecars"`
	Results     []param        `json:"results"`
	TaskResults []param        `json:"taskResults"` // v1beta1
	TaskSpec    jsontext.Value `json:"taskSpec"`
	Artifacts   artifacts      `json:"artifacts"`

	// Of a PipelineRun.
	PipelineResults []param             `json:"pipelineResults"` // v1beta1
	PipelineSpec    jsontext.Value      `json:"pipelineSpec"`
	SkippedTasks    []ref               `json:"skippedTasks"`
	TaskRuns        map[string]embedded `json:"taskRuns"` // before v1, as far as it was asked for
	ChildReferences []jsontext.Value    `json:"childReferences"`
}

type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

type refSource struct {
	URI        string            `json:"uri"`
	Digest     map[string]string `json:"digest"`
	EntryPoint string            `json:"entryPoint"`
}

type stepState struct {
	Name       string  `json:"name"`
	ImageID    string  `json:"imageID"`
	Results    []param `json:"results"`
	Terminated *struct {
		ExitCode int    `json:"exitCode"`
		Reason   string `json:"reason"`
	} `json:"terminated"`
}

// artifacts are what newer versions say of a TaskRun (feature flag
// enable-artifacts).
type artifacts struct {
	Inputs  []artifact `json:"inputs"`
	Outputs []artifact `json:"outputs"`
}

type artifact struct {
	Name   string `json:"name"`
	Values []struct {
		URI    string            `json:"uri"`
		Digest map[string]string `json:"digest"`
	} `json:"values"`
}

// embedded is a TaskRun that stands in the status of its PipelineRun.
type embedded struct {
	PipelineTaskName string `json:"pipelineTaskName"`
	Status           status `json:"status"`
}

// param is a parameter or a result: a text, a list or an object.
type param struct {
	Name    string         `json:"name"`
	Value   jsontext.Value `json:"value"`
	Default jsontext.Value `json:"default"` // of one that a spec declares
}

// text is the value as Tekton passes it on.
func (p param) text() string {
	if p.Value.Kind() != '"' {
		return string(p.Value)
	}
	var s string
	if json.Unmarshal(p.Value, &s) != nil {
		return ""
	}
	return s
}

// fields are the texts of a value that is an object.
func (p param) fields() map[string]string {
	var m map[string]string
	if p.Value.Kind() != '{' || json.Unmarshal(p.Value, &m) != nil {
		return nil
	}
	return m
}

// Looks says whether a document, JSON or YAML, is one of TaskRuns or
// PipelineRuns, whether or not they can be read.
func Looks(raw []byte) bool {
	objects, err := kube.Objects(raw)
	if err != nil || len(objects) == 0 {
		return false
	}
	o := object{}
	if json.Unmarshal(objects[0], &o) != nil {
		var head struct {
			APIVersion string `json:"apiVersion"`
		}
		return json.Unmarshal(objects[0], &head) == nil && strings.HasPrefix(head.APIVersion, group+"/")
	}
	return strings.HasPrefix(o.APIVersion, group+"/") || o.Kind == taskRun || o.Kind == pipelineRun || o.Kind == "" && o.kind() != ""
}

// group is the group of Tekton's objects.
const group = "tekton.dev"

const (
	taskRun     = "TaskRun"
	pipelineRun = "PipelineRun"
)

// kind is what the object is, where it does not say so by what only the one or
// the other has; "" if it is neither.
func (o *object) kind() string {
	switch {
	case o.Kind != "":
		return o.Kind
	case o.Spec.PipelineRef != nil || o.Status.PipelineSpec != nil || len(o.Status.TaskRuns) > 0 || len(o.Status.ChildReferences) > 0:
		return pipelineRun
	case o.Spec.TaskRef != nil || o.Status.TaskSpec != nil || len(o.Status.Steps) > 0:
		return taskRun
	}
	return ""
}

// parseObject decodes a run that has begun.
func parseObject(raw []byte) (*object, error) {
	o := &object{}
	if err := json.Unmarshal(raw, o); err != nil {
		return nil, &schema.FieldError{Reason: fmt.Sprintf("is no TaskRun and no PipelineRun: %v", err)}
	}
	kind := o.kind()
	switch {
	case o.APIVersion != "" && !strings.HasPrefix(o.APIVersion, group+"/"), kind != taskRun && kind != pipelineRun:
		return nil, &schema.FieldError{Field: "kind", Reason: fmt.Sprintf("%q of %q is no TaskRun and no PipelineRun of %s", o.Kind, o.APIVersion, group)}
	case strings.Contains(o.Metadata.UID, "{{") || strings.Contains(o.Metadata.UID, "${"):
		return nil, &schema.FieldError{Field: "metadata.uid", Reason: "is a placeholder: this is a template, and not a run"}
	case o.Metadata.UID == "":
		return nil, &schema.FieldError{Field: "metadata.uid", Reason: "missing: only an object that was submitted has one, and only such a one ran"}
	case o.Status.StartTime.IsZero():
		return nil, notBegun
	}
	o.Kind = kind
	return o, nil
}

var notBegun = &schema.FieldError{Field: "status.startTime", Reason: "missing: the run has not begun"}

// condition is whether the run succeeded, in Tekton's words.
func (s *status) condition() condition {
	for _, c := range s.Conditions {
		if c.Type == "Succeeded" {
			return c
		}
	}
	return condition{}
}

// ended says whether the run has.
func (s *status) ended() bool {
	c := s.condition()
	return c.Status == "True" || c.Status == "False"
}

func (s *status) results() []param {
	for _, r := range [][]param{s.Results, s.TaskResults, s.PipelineResults} {
		if len(r) > 0 {
			return r
		}
	}
	return nil
}
