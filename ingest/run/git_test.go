package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/git"
	"github.com/retrace-ledger/retrace/schema"
)

// gitTool tells the state of a worktree as the git program does, and packs as
// ingest/git does.
type gitTool struct{}

func (gitTool) run(ctx context.Context, dir string, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir, "-c", "user.name=T", "-c", "user.email=t@example.org"}, args...)...)
	cmd.Stdin = stdin
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = errors.New(err.Error() + ": " + errs.String())
	}
	return out.String(), err
}

func (g gitTool) Head(ctx context.Context, dir string) (*Worktree, error) {
	root, err := g.run(ctx, dir, nil, "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, nil
	}
	w := &Worktree{Root: strings.TrimSpace(root)}
	commit, err := g.run(ctx, dir, nil, "rev-parse", "HEAD")
	if err != nil {
		return nil, nil
	}
	w.Commit = strings.TrimSpace(commit)
	w.URI = "git+https://example.org/repo"
	remote, _ := g.run(ctx, dir, nil, "config", "--get", "remote.origin.url")
	w.Remote = strings.TrimSpace(remote)
	status, err := g.run(ctx, w.Root, nil, "status", "--porcelain", "-z", "--untracked-files=all")
	if err != nil {
		return nil, err
	}
	for _, line := range strings.Split(strings.TrimSuffix(status, "\x00"), "\x00") {
		switch {
		case line == "":
		case strings.Contains(line[:2], "D"):
			w.Deleted = append(w.Deleted, line[3:])
		default:
			w.Changed = append(w.Changed, line[3:])
		}
	}
	return w, nil
}

func (gitTool) Missing(ctx context.Context, dir, commit string, paths []string) ([]string, error) {
	return git.Missing(ctx, dir, commit, paths)
}

func (gitTool) Pack(ctx context.Context, dir, commit string, w io.Writer) error {
	return git.Pack(ctx, dir, commit, w)
}

// repo makes a repository of files with one commit.
func repo(t *testing.T, files map[string]string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
			t.Fatal("git is not installed")
		}
		t.Skip("git is not installed")
	}
	dir := folder(t, files)
	for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"commit", "-q", "-m", "one"}} {
		if _, err := (gitTool{}).run(t.Context(), dir, nil, args...); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCommit(t *testing.T) {
	t.Parallel()
	dir, store := repo(t, map[string]string{"src/train.py": "print(1)\n"}), newStore(t)
	opts := sh(filepath.Join(dir, "src"), "cat train.py > ../out")
	opts.Git, opts.Outputs, opts.Inputs = gitTool{}, []string{"../out"}, []string{"train.py"}
	r, s := record(t, store, opts)
	if got := rules(r.Gaps); !slices.Equal(got, []string{"commit-not-on-remote"}) {
		t.Errorf("gaps = %v, want only that the commit is on no remote", r.Gaps)
	}
	if s.Dir != "src" || generates(s)["out"] != text("print(1)\n") || uses(s, schema.RoleInput)["src/train.py"] == "" {
		t.Errorf("paths are not relative to the worktree: dir %s, outputs %v, inputs %v", s.Dir, generates(s), uses(s, schema.RoleInput))
	}
	commit := uses(s, schema.RoleCode)[""]
	if commit.Algorithm() != schema.GitCommit {
		t.Fatalf("code = %v, want a commit", uses(s, schema.RoleCode))
	}
	// The kind that knows Git finds it by the commit, wherever that came from.
	dst := t.TempDir()
	fetcher := git.NewFetcher(ingest.Env{Content: store})
	if err := fetcher.Fetch(t.Context(), schema.Resource{Key: commit, Kind: "git"}, dst); err != nil {
		t.Errorf("fetching the commit from the store: %v", err)
	} else if raw, err := os.ReadFile(filepath.Join(dst, "src/train.py")); string(raw) != "print(1)\n" {
		t.Errorf("the fetched commit holds %q, %v", raw, err)
	}
	// The kept pack gives the commit back where there is nothing else.
	rd, err := store.Open(t.Context(), commit)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	empty := t.TempDir()
	g := gitTool{}
	if _, err := g.run(t.Context(), empty, nil, "init", "-q"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.run(t.Context(), empty, rd, "unpack-objects", "-q"); err != nil {
		t.Fatal(err)
	}
	if got, err := g.run(t.Context(), empty, nil, "show", commit.Hex()+":src/train.py"); got != "print(1)\n" {
		t.Errorf("the pack gives %q, %v", got, err)
	}
}

func TestDirtyTree(t *testing.T) {
	t.Parallel()
	dir, store := repo(t, map[string]string{
		"a.py": "one\n", "b.py": "one\n", "gone.py": "one\n", "data.csv": "one\n", ".gitignore": "*.log\n.retrace/\n",
	}), newStore(t)
	put(t, filepath.Join(dir, "a.py"), "two\n")
	put(t, filepath.Join(dir, "new/c.py"), "new\n")
	put(t, filepath.Join(dir, "ignored.log"), "noise\n")
	put(t, filepath.Join(dir, ".env"), "PASSWORD=x\n")
	put(t, filepath.Join(dir, "conf/server.pem"), "x\n")
	put(t, filepath.Join(dir, "aws.cfg"), "key = AKIAIOSFODNN7EXAMPLE\n")
	put(t, filepath.Join(dir, "data.csv"), "two\n")
	put(t, filepath.Join(dir, "out/model"), "old\n")
	put(t, filepath.Join(dir, "m.json"), "{}")
	put(t, filepath.Join(dir, "ledger/state"), "x")
	if err := os.Symlink("a.py", filepath.Join(dir, "link.py")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "gone.py")); err != nil {
		t.Fatal(err)
	}
	opts := sh(dir, "true")
	opts.Git, opts.Inputs, opts.Outputs, opts.Metrics = gitTool{}, []string{"data.csv"}, []string{"out"}, "m.json"
	opts.Exclude = []string{filepath.Join(dir, "ledger")}
	r, s := record(t, store, opts)
	if got, want := rules(r.Gaps), []string{"commit-not-on-remote", "dirty-tree", "changes-left-out", "output-unchanged", "metrics-not-recorded"}; !slices.Equal(got, want) {
		t.Errorf("gaps = %v, want %v", r.Gaps, want)
	}
	for _, g := range r.Gaps {
		for _, name := range []string{".env", "conf/server.pem", "aws.cfg"} {
			if g.Rule == "changes-left-out" && !strings.Contains(g.Detail, name) {
				t.Errorf("changes-left-out does not name %s: %s", name, g.Detail)
			}
		}
	}
	key := uses(s, schema.RoleChanges)[""]
	got := filepath.Join(t.TempDir(), "changes")
	if err := store.Fetch(t.Context(), key, got); err != nil {
		t.Fatal(err)
	}
	_, files, err := store.Digest(t.Context(), got)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		if f.Type != "folder" {
			names = append(names, f.Path)
		}
	}
	if diff := cmp.Diff([]string{"deleted.json", "files/a.py", "files/link.py", "files/new/c.py"}, names); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	raw, err := os.ReadFile(filepath.Join(got, "deleted.json"))
	var deleted []string
	if err != nil || json.Unmarshal(raw, &deleted) != nil || !slices.Equal(deleted, []string{"gone.py"}) {
		t.Errorf("deleted.json = %s, %v, want gone.py", raw, err)
	}
}

func TestRemoteWithCredentials(t *testing.T) {
	t.Parallel()
	dir := repo(t, map[string]string{"f": "1"})
	g := gitTool{}
	if _, err := g.run(t.Context(), dir, nil, "remote", "add", "origin", "https://me:hunter2hunter2@example.org/repo"); err != nil {
		t.Fatal(err)
	}
	opts := sh(dir, "echo ran > ran")
	opts.Git = g
	_, err := Record(t.Context(), newStore(t), opts)
	var se *SecretError
	if !errors.As(err, &se) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Record = %v, want a SecretError that does not tell", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Errorf("the command ran")
	}
}

// What the command names and nothing keeps is a gap; what is declared, in the
// commit or among the changes is none.
func TestCodeNotCaptured(t *testing.T) {
	t.Parallel()
	dir, store := repo(t, map[string]string{"kept.sh": "true\n", ".gitignore": "*.txt\n.retrace/\n"}), newStore(t)
	put(t, filepath.Join(dir, "new.sh"), "true\n")
	put(t, filepath.Join(dir, "in.txt"), "declared\n")
	put(t, filepath.Join(dir, "ignored.txt"), "lost\n")
	opts := sh(dir, "true")
	opts.Argv = append(opts.Argv, "kept.sh", "new.sh", "in.txt", "ignored.txt", "none.sh")
	opts.Git, opts.Inputs = gitTool{}, []string{"in.txt"}
	r, _ := record(t, store, opts)
	if want := (schema.GapFact{Rule: "code-not-captured", Detail: "ignored.txt"}); !slices.Contains(r.Gaps, want) {
		t.Errorf("gaps are %v, want %v among them", r.Gaps, want)
	}

	bare := t.TempDir()
	put(t, filepath.Join(bare, "train.sh"), "true\n")
	opts = sh(bare, "true")
	opts.Argv = []string{"sh", "train.sh"}
	r, _ = record(t, newStore(t), opts)
	if got := rules(r.Gaps); !slices.Contains(got, "code-not-captured") {
		t.Errorf("without a repository the gaps are %v, want code-not-captured", got)
	}
}
