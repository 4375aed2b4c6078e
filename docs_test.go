package retrace_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/retrace-ledger/retrace/lineage"
)

// TestGapsPage holds docs/gaps.md to the rules that are looked for and to the
// gaps that the recorder of a step writes into its statement.
func TestGapsPage(t *testing.T) {
	page, err := os.ReadFile("docs/gaps.md")
	if err != nil {
		t.Fatal(err)
	}
	severity := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| ([a-z]+) \\|").FindAllStringSubmatch(string(page), -1) {
		severity[m[1]] = m[2]
	}
	known := map[string]bool{}
	for _, r := range lineage.Rules() {
		known[r.ID] = true
		if severity[r.ID] != string(r.Severity) {
			t.Errorf("docs/gaps.md says that %s %q, lineage says %q", r.ID, severity[r.ID], r.Severity)
		}
	}
	sources, err := filepath.Glob("ingest/run/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range sources {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\.gap\("([a-z-]+)"`).FindAllStringSubmatch(string(source), -1) {
			known[m[1]] = true
			if severity[m[1]] == "" {
				t.Errorf("%s records the gap %s, which docs/gaps.md does not explain", file, m[1])
			}
		}
	}
	for id := range severity {
		if !known[id] {
			t.Errorf("docs/gaps.md explains %s, which nothing looks for", id)
		}
	}
}
