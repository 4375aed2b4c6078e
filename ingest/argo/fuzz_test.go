package argo

import (
	"strings"
	"testing"
)

// FuzzStatements makes statements of whatever stands in a file: it may be
// refused, and what is not is a statement that can be read back.
func FuzzStatements(f *testing.F) {
	f.Add([]byte(workflowJSON("forecast-x7k2p", "Succeeded")))
	f.Add([]byte(workflowJSON("forecast-x7k2p", "Failed") + "\n" + workflowJSON("forecast-2", "Running")))
	f.Add([]byte(`{"kind":"List","items":[` + workflowJSON("a", "Succeeded") + `]}`))
	f.Add([]byte("apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nmetadata: {uid: u, name: n}\nstatus: {startedAt: 2026-08-01T10:00:00Z, compressedNodes: H4sIAAAAAAAA/6quBQQAAP//Q7+mowIAAAA=}\n"))
	f.Add([]byte(strings.ReplaceAll(workflowJSON("n", "Succeeded"), `"prepare", "container"`, `"system-container-impl", "container"`)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		statements, err := Statements(raw, nil)
		if err != nil {
			return
		}
		for _, s := range statements {
			if _, err := s.Encode(); err != nil {
				t.Error(err)
			}
		}
	})
}
