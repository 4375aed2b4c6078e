package argo

import (
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/schema"
)

// Templates of Kubeflow Pipelines v2. A task is a DAG of a driver, which
// decides, and an executor, which does the work.
const (
	kubeflowPrefix = "system-"
	kubeflowDriver = "-driver"
)

// Types of artifacts of Kubeflow Pipelines.
const (
	modelType   = "system.Model"
	metricsType = "system.Metrics"
)

// execution is what Kubeflow's launcher was told about a task.
type execution struct {
	image   string
	command []string
	input   executorInput
}

// executorInput is an ExecutorInput (kubeflow/pipelines, pipeline_spec.proto).
type executorInput struct {
	Inputs struct {
		ParameterValues map[string]jsontext.Value `json:"parameterValues"`
		Artifacts       map[string]artifactList   `json:"artifacts"`
	} `json:"inputs"`
	Outputs struct {
		Artifacts map[string]artifactList `json:"artifacts"`
	} `json:"outputs"`
}

type artifactList struct {
	Artifacts []runtimeArtifact `json:"artifacts"`
}

type runtimeArtifact struct {
	Name string `json:"name"`
	Type struct {
		SchemaTitle string `json:"schemaTitle"`
	} `json:"type"`
	URI      string                    `json:"uri"`
	Metadata map[string]jsontext.Value `json:"metadata"`
}

// execution reads the patch that the driver of a task made for the pod of its
// executor. It reports false for a node that has none.
func (n *node) execution() (*execution, bool, error) {
	patch := n.parameter("pod-spec-patch")
	if patch == "" {
		return nil, false, nil
	}
	var pod struct {
		Containers []container `json:"containers"`
	}
	if err := json.Unmarshal([]byte(patch), &pod); err != nil {
		return nil, false, &schema.FieldError{Field: "status.nodes." + n.ID + ".inputs.parameters.pod-spec-patch", Reason: err.Error()}
	}
	if len(pod.Containers) == 0 {
		return nil, false, nil
	}
	main := pod.Containers[0]
	e := &execution{image: main.Image}
	words := slices.Concat(main.Command, main.Args)
	for i, word := range words {
		if word == "--" {
			e.command = words[i+1:]
			break
		}
		if word != "--executor_input" || i+1 >= len(words) {
			continue
		}
		if err := json.Unmarshal([]byte(words[i+1]), &e.input); err != nil {
			return nil, false, &schema.FieldError{Field: "status.nodes." + n.ID + ".inputs.parameters.pod-spec-patch", Reason: "executor_input: " + err.Error()}
		}
	}
	return e, true, nil
}

// parameter is the value of an input of the node; "" if it has none.
func (n *node) parameter(name string) string { return find(n.Inputs.Parameters, name) }

func find(parameters []parameter, name string) string {
	for _, p := range parameters {
		if p.Name == name {
			return p.text()
		}
	}
	return ""
}

// driver says whether the node is one of Kubeflow's own, and not a task.
func (n *node) driver() bool {
	return strings.HasPrefix(n.TemplateName, kubeflowPrefix) && strings.HasSuffix(n.TemplateName, kubeflowDriver)
}

// cached says whether the driver decided to take what an earlier task made.
func (n *node) cached() bool {
	return n.driver() && find(n.Outputs.Parameters, "cached-decision") == "true"
}

// sorted yields artifacts in the order of their names.
func sorted(lists map[string]artifactList, yield func(name string, a runtimeArtifact)) {
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		for _, a := range lists[name].Artifacts {
			yield(name, a)
		}
	}
}

// numbers are the metrics that an artifact carries.
func (a runtimeArtifact) numbers(into map[string]any) {
	for name, v := range a.Metadata {
		var number float64
		if json.Unmarshal(v, &number) == nil {
			into[name] = number
		}
	}
}
