package graphql_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/retrace-ledger/retrace/graphql"
)

var update = flag.Bool("update", false, "write what was got as what is wanted")

// volatile is what differs from one run to the next: keys, times of recording,
// hashes and signatures under them, and what is made of those.
var volatile = regexp.MustCompile(`"(recordedAt|note|root|inclusion|proof|keyid|cursor|startCursor|endCursor)": "(?:[^"\\]|\\.)*"`)

var seenAt = regexp.MustCompile(`(seen at|stable pointed at [^ ]+ at|"at":) "?20[0-9TZ:.-]+"?`)

// TestGoldenQueries asks each testdata/queries/*.txtar for its query and
// compares the answer.
func TestGoldenQueries(t *testing.T) {
	w := newWorld(t, nil)
	w.story()
	names, err := filepath.Glob("testdata/queries/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no queries: %v", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var query, want, vars []byte
			for _, f := range ar.Files {
				switch f.Name {
				case "query":
					query = f.Data
				case "variables":
					vars = f.Data
				case "want":
					want = f.Data
				default:
					t.Fatalf("%s has a file %q", name, f.Name)
				}
			}
			req := graphql.Request{Query: string(query)}
			if vars != nil {
				if err := json.Unmarshal(vars, &req.Variables); err != nil {
					t.Fatal(err)
				}
			}
			got := pretty(t, w.api.Exec(t.Context(), req))
			if *update {
				rewritten := &txtar.Archive{Comment: ar.Comment}
				for _, f := range ar.Files {
					if f.Name != "want" {
						rewritten.Files = append(rewritten.Files, f)
					}
				}
				rewritten.Files = append(rewritten.Files, txtar.File{Name: "want", Data: got})
				if err := os.WriteFile(name, txtar.Format(rewritten), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// pretty is a response as people read it, with what is volatile masked.
func pretty(t *testing.T, resp *graphql.Response) []byte {
	t.Helper()
	whole := map[string]any{}
	if resp.Data != nil {
		whole["data"] = json.RawMessage(resp.Data)
	}
	if len(resp.Errors) > 0 {
		whole["errors"] = resp.Errors
	}
	raw, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		t.Fatal(err)
	}
	b.WriteByte('\n')
	masked := volatile.ReplaceAll(b.Bytes(), []byte(`"$1": "…"`))
	return seenAt.ReplaceAll(masked, []byte(`$1 …`))
}

// TestIntrospectionGolden holds the schema as clients see it to a file, so that
// a change of the API is seen in review.
func TestIntrospectionGolden(t *testing.T) {
	w := newWorld(t, nil)
	got, err := w.api.Introspection()
	if err != nil {
		t.Fatal(err)
	}
	got = append(bytes.TrimSpace(got), '\n')
	const name = "testdata/introspection.json"
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("schema changed (-want +got); run with -update if it was meant to:\n%s", diff)
	}
}

// TestIntrospectionShut refuses to show the schema, and answers what is asked.
func TestIntrospectionShut(t *testing.T) {
	w := newWorld(t, &graphql.Options{NoIntrospection: true})
	resp := w.api.Exec(t.Context(), graphql.Request{Query: `{ __schema { types { name } } checkpoint { size } }`})
	if bytes.Contains(resp.Data, []byte("Checkpoint")) || !bytes.Contains(resp.Data, []byte(`"checkpoint":{"size":1}`)) {
		t.Errorf("%s, %v", resp.Data, resp.Errors)
	}
}

// TestIntrospectionFitsTheLimits asks what every GraphQL tool asks first,
// through the limits.
func TestIntrospectionFitsTheLimits(t *testing.T) {
	w := newWorld(t, nil)
	query, err := os.ReadFile("testdata/introspection.graphql")
	if err != nil {
		t.Fatal(err)
	}
	resp := w.api.Exec(t.Context(), graphql.Request{Query: string(query)})
	if len(resp.Errors) > 0 {
		t.Fatalf("the standard introspection query: %v", resp.Errors)
	}
	if !bytes.Contains(resp.Data, []byte("tlog-proof")) {
		t.Error("the schema's descriptions are missing")
	}
}
