package retrace_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
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

// pages are the Markdown files of the repository.
func pages(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules" || d.Name() != "." && d.Name()[0] == '.' || strings.HasPrefix(d.Name(), "retrace-demo-")):
			return filepath.SkipDir
		case filepath.Ext(name) == ".md":
			found = append(found, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 10 {
		t.Fatalf("found %v only", found)
	}
	return found
}

func read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

var (
	fences    = regexp.MustCompile("(?ms)^```.*?^```$")
	links     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headings  = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are the fragments that GitHub gives to the headings of a page.
func anchors(page string) map[string]bool {
	all := map[string]bool{}
	for _, m := range headings.FindAllStringSubmatch(fences.ReplaceAllString(page, ""), -1) {
		all[strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return all
}

// TestLinks follows each link from one page to a file or folder here.
func TestLinks(t *testing.T) {
	for _, name := range pages(t) {
		for _, m := range links.FindAllStringSubmatch(fences.ReplaceAllString(read(t, name), ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, fragment, _ := strings.Cut(m[1], "#")
			target := filepath.Join(filepath.Dir(name), file)
			if file == "" {
				target = name
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
				continue
			}
			if fragment != "" && filepath.Ext(target) == ".md" && !anchors(read(t, target))[fragment] {
				t.Errorf("%s links to %s, and there is no such heading", name, m[1])
			}
		}
	}
}

// TestVerbs holds every `retrace VERB` in a page, and every flag behind it, to
// the commands that there are.
func TestVerbs(t *testing.T) {
	sources, err := filepath.Glob("cmd/retrace/*.go")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"help": true, "completion": true} // cobra's own
	flags := map[string]bool{"--help": true}
	for _, file := range sources {
		text := read(t, file)
		for _, m := range regexp.MustCompile(`Use:\s+"([a-z-]+)`).FindAllStringSubmatch(text, -1) {
			known[m[1]] = true
		}
		for _, m := range regexp.MustCompile(`lags\(?\)?\.[A-Za-z0-9]+\((?:&[A-Za-z.]+, )?"([a-z-]+)"`).FindAllStringSubmatch(text, -1) {
			flags["--"+m[1]] = true
		}
	}
	verb := regexp.MustCompile("(?m)(?:^\\s*(?:\\$ )?|[`|] ?)retrace((?: (?:--dir|--server) \\S+)*) ([a-z][a-z-]*)([^`\n|]*)")
	flag := regexp.MustCompile(` (--[a-z-]+)`)
	seen := 0
	for _, name := range pages(t) {
		for _, m := range verb.FindAllStringSubmatch(read(t, name), -1) {
			seen++
			if !known[m[2]] {
				t.Errorf("%s says %q, and there is no such command", name, strings.TrimSpace(m[0]))
				continue
			}
			ours, _, _ := strings.Cut(m[3], " -- ")
			for _, f := range flag.FindAllStringSubmatch(ours, -1) {
				if !flags[f[1]] {
					t.Errorf("%s says %q, and no command has the flag %s", name, strings.TrimSpace(m[0]), f[1])
				}
			}
		}
	}
	if seen < 50 {
		t.Errorf("found %d commands in the pages: the test looks for the wrong thing", seen)
	}
}

// TestNames holds the tests that pages name to the code.
func TestNames(t *testing.T) {
	var all strings.Builder
	for _, pattern := range []string{"*", "*/*", "*/*/*"} {
		files, err := filepath.Glob(pattern + "_test.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			all.WriteString(read(t, f))
		}
	}
	for _, page := range []string{"docs/architecture.md", "docs/threat-model.md", "docs/reliability.md"} {
		names := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(read(t, page), -1)
		if len(names) == 0 {
			t.Errorf("%s names no test", page)
		}
		for _, m := range names {
			if !strings.Contains(all.String(), "func "+m[1]+"(t *testing.T)") && !strings.Contains(all.String(), "func "+m[1]+"(f *testing.F)") {
				t.Errorf("%s names %s, which is no test", page, m[1])
			}
		}
		for _, m := range regexp.MustCompile("`([a-z_]+)\\.txtar`").FindAllStringSubmatch(read(t, page), -1) {
			if _, err := os.Stat(filepath.Join("cmd/retrace/testdata", m[1]+".txtar")); err != nil {
				t.Errorf("%s names the script %s: %v", page, m[1], err)
			}
		}
	}
}
