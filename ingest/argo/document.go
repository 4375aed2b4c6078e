package argo

import (
	"bytes"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"sigs.k8s.io/yaml"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// Looks says whether a document, JSON or YAML, is of Kubernetes: whether
// Statements rather than schema.ParseDocument is to read it.
func Looks(raw []byte) bool {
	docs, err := split(raw)
	if err != nil || len(docs) == 0 {
		return false
	}
	var head struct {
		APIVersion string         `json:"apiVersion"`
		Spec       jsontext.Value `json:"spec"`
		Status     jsontext.Value `json:"status"`
	}
	return json.Unmarshal(docs[0], &head) == nil && (head.APIVersion != "" || head.Spec != nil && head.Status != nil)
}

// Statements are those that a watcher would make of Workflows in a file: one, a
// List of them, JSON Lines, or documents of YAML. It is all or nothing; an error
// says which of them it is about, and holds a *schema.FieldError where one is at
// fault.
func Statements(raw []byte, naming ingest.Naming) ([]schema.Statement, error) {
	docs, err := split(raw)
	if err != nil {
		return nil, err
	}
	var objects []jsontext.Value
	for _, doc := range docs {
		items, err := listed(doc)
		if err != nil {
			return nil, err
		}
		objects = append(objects, items...)
	}
	var all []schema.Statement
	for i, o := range objects {
		statements, err := statementsOf(o, naming)
		if err != nil && len(objects) > 1 {
			err = fmt.Errorf("workflow %d: %w", i+1, err)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, statements...)
	}
	return all, nil
}

func statementsOf(raw jsontext.Value, naming ingest.Naming) ([]schema.Statement, error) {
	w, err := parseWorkflow(raw)
	if err != nil {
		return nil, err
	}
	return w.describe(nil, false, naming)
}

// listed are the items of a List, or the object itself.
func listed(doc jsontext.Value) ([]jsontext.Value, error) {
	var list struct {
		Kind  string           `json:"kind"`
		Items []jsontext.Value `json:"items"`
	}
	if err := json.Unmarshal(doc, &list); err != nil {
		return nil, &schema.FieldError{Reason: fmt.Sprintf("is no object of Kubernetes: %v", err)}
	}
	if list.Kind == "List" || list.Kind == "WorkflowList" {
		return list.Items, nil
	}
	return []jsontext.Value{doc}, nil
}

// split cuts a file into its documents, as JSON.
func split(raw []byte) ([]jsontext.Value, error) {
	if trimmed := bytes.TrimSpace(raw); len(trimmed) > 0 && trimmed[0] != '{' && trimmed[0] != '[' {
		return splitYAML(raw)
	}
	var docs []jsontext.Value
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	for d.PeekKind() == '{' {
		v, err := d.ReadValue()
		if err != nil {
			return nil, &schema.FieldError{Reason: err.Error()}
		}
		docs = append(docs, v.Clone())
	}
	if rest := bytes.TrimSpace(raw[d.InputOffset():]); len(rest) > 0 {
		return nil, &schema.FieldError{Reason: fmt.Sprintf("is not JSON at byte %d", d.InputOffset())}
	}
	return docs, nil
}

func splitYAML(raw []byte) ([]jsontext.Value, error) {
	var docs []jsontext.Value
	for _, doc := range bytes.Split(append([]byte("\n"), raw...), []byte("\n---")) {
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		v, err := yaml.YAMLToJSON(doc)
		if err != nil {
			return nil, &schema.FieldError{Reason: "is not YAML: " + err.Error()}
		}
		docs = append(docs, v)
	}
	return docs, nil
}
