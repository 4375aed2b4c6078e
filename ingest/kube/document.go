package kube

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"sigs.k8s.io/yaml"

	"github.com/retrace-ledger/retrace/schema"
)

// Objects are the objects of a file: one, a List of them, JSON Lines, or
// documents of YAML. An error holds a *schema.FieldError.
func Objects(raw []byte) ([]jsontext.Value, error) {
	docs, err := Documents(raw)
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
	return objects, nil
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
	if strings.HasSuffix(list.Kind, "List") {
		return list.Items, nil
	}
	return []jsontext.Value{doc}, nil
}

// Documents are the documents of a file, JSON or YAML, as JSON.
func Documents(raw []byte) ([]jsontext.Value, error) {
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
