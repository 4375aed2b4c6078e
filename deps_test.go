package retrace_test

import (
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/retrace-ledger/retrace"

// arrows lists what each package may import of retrace. It is a statement of
// policy, docs/architecture.md drawn as data: a new arrow is a decision about
// the design, not a way to mend a build. A pattern that ends in /* stands for
// the packages below a folder, * alone for everything.
var arrows = map[string][]string{
	"bench":                    {"schema", "keys", "verify", "ledger/bench", "lineage", "lineage/bench", "graphql"}, // a module of its own
	"bench/statements":         {"schema", "keys", "lineage/bench"},
	"schema":                   {},
	"keys":                     {"schema"},
	"verify":                   {"schema", "keys", "verify/sigstore"},
	"verify/sigstore":          {"schema"},
	"verify/sigstore/*":        {"schema"},
	"verify/cosign":            {"schema", "keys", "verify"},
	"verify/replay":            {"schema", "keys", "verify"},
	"verify/audit":             {"schema", "keys", "verify", "verify/cosign"},
	"ledger":                   {"schema", "keys", "verify", "ledger/engine", "ledger/internal/disk"},
	"ledger/witness":           {"verify", "ledger"},
	"ledger/witness/*":         {},
	"ledger/internal/disk":     {},
	"ledger/engine":            {"ledger/internal/disk"},
	"ledger/engine/enginetest": {"ledger/engine"},
	"ledger/bench":             {"schema", "keys", "verify", "ledger", "ledger/engine", "ledger/internal/disk"},
	"ledger/ledgertest":        {"schema", "keys", "verify", "ledger", "ledger/internal/disk"},
	"content":                  {"schema"},
	"ingest":                   {"schema", "keys"},
	"ingest/*":                 {"schema", "keys", "ingest", "ingest/kube"},
	"ingest/csi":               {"schema", "keys", "verify", "ingest", "ingest/kube", "ingest/keep"},
	"ingest/keep":              {},
	"ingest/snapshot":          {"schema", "keys", "ingest", "ingest/keep"},
	"ingest/kube":              {"schema", "ingest"},
	"ingest/kube/kubetest":     {},
	"ingest/s3/s3test":         {},
	"ingest/all":               {"schema", "keys", "ingest", "ingest/*"},
	"lineage":                  {"schema"},
	"lineage/bench":            {"schema", "lineage"},
	"lineage/lineagetest":      {"schema", "keys", "verify", "lineage"},
	"export":                   {"schema", "lineage"},
	"picture":                  {"schema", "lineage"},
	"restore":                  {"schema", "lineage"},
	"graphql":                  {"schema", "lineage", "verify"},
	"server":                   {"schema", "verify", "content", "ledger", "ledger/witness", "lineage", "restore", "graphql", "client", "ingest/openlineage"}, // receives events
	"client":                   {"schema", "content"},
	"web":                      {},
	"cmd/retrace":              {"*"},
	"cmd/retrace/*":            {"*"},
}

// confined lists third-party modules that stay behind one door each.
var confined = map[string][]string{
	"github.com/dgraph-io/badger":            {"ledger/engine", "ledger/bench", "lineage"},
	"github.com/dop251/goja":                 {"picture"},
	"github.com/CycloneDX/cyclonedx-go":      {"export"},
	"github.com/coder/websocket":             {"graphql"},
	"github.com/go-git/go-git":               {"ingest/git"},
	"github.com/google/go-containerregistry": {"ingest/oci", "verify/cosign", "verify/audit", "cmd/retrace"},
	"github.com/graph-gophers/graphql-go":    {"graphql"},
	"github.com/kopia/kopia":                 {"content"},
	"github.com/minio/minio-go":              {"ingest/s3", "ingest/s3/s3test"},
	"k8s.io/client-go":                       {"ingest/kube"},
	"github.com/opencontainers/go-digest":    {"schema", "ingest/oci"},
	"github.com/sigstore/cosign":             {"verify/cosign", "cmd/retrace"},
	"github.com/sigstore/sigstore-go":        {"verify/sigstore", "verify/sigstore/sigstoretest", "verify/cosign"},
	"github.com/prometheus/client_golang":    {"server", "cmd/retrace"},
	"github.com/spf13/cobra":                 {"cmd/retrace"},
}

// sourceFile is one Go file of the module that is not a test.
type sourceFile struct {
	name    string // relative to the module's root
	pkg     string // its folder, relative to the module's root
	imports []string
	comment bool // has a package comment
}

func sourceFiles(t *testing.T) []sourceFile {
	t.Helper()
	out, err := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.go").Output()
	if err != nil {
		if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
			t.Fatalf("git ls-files: %v", err)
		}
		t.Skipf("not in a Git checkout: %v", err)
	}
	var files []sourceFile
	for _, name := range strings.Fields(string(out)) {
		if strings.HasSuffix(name, "_test.go") || strings.Contains(name, "testdata/") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly|parser.ParseComments)
		if os.IsNotExist(err) {
			continue // deleted, not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		f := sourceFile{name: name, pkg: path.Dir(name), comment: parsed.Doc != nil}
		for _, spec := range parsed.Imports {
			f.imports = append(f.imports, strings.Trim(spec.Path.Value, `"`))
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		t.Fatal("no Go files found")
	}
	return files
}

// allowed returns what policy says of pkg: its own line, else that of the
// folder it is in.
func allowed(pkg string) ([]string, bool) {
	if a, ok := arrows[pkg]; ok {
		return a, true
	}
	a, ok := arrows[path.Dir(pkg)+"/*"]
	return a, ok
}

func covers(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		return p == "*" || p == pkg || strings.HasSuffix(p, "/*") && path.Dir(pkg) == strings.TrimSuffix(p, "/*")
	})
}

func TestArrows(t *testing.T) {
	for _, f := range sourceFiles(t) {
		may, ok := allowed(f.pkg)
		if !ok {
			t.Errorf("%s: package %s has no place in the design; see docs/architecture.md", f.name, f.pkg)
			continue
		}
		for _, imp := range f.imports {
			pkg, ours := strings.CutPrefix(imp, module+"/")
			if ours && !covers(may, pkg) {
				t.Errorf("%s: %s must not import %s; it may import %s", f.name, f.pkg, pkg, strings.Join(may, ", "))
			}
		}
	}
}

func TestConfinedModules(t *testing.T) {
	for _, f := range sourceFiles(t) {
		for _, imp := range f.imports {
			for mod, pkgs := range confined {
				if strings.HasPrefix(imp, mod) && !slices.Contains(pkgs, f.pkg) {
					t.Errorf("%s: %s must not import %s; only %s may", f.name, f.pkg, imp, strings.Join(pkgs, ", "))
				}
			}
		}
	}
}

func TestOnePackageComment(t *testing.T) {
	commented := map[string][]string{}
	for _, f := range sourceFiles(t) {
		names := commented[f.pkg]
		if f.comment {
			names = append(names, path.Base(f.name))
		}
		commented[f.pkg] = names
	}
	for pkg, names := range commented {
		if len(names) != 1 {
			t.Errorf("package %s has package comments in %v, want them in exactly one file", pkg, names)
		}
	}
}
