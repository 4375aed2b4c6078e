package tekton

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestCorpus reads runs from the tests of Tekton Chains: what is said of each, or
// why nothing is. Provenance that is no run is read by package schema, or a
// template.
func TestCorpus(t *testing.T) {
	root := filepath.Join("..", "..", "..", "shared", "corpus", "tekton")
	files, err := filepath.Glob(filepath.Join(root, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
			t.Fatalf("no documents in %s", root)
		}
		t.Skipf("no documents in %s", root)
	}
	recorded, refused := 0, 0
	var b strings.Builder
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", filepath.Base(name))
		statements, _, err := Statements(raw, ingest.Naming{})
		if err != nil {
			refused++
			fmt.Fprintf(&b, "  refused: %v\n", err)
			continue
		}
		recorded++
		for _, s := range statements {
			b.WriteString(told(t, s))
		}
	}
	golden(t, "corpus.txt", fmt.Sprintf("%d recorded, %d refused\n%s", recorded, refused, b.String()))
}

// told is what a statement says, for people.
func told(t *testing.T, s schema.Statement) string {
	t.Helper()
	f, err := s.Facts()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, n := range f.Names {
		fmt.Fprintf(&b, "  names %s %s of run %s\n", n.Name, n.Key, n.Run)
	}
	step := f.Step
	if step == nil {
		return b.String()
	}
	fmt.Fprintf(&b, "  step %s %s %s\n", step.Run, step.Name, step.Finished.Format("2006-01-02T15:04:05Z"))
	if step.Parent != "" {
		fmt.Fprintf(&b, "    part of %s\n", step.Parent)
	}
	if step.Exit != nil {
		fmt.Fprintf(&b, "    exit %d\n", *step.Exit)
	}
	if len(step.Argv) > 0 {
		fmt.Fprintf(&b, "    argv %q\n", step.Argv)
	}
	for _, name := range slices.Sorted(maps.Keys(step.Parameters)) {
		fmt.Fprintf(&b, "    %s=%.60s\n", name, step.Parameters[name])
	}
	for _, name := range step.Secrets {
		fmt.Fprintf(&b, "    %s withheld\n", name)
	}
	for _, u := range step.Uses {
		fmt.Fprintf(&b, "    used %s %s %s\n", u.Role, u.Name, u.Key)
	}
	for _, o := range step.Generates {
		fmt.Fprintf(&b, "    made %s %s\n", o.Name, o.Key)
	}
	for _, name := range slices.Sorted(maps.Keys(step.Metrics)) {
		fmt.Fprintf(&b, "    metric %s: %v\n", name, step.Metrics[name])
	}
	for _, g := range step.Gaps {
		fmt.Fprintf(&b, "    gap %s: %s\n", g.Rule, g.Detail)
	}
	return b.String()
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	name := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("what is read changed; -update takes it over (-want +got):\n%s", diff)
	}
}

// FuzzStatements reads anything: what is taken makes statements that can be read
// back, and the same ones again.
func FuzzStatements(f *testing.F) {
	files, _ := filepath.Glob(filepath.Join("..", "..", "..", "shared", "corpus", "tekton", "*")) // the pattern is well-formed
	for _, name := range files {
		if raw, err := os.ReadFile(name); err == nil {
			f.Add(raw)
		}
	}
	f.Add([]byte(taskRunJSON("train", "ml", "True")))
	f.Add([]byte(pipelineRunJSON("forecast", "ml", "False")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		first, _, err := Statements(raw, nil)
		if err != nil {
			return
		}
		again, _, err := Statements(raw, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, again); diff != "" {
			t.Fatalf("read twice (-first +second):\n%s", diff)
		}
	})
}
