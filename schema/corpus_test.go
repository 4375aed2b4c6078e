package schema

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite golden files and JSON Schemas")

// corpusFiles returns the files of folders of real documents beside the
// repository, or skips where there are none.
func corpusFiles(t testing.TB, folders ...string) []string {
	t.Helper()
	files := corpusSeeds(folders...)
	if len(files) == 0 {
		const reason = "../shared/corpus is not beside this clone"
		if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	return files
}

// corpusSeeds returns the same files, none where there is no corpus.
func corpusSeeds(folders ...string) []string {
	var files []string
	for _, f := range folders {
		found, _ := filepath.Glob(filepath.Join("..", "..", "shared", "corpus", f, "*")) // the pattern is well-formed
		files = append(files, found...)
	}
	slices.Sort(files)
	return files
}

// TestCorpus holds what is read from real provenance to a golden file: read
// the diff of an update as somebody who knows the builders.
func TestCorpus(t *testing.T) {
	const golden = "testdata/corpus.golden"
	var got bytes.Buffer
	recorded, refused := map[string]int{}, map[string]int{}
	for _, file := range corpusFiles(t, "slsa", "sigstore/*", "tekton") {
		folder := filepath.Base(filepath.Dir(file))
		if filepath.Base(filepath.Dir(filepath.Dir(file))) == "sigstore" {
			if !strings.HasPrefix(filepath.Base(file), "bundle") {
				continue // an artifact, or what a bundle verifies under
			}
			folder = "sigstore/" + folder
		}
		kind, _, _ := strings.Cut(folder, "/")
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&got, "== %s/%s\n", folder, filepath.Base(file))
		docs, err := ParseDocument(raw)
		if err != nil {
			refused[kind]++
			fmt.Fprintf(&got, "refused: %v\n", err)
			checkReason(t, file, err)
			continue
		}
		recorded[kind]++
		for _, d := range docs {
			writeDocument(&got, d)
			if !bytes.Contains(raw, d.Envelope.Raw) && !d.Bare() {
				t.Errorf("%s: an envelope was not kept byte for byte", file)
			}
		}
	}
	fmt.Fprintln(&got, "== counts of files")
	for _, kind := range []string{"sigstore", "slsa", "tekton"} {
		fmt.Fprintf(&got, "%s: %d recorded, %d refused\n", kind, recorded[kind], refused[kind])
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
		t.Errorf("facts of the corpus changed (-want +got):\n%s", diff)
	}
}

// checkReason holds refusals to what is promised of them: a field and a
// reason, or what the file is instead.
func checkReason(t *testing.T, file string, err error) {
	t.Helper()
	var fe *FieldError
	if !errors.Is(err, ErrUnsupported) && !errors.As(err, &fe) {
		t.Errorf("%s: error %v is neither a *FieldError nor ErrUnsupported", file, err)
	}
}

// TestOtherCorpora feeds every other document to ParseDocument: none may
// panic, and what is not provenance is told apart by kind.
func TestOtherCorpora(t *testing.T) {
	for _, file := range corpusFiles(t, "openlineage", "argo", "kfp") {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // a folder
		}
		if _, err := ParseDocument(raw); err != nil {
			checkReason(t, file, err)
		}
	}
}

func writeDocument(w *bytes.Buffer, d Document) {
	where := d.Where
	if where == "" {
		where = "document"
	}
	signed := fmt.Sprintf("%d signatures", len(d.Envelope.Signatures))
	if d.Envelope.Certificate != nil {
		signed += ", certificate"
	}
	fmt.Fprintf(w, "%s (%s): %s\n", where, signed, d.Facts.PredicateType)
	if s := d.Facts.Step; s != nil {
		fmt.Fprintf(w, "  step %s\n    run %s\n    build type %s\n    builder %s\n", s.Name, s.Run, s.BuildType, s.Builder)
		if !s.Started.IsZero() || !s.Finished.IsZero() {
			fmt.Fprintf(w, "    from %s to %s\n", s.Started.Format(time.RFC3339), s.Finished.Format(time.RFC3339))
		}
		fmt.Fprintf(w, "    parameters %d\n", len(s.Parameters))
		for _, name := range slices.Sorted(maps.Keys(s.Parameters)) {
			if v := s.Parameters[name]; len(v) < 60 && !strings.Contains(v, "\n") {
				fmt.Fprintf(w, "      %s=%s\n", name, v)
			}
		}
		for _, u := range s.Uses {
			fmt.Fprintf(w, "    used %s as %s\n", u.Key, u.Role)
		}
		for _, o := range s.Generates {
			fmt.Fprintf(w, "    generated %s %s\n", o.Key, o.Name)
		}
	}
	for _, r := range d.Facts.Resources {
		fmt.Fprintf(w, "  %s %s %s\n", r.Kind, r.Key, strings.TrimSpace(r.Name+" "+r.URI))
	}
	for _, r := range d.Facts.Relations {
		fmt.Fprintf(w, "  %s %s %s\n", r.From, r.Kind, r.To)
	}
	if d.Facts.Step == nil {
		fmt.Fprintf(w, "  says %s\n", d.Facts.Summary)
	}
}
