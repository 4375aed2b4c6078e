package openlineage

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/schema"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestCorpus reads the events of other projects' tests, and facets that are no
// events: what is said of each, or why nothing is.
func TestCorpus(t *testing.T) {
	root := filepath.Join("..", "..", "..", "shared", "corpus", "openlineage")
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
	got := told(t, files, &recorded, &refused)
	golden(t, filepath.Join("testdata", "corpus.txt"), fmt.Sprintf("%d recorded, %d refused\n%s", recorded, refused, got))
}

// TestOwnEvents reads events as integrations send them, whole.
func TestOwnEvents(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.json*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no events: %v", err)
	}
	recorded, refused := 0, 0
	golden(t, filepath.Join("testdata", "events.txt"), told(t, files, &recorded, &refused))
}

func told(t *testing.T, files []string, recorded, refused *int) string {
	t.Helper()
	var b strings.Builder
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", filepath.Base(name))
		statements, err := Statements(raw)
		if err != nil {
			*refused++
			fmt.Fprintf(&b, "  refused: %v\n", err)
			continue
		}
		*recorded++
		for _, s := range statements {
			tell(t, &b, s)
		}
	}
	return b.String()
}

// tell writes what a statement says, for people.
func tell(t *testing.T, b *strings.Builder, s schema.Statement) {
	t.Helper()
	f, err := s.Facts()
	if err != nil {
		t.Fatal(err)
	}
	step := f.Step
	fmt.Fprintf(b, "  step %s %s\n    from %s to %s, by %s\n", step.Run, step.Name, step.Started.Format("2006-01-02T15:04:05Z07:00"), step.Finished.Format("2006-01-02T15:04:05Z07:00"), step.Builder)
	if step.Parent != "" {
		fmt.Fprintf(b, "    part of %s\n", step.Parent)
	}
	for _, name := range slices.Sorted(keysOf(step.Parameters)) {
		fmt.Fprintf(b, "    %s=%.60s\n", name, strings.ReplaceAll(step.Parameters[name], "\n", " "))
	}
	for _, u := range step.Uses {
		fmt.Fprintf(b, "    used %s %s\n", u.Role, u.Key)
	}
	for _, o := range step.Generates {
		fmt.Fprintf(b, "    made %s\n", o.Key)
	}
	for _, r := range f.Relations {
		fmt.Fprintf(b, "    %s %s %s\n", r.From, r.Kind, r.To)
	}
	for _, name := range slices.Sorted(keysOf(step.Metrics)) {
		fmt.Fprintf(b, "    metric %s: %v\n", name, step.Metrics[name])
	}
	for _, g := range step.Gaps {
		fmt.Fprintf(b, "    gap %s: %s\n", g.Rule, g.Detail)
	}
}

func keysOf[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
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

// TestOrder gives the events of several runs in many orders, some of them more
// than once.
func TestOrder(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "interleaved.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := Statements(raw)
	if err != nil || len(want) < 3 {
		t.Fatalf("%d runs, %v; want at least 3", len(want), err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		again := slices.Clone(lines)
		for range rnd.IntN(5) {
			again = append(again, lines[rnd.IntN(len(lines))])
		}
		rnd.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		got, err := Statements([]byte(strings.Join(again, "\n")))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("in another order (-want +got):\n%s", diff)
		}
	}
}

// TestRefused takes what is required out of an event, and puts in what must not
// be there.
func TestRefused(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "airflow.json"))
	if err != nil {
		t.Fatal(err)
	}
	good := string(raw)
	if _, err := Parse(raw); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ old, new, field string }{
		"no time":                   {`"eventTime"`, `"eventTimes"`, "eventTime"},
		"a time without its zone":   {`T09:14:07.250Z"`, `T09:14:07.250"`, "eventTime"},
		"a type of one's own":       {`"COMPLETE"`, `"DONE"`, "eventType"},
		"no run ID":                 {`"runId": "0198a0c2-7b7a-7c3e-9d2f-3a1b2c3d4e5f"`, `"runId": ""`, "run.runId"},
		"a run ID that is none":     {`0198a0c2-7b7a-7c3e-9d2f-3a1b2c3d4e5f`, `manual__2026-11-01`, "run.runId"},
		"a template":                {`0198a0c2-7b7a-7c3e-9d2f-3a1b2c3d4e5f`, `${json-unit.any-string}`, "run.runId"},
		"a job without a name":      {`"name": "forecast.train"`, `"nam": "x"`, "job.name"},
		"no producer":               {`"producer"`, `"producers"`, "producer"},
		"no schema":                 {`"schemaURL"`, `"schemaURI"`, "schemaURL"},
		"a facet of nobody":         {`"_producer"`, `"producer_"`, "_producer"},
		"a parent that is no run":   {`0198a0c2-0000-7000-8000-000000000001`, `dag`, "run.facets.parent.run.runId"},
		"a dataset of a wrong type": {`"inputs": [`, `"inputs": [7, `, "inputs.0"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(good, tt.old) {
				t.Fatalf("the event does not hold %s", tt.old)
			}
			_, err := Parse([]byte(strings.Replace(good, tt.old, tt.new, 1)))
			var fe *schema.FieldError
			if !errors.As(err, &fe) || !strings.Contains(fe.Field, tt.field) {
				t.Errorf("%v, want a refusal of %s", err, tt.field)
			}
		})
	}
	for _, noRun := range []string{`{"eventTime":"2026-01-01T00:00:00Z","job":{"namespace":"a","name":"b"}}`, `{"eventTime":"2026-01-01T00:00:00Z","dataset":{"namespace":"a","name":"b"}}`} {
		if _, err := Parse([]byte(noRun)); !errors.Is(err, ErrNoRun) {
			t.Errorf("%s: %v, want ErrNoRun", noRun, err)
		}
	}
}

// TestLocations writes datasets as other kinds do.
func TestLocations(t *testing.T) {
	for _, tt := range []struct{ namespace, name, want string }{
		{"s3://lake", "raw/2026", "s3://lake/raw/2026"},
		{"s3a://lake/", "/raw/2026", "s3://lake/raw/2026"},
		{"file", "/data/a b.csv", "file:///data/a%20b.csv"},
		{"file://", "/data/a.csv", "file:///data/a.csv"},
		{"file://host", "/data/a.csv", "file://host/data/a.csv"},
		{"postgres://db.example.com:5432", "shop.public.orders", "postgres://db.example.com:5432/shop.public.orders"},
		{"postgres://ada:secret@db.example.com", "shop", "postgres://db.example.com/shop"},
		{"kafka://broker:9092", "orders", "kafka://broker:9092/orders"},
		{"bigquery", "project.set.table", "openlineage://bigquery/project.set.table"},
		{"food delivery", "public.orders", "openlineage://food%20delivery/public.orders"},
	} {
		if got := location(tt.namespace, tt.name); got != tt.want {
			t.Errorf("location(%q, %q) = %s, want %s", tt.namespace, tt.name, got, tt.want)
		}
	}
}

// FuzzParse reads anything: whatever is taken makes a statement, and the same
// one from its own events.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{filepath.Join("testdata", "*.json*"), filepath.Join("..", "..", "..", "shared", "corpus", "openlineage", "*")} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range files {
			if raw, err := os.ReadFile(name); err == nil && len(raw) < 20000 {
				f.Add(raw)
			}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		events, err := Parse(raw)
		if err != nil {
			return
		}
		for _, e := range events {
			again, err := ParseEvent(e.Raw())
			if err != nil {
				t.Fatalf("an event that was taken is refused when it is read again: %v", err)
			}
			if diff := cmp.Diff(string(e.Raw()), string(again.Raw())); diff != "" {
				t.Fatal(diff)
			}
		}
		if _, err := Statements(raw); err != nil {
			t.Fatalf("events that were taken make no statement: %v", err)
		}
	})
}
