package argo

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/schema"
)

var update = flag.Bool("update", false, "write the golden file of the corpus anew")

// TestCorpus reads real Workflows and pipeline specs: what is said of each, or
// why nothing is.
func TestCorpus(t *testing.T) {
	root := filepath.Join("..", "..", "..", "shared", "corpus")
	var b strings.Builder
	for _, dir := range []string{"argo", "kfp"} {
		files, err := filepath.Glob(filepath.Join(root, dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) == 0 {
			if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
				t.Fatalf("no documents in %s", filepath.Join(root, dir))
			}
			t.Skipf("no documents in %s", filepath.Join(root, dir))
		}
		for _, name := range files {
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s/%s\n", dir, filepath.Base(name))
			statements, err := Statements(raw, nil)
			if err != nil {
				fmt.Fprintf(&b, "  refused: %v\n", err)
				continue
			}
			for _, s := range statements {
				b.WriteString(told(t, s))
			}
		}
	}
	golden := filepath.Join("testdata", "corpus.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("what is read of the corpus changed; -update takes it over (-want +got):\n%s", diff)
	}
}

// told is what a statement says, for people.
func told(t *testing.T, s schema.Statement) string {
	t.Helper()
	f, err := s.Facts()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if f.Step == nil {
		for _, n := range f.Names {
			fmt.Fprintf(&b, "  names %s %s\n", n.Name, n.Key)
		}
		return b.String()
	}
	fmt.Fprintf(&b, "  step %s %s %s\n", f.Step.Run, f.Step.Name, f.Step.Finished.Format("2006-01-02T15:04:05Z"))
	if len(f.Step.Argv) > 0 {
		fmt.Fprintf(&b, "    argv %.100q\n", f.Step.Argv)
	}
	for _, u := range f.Step.Uses {
		fmt.Fprintf(&b, "    uses %s %s %s %s\n", u.Role, u.Name, u.Key, u.Producer)
	}
	for _, g := range f.Step.Generates {
		fmt.Fprintf(&b, "    makes %s %s\n", g.Name, g.Key)
	}
	for _, g := range f.Step.Gaps {
		fmt.Fprintf(&b, "    gap %s %s\n", g.Rule, g.Detail)
	}
	return b.String()
}
