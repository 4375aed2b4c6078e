package git

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/ingest"
)

// TestPutBack puts back files and folders that were changed, removed and added, by
// path, and takes nothing else along.
func TestPutBack(t *testing.T) {
	dir := newRepository(t)
	put := func(files map[string]string) string {
		for name, text := range files {
			at := filepath.Join(dir, name)
			if text == "" {
				if err := os.Remove(at); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		runGit(t, dir, "", "add", "-A")
		runGit(t, dir, "", "commit", "-q", "-m", "x")
		return runGit(t, dir, "", "rev-parse", "HEAD")
	}
	then := put(map[string]string{"a/b/changed": "1", "a/b/removed": "2", "a/same": "3", "other": "4"})
	now := put(map[string]string{"a/b/changed": "one", "a/b/removed": "", "a/new/deep/added": "5", "other": "four"})
	branch := runGit(t, dir, "", "branch", "--show-current")

	c, err := NewFetcher(ingest.Env{}).Clone(t.Context(), URL(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if head, err := c.Branch(branch); err != nil || head != now {
		t.Fatalf("the branch is at %s, %v", head, err)
	}
	if _, err := c.Branch("nothing"); !errors.Is(err, ErrNoBranch) {
		t.Errorf("a branch that is not there: %v", err)
	}
	for name, tt := range map[string]struct {
		paths, want []string
	}{
		"everything":    {nil, []string{"a/b/changed", "a/b/removed", "a/new/deep/added", "other"}},
		"a folder":      {[]string{"a/"}, []string{"a/b/changed", "a/b/removed", "a/new/deep/added"}},
		"one that goes": {[]string{"a/new"}, []string{"a/new/deep/added"}},
		"a file":        {[]string{"a/b/removed"}, []string{"a/b/removed"}},
		"two":           {[]string{"other", "a/b/changed"}, []string{"a/b/changed", "other"}},
		"what is equal": {[]string{"a/same"}, nil},
	} {
		r, err := c.PutBack(t.Context(), now, then, tt.paths)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, f := range r.Files {
			got = append(got, f.Path)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s changes %q, want %q", name, got, tt.want)
		}
		if len(got) == 0 {
			continue
		}
		// Git reads the commit, and agrees.
		commit, err := c.Commit(r, "Ada", "ada@example.com", "put back\n", time.Unix(1764000000, 0))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Push(t.Context(), commit, "try-"+strings.ReplaceAll(name, " ", "-")); err != nil {
			t.Fatal(err)
		}
		runGit(t, dir, "", "fsck", "--strict")
		if theirs := strings.Fields(runGit(t, dir, "", "diff", "--name-only", "--no-renames", now, commit)); !slices.Equal(theirs, tt.want) {
			t.Errorf("%s: Git says that %q changed, want %q", name, theirs, tt.want)
		}
		args := []string{"diff", "--name-only", then, commit, "--"}
		if left := runGit(t, dir, "", append(args, tt.paths...)...); left != "" {
			t.Errorf("%s: %q is not as it was", name, left)
		}
	}
	for _, bad := range []string{"nothing", "a/nothing", "../x", "/etc", "."} {
		if _, err := c.PutBack(t.Context(), now, then, []string{bad}); err == nil {
			t.Errorf("the path %s was taken", bad)
		}
	}
	// A branch that moved meanwhile is not overwritten.
	r, err := c.PutBack(t.Context(), now, then, nil)
	if err != nil {
		t.Fatal(err)
	}
	commit, err := c.Commit(r, "Ada", "ada@example.com", "put back\n", time.Unix(1764000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	runGit(t, dir, "", "branch", "moving", put(map[string]string{"other": "five"}))
	if err := c.Push(t.Context(), commit, "moving"); err == nil {
		t.Error("a branch that has another commit was overwritten")
	}
}

func TestNeeds(t *testing.T) {
	needs := NeedsOf(map[string][]byte{
		"a.yaml":             []byte("apiVersion: v1\nkind: Pod\nspec: {containers: [{image: \"r/a:1\"}], initContainers: [{image: base}]}\n---\nkind: List\nimage: no manifest\n"),
		"b.json":             []byte(`{"apiVersion":"serving.kserve.io/v1beta1","kind":"InferenceService","spec":{"predictor":{"model":{"storageUri":"s3://b/m"}}}}`),
		"kustomization.yaml": []byte("images: [{name: base, newName: r/base, digest: \"sha256:1\"}, {name: r/a, newTag: \"2\"}]\n"),
		"odd.yaml":           []byte("\t: ["),
	})
	var got []string
	for _, n := range needs {
		got = append(got, n.Kind+" "+n.Name+" "+n.Path)
	}
	if want := []string{"image r/a:2 a.yaml", "image r/base@sha256:1 a.yaml", "model s3://b/m b.json"}; !slices.Equal(got, want) {
		t.Errorf("needs %q, want %q", got, want)
	}
}

// FuzzNeeds looks into whatever is in a repository, within bounds.
func FuzzNeeds(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: Pod\nspec: {containers: [{image: \"r/a:1\"}]}\n"))
	f.Add([]byte("apiVersion: v1\nkind: Pod\na: &a [x, x]\nb: &b [*a, *a, *a]\nspec: [*b, *b, *b]\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, n := range NeedsOf(map[string][]byte{"a.yaml": raw, "kustomization.yaml": raw}) {
			if n.Name == "" || n.Kind == "" {
				t.Errorf("a need without a name: %+v", n)
			}
		}
	})
}
