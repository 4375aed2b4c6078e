package restore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/git"
	"github.com/retrace-ledger/retrace/ingest/run"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/restore"
	"github.com/retrace-ledger/retrace/schema"
)

// storeDir is one content store for all tests: making one takes a second.
var storeDir string

func TestMain(m *testing.M) {
	if os.Getenv(actEnv) != "" {
		os.Exit(act())
	}
	var err error
	if storeDir, err = os.MkdirTemp("", "retrace-restore-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(storeDir)
	os.Exit(code)
}

// world is a log, a content store, and a Git worktree in which steps are
// recorded as `retrace run` does.
type world struct {
	t        *testing.T
	log      *lineagetest.Log
	store    *content.Store
	dir      string                // the worktree
	made     map[schema.Key]string // by which run
	versions int
	graph    *lineage.Graph
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
			t.Fatal(err)
		}
		t.Skipf("git is not installed: %v", err)
	}
	store, err := content.Open(t.Context(), storeDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, log: lineagetest.New(t), store: store, dir: t.TempDir(), made: map[schema.Key]string{}}
	w.git("init", "-q", "-b", "main")
	return w
}

func (w *world) git(args ...string) {
	w.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", w.dir, "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// write writes files of the worktree, by path.
func (w *world) write(files map[string]string) {
	w.t.Helper()
	for name, text := range files {
		write(w.t, filepath.Join(w.dir, filepath.FromSlash(name)), text)
	}
}

func (w *world) commit(files map[string]string) {
	w.t.Helper()
	w.write(files)
	w.git("add", "-A")
	w.git("commit", "-q", "-m", "work")
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	mode := fs.FileMode(0o644)
	if strings.HasPrefix(text, "#!") {
		mode = 0o755
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// worktrees is how package run sees Git.
type worktrees struct{}

func (worktrees) Head(ctx context.Context, dir string) (*run.Worktree, error) {
	w, err := git.Head(ctx, dir)
	if errors.Is(err, git.ErrNoRepository) {
		return nil, nil
	}
	if err != nil || w.Commit == "" {
		return nil, err
	}
	out := &run.Worktree{Root: w.Root, Commit: w.Commit, URI: "git+https://git.example/forecast.git"}
	for _, c := range w.Changes {
		if c.State == git.Deleted {
			out.Deleted = append(out.Deleted, c.Path)
		} else {
			out.Changed = append(out.Changed, c.Path)
		}
	}
	return out, nil
}

func (worktrees) Missing(ctx context.Context, dir, commit string, paths []string) ([]string, error) {
	return git.Missing(ctx, dir, commit, paths)
}

func (worktrees) Pack(ctx context.Context, dir, commit string, w io.Writer) error {
	return git.Pack(ctx, dir, commit, w)
}

// record runs a command in the worktree and records it. The error is the
// command's own.
func (w *world) record(o run.Options) run.Result {
	w.t.Helper()
	o.Dir, o.Git, o.Stdout, o.Stderr = filepath.Join(w.dir, o.Dir), worktrees{}, io.Discard, io.Discard
	o.Producer = func(k schema.Key, _ string) string { return w.made[k] }
	r, err := run.Record(w.t.Context(), w.store, o)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range r.Statements {
		w.log.Add(s)
	}
	for _, key := range r.Outputs {
		w.made[key] = r.Run
	}
	if r.Naming != nil {
		w.versions++
		s, err := r.Naming.Statement(fmt.Sprint(w.versions), false)
		if err != nil {
			w.t.Fatal(err)
		}
		w.log.Add(s)
	}
	return r
}

// sources are the content store and the Git fetcher over it.
func (w *world) sources() restore.Sources {
	return restore.Sources{
		Content:  w.store,
		Fetchers: map[string]restore.Fetcher{"git": git.NewFetcher(ingest.Env{Content: w.store})},
		Digest:   content.Digest,
	}
}

// view is the graph as of now.
func (w *world) view() *lineage.View {
	w.t.Helper()
	if w.graph == nil {
		w.graph = w.log.Graph(w.t)
	}
	if err := w.graph.Follow(w.t.Context(), w.log); err != nil {
		w.t.Fatal(err)
	}
	v, err := w.graph.View(lineage.At{})
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) plan(ref string) *restore.Plan {
	w.t.Helper()
	p, err := w.tryPlan(ref)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) tryPlan(ref string) (*restore.Plan, error) {
	w.t.Helper()
	v := w.view()
	r, err := v.Resolve(ref)
	if err != nil {
		w.t.Fatal(err)
	}
	return restore.NewPlan(w.t.Context(), v, r, w.sources(), nil)
}

func (w *world) restore(p *restore.Plan, dir string, opt *restore.RestoreOptions) *restore.Verdict {
	w.t.Helper()
	v, err := restore.Restore(w.t.Context(), p, dir, w.sources(), opt)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func yes([]restore.Command) (bool, error) { return true, nil }

func (w *world) reproduce(p *restore.Plan, dir string, opt *restore.ReproduceOptions) *restore.Result {
	w.t.Helper()
	if opt == nil {
		opt = &restore.ReproduceOptions{Confirm: yes}
	}
	opt.Scratch = w.t.TempDir()
	r, err := restore.Reproduce(w.t.Context(), p, dir, w.sources(), opt)
	if err != nil {
		w.t.Fatal(err)
	}
	left, err := os.ReadDir(opt.Scratch)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(left) > 0 {
		w.t.Errorf("reproducing left %s in the scratch folder", left[0].Name())
	}
	return r
}

// again restores what reproducing needs and reproduces it.
func (w *world) again(p *restore.Plan, opt *restore.ReproduceOptions) *restore.Result {
	w.t.Helper()
	dir := w.t.TempDir()
	w.restore(p, dir, &restore.RestoreOptions{NeededOnly: true})
	return w.reproduce(p, dir, opt)
}

// chain records two steps, of which the second makes version 1 of the model
// forecast: one makes features of the data, the other a model of those.
func (w *world) chain(train string) {
	w.t.Helper()
	w.commit(map[string]string{
		"features.sh":   "#!/bin/sh\nmkdir -p work\nsort data/weather.csv > work/features.csv\n",
		"train.sh":      train,
		".gitignore":    "data/\nwork/\nmodel.bin\n",
		"doc/readme.md": "A forecast.\n",
	})
	w.write(map[string]string{"data/weather.csv": "2\n1\n3\n"})
	w.record(run.Options{Argv: []string{"sh", "features.sh"}, Inputs: []string{"data/weather.csv"}, Outputs: []string{"work/features.csv"}})
	w.record(run.Options{
		Argv: []string{"./train.sh"}, Inputs: []string{"work/features.csv"}, Outputs: []string{"model.bin"},
		Params: map[string]string{"seed": "1"}, Model: &run.Model{Name: "forecast"},
	})
}

const train = "#!/bin/sh\n{ echo model; cat work/features.csv; } > model.bin\n"

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func there(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
