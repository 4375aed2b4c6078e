package schema

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// formatExamples returns the statements in docs/formats.md, by predicate type.
// The page's examples are this package's test data, so that neither goes stale.
func formatExamples(t testing.TB) map[string]Statement {
	t.Helper()
	examples := map[string]Statement{}
	for _, s := range allExamples(t) {
		if _, ok := examples[s.PredicateType]; !ok {
			examples[s.PredicateType] = s
		}
	}
	return examples
}

// allExamples returns every statement in docs/formats.md.
func allExamples(t testing.TB) []Statement {
	t.Helper()
	page, err := os.ReadFile("../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	var examples []Statement
	for _, part := range strings.Split(string(page), "```json\n")[1:] {
		block, _, ok := strings.Cut(part, "```")
		if !ok {
			t.Fatalf("a block of docs/formats.md does not end: %.60s", part)
		}
		docs, err := ParseDocument([]byte(block))
		if err != nil {
			t.Fatalf("docs/formats.md: %v in\n%s", err, block)
		}
		for _, d := range docs {
			examples = append(examples, d.Statement)
		}
	}
	return examples
}

func example(t testing.TB, predicateType string) Statement {
	t.Helper()
	s, ok := formatExamples(t)[predicateType]
	if !ok {
		t.Fatalf("docs/formats.md has no example of %s", predicateType)
	}
	return s
}

func TestFormatsShowEveryPredicate(t *testing.T) {
	examples := formatExamples(t)
	for _, d := range described {
		if d.predicateType == "" {
			continue
		}
		s, ok := examples[d.predicateType]
		if !ok {
			t.Errorf("docs/formats.md has no example of %s", d.predicateType)
			continue
		}
		f, err := s.Facts()
		if err != nil {
			t.Errorf("%s: %v", d.name, err)
			continue
		}
		if len(f.Resources) == 0 || f.PredicateType != d.predicateType {
			t.Errorf("%s: facts %+v", d.name, f)
		}
	}
}

// TestFactsOfFormats holds what each example states to a golden file.
func TestFactsOfFormats(t *testing.T) {
	const golden = "testdata/formats.golden"
	var got bytes.Buffer
	examples := formatExamples(t)
	for _, predicateType := range slices.Sorted(maps.Keys(examples)) {
		raw, err := examples[predicateType].Encode()
		if err != nil {
			t.Fatal(err)
		}
		docs, err := ParseDocument(raw)
		if err != nil {
			t.Fatal(err)
		}
		writeDocument(&got, docs[0])
		for _, n := range docs[0].Facts.Names {
			fmt.Fprintf(&got, "  name %s at %s, deleted %v, before %q\n", n.Name, n.Key, n.Deleted, n.Old)
		}
	}
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("facts of the examples changed (-want +got):\n%s", diff)
	}
}

// TestStatementsReadBack signs nothing but does what signing does: the encoding
// of a statement decodes to a statement with the same encoding.
func TestStatementsReadBack(t *testing.T) {
	for predicateType, s := range formatExamples(t) {
		one, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseStatement(one)
		if err != nil {
			t.Errorf("%s: %v", predicateType, err)
			continue
		}
		two, err := back.Encode()
		if err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s encodes to %s, then to %s (%v)", predicateType, one, two, err)
		}
	}
}

// TestExampleOfARun reads the example of a step in full.
func TestExampleOfARun(t *testing.T) {
	f, err := example(t, ProvenanceV1).Facts()
	if err != nil {
		t.Fatal(err)
	}
	s := f.Step
	if s == nil || s.Exit == nil || *s.Exit != 0 || s.Metrics["mae"] != 1.25 || len(s.Gaps) != 1 || s.Gaps[0].Rule != "commit-not-on-remote" {
		t.Fatalf("step = %+v", s)
	}
	var roles []string
	for _, u := range s.Uses {
		roles = append(roles, u.Role)
	}
	if want := []string{RoleCode, RoleInput, RoleTool}; !slices.Equal(roles, want) {
		t.Errorf("roles = %v, want %v", roles, want)
	}
	if s.Uses[1].Producer != "01JGJX4S11" || s.Uses[1].Path != "data/features.csv" {
		t.Errorf("input = %+v", s.Uses[1])
	}
	if len(s.Generates) != 1 || s.Generates[0].Path != "out/model.json" {
		t.Errorf("outputs = %+v, want out/model.json alone: the run is not an output", s.Generates)
	}
	if s.Subject == "" || s.Run != "01JGJX4T5Z" {
		t.Errorf("run %q is the resource %q", s.Run, s.Subject)
	}
}
