package argo

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// Looks says whether a document, JSON or YAML, is of Kubernetes: whether
// Statements rather than schema.ParseDocument is to read it.
func Looks(raw []byte) bool {
	docs, err := kube.Documents(raw)
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
	objects, err := kube.Objects(raw)
	if err != nil {
		return nil, err
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
