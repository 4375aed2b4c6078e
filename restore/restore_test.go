package restore_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ingest/run"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/restore"
	"github.com/retrace-ledger/retrace/schema"
)

// fabricated is a step that never ran: a statement with any paths in it.
type fabricated struct {
	id              string
	argv            []string
	environment     map[string]string
	inputs, outputs map[string]string // content by path
	unkept          bool              // the inputs are not in the store
	unsigned        bool
}

func (w *world) put(text string) schema.Descriptor {
	w.t.Helper()
	name := filepath.Join(w.t.TempDir(), "x")
	write(w.t, name, text)
	key, err := w.store.Put(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return schema.Descriptor{Digest: schema.DigestSet{key.Algorithm(): key.Hex()}}
}

func (w *world) statement(f fabricated) int64 {
	w.t.Helper()
	value := func(v any) jsontext.Value {
		raw, err := schema.Canonical(v)
		if err != nil {
			w.t.Fatal(err)
		}
		return raw
	}
	p := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{
			BuildType:          schema.RunBuildType,
			ExternalParameters: value(schema.RunParameters{Argv: f.argv, Dir: ".", Environment: f.environment, Platform: runtime.GOOS + "/" + runtime.GOARCH}),
		},
		RunDetails: schema.RunDetails{
			Builder: schema.Builder{ID: schema.RunBuilder}, Metadata: schema.Metadata{InvocationID: f.id},
			Byproducts: []schema.Descriptor{{Name: schema.ByproductExit, Content: value(0)}},
		},
	}
	for path, text := range f.inputs {
		d := lineagetest.File(path, text)
		if !f.unkept {
			d = w.put(text)
		}
		d.Name = path
		p.BuildDefinition.ResolvedDependencies = append(p.BuildDefinition.ResolvedDependencies, lineagetest.As(schema.RoleInput, path, d))
	}
	subject, err := schema.RunSubject(f.id, p)
	if err != nil {
		w.t.Fatal(err)
	}
	subjects := []schema.Descriptor{subject}
	for path, text := range f.outputs {
		subjects = append(subjects, lineagetest.As("", path, lineagetest.File(path, text)))
	}
	s := lineagetest.Statement(w.t, schema.ProvenanceV1, p, subjects...)
	if f.unsigned {
		return w.log.AddUnsigned(s)
	}
	return w.log.Add(s)
}

func TestRestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain(train)
	plan := w.plan("forecast")
	dir := filepath.Join(t.TempDir(), "restored")
	v := w.restore(plan, dir, nil)
	if v.Result != restore.Complete || len(v.Problems) > 0 {
		t.Fatalf("restored %s: %v", v.Result, v.Problems)
	}
	want := map[string]string{
		"steps/01-sh-features.sh/features.sh":      "#!/bin/sh\nmkdir -p work\nsort data/weather.csv > work/features.csv\n",
		"steps/01-sh-features.sh/data/weather.csv": "2\n1\n3\n",
		"steps/02-train.sh/train.sh":               train,
		"steps/02-train.sh/work/features.csv":      "1\n2\n3\n",
		"resource/model.bin":                       "model\n1\n2\n3\n",
	}
	got := map[string]string{}
	for name := range want {
		got[name] = read(t, filepath.Join(dir, name))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("restored files (-want +got):\n%s", diff)
	}
	for _, absent := range []string{".partial", "steps/02-train.sh/model.bin", "steps/01-sh-features.sh/work", "images", "outside"} {
		if there(filepath.Join(dir, absent)) {
			t.Errorf("%s is there", absent)
		}
	}
	lock, err := restore.ReadLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := plan.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if lock.State != restore.Complete || lock.PlanDigest != digest || v.PlanDigest != digest {
		t.Errorf("lock is %s of plan %s, verdict of %s; want COMPLETE of %s", lock.State, lock.PlanDigest, v.PlanDigest, digest)
	}
	s, err := v.Statement()
	if err != nil {
		t.Fatal(err)
	}
	if s.Subject[0].Digest.Key() != plan.Key {
		t.Errorf("the verdict is about %s, want %s", s.Subject[0].Digest.Key(), plan.Key)
	}
}

// Uncommitted changes go over the commit: modified, untracked and deleted.
func TestRestoreDirty(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit(map[string]string{"a/keep.txt": "old", "gone/x.txt": "x", "make.sh": "#!/bin/sh\ncat a/keep.txt new/n.txt > out.txt; ls gone >> out.txt 2>&1\nexit 0\n"})
	w.write(map[string]string{"a/keep.txt": "changed", "new/n.txt": "new"})
	if err := os.RemoveAll(filepath.Join(w.dir, "gone")); err != nil {
		t.Fatal(err)
	}
	w.record(run.Options{Argv: []string{"./make.sh"}, Outputs: []string{"out.txt"}})
	plan, dir := w.plan(w.lastRun()), t.TempDir()
	if v := w.restore(plan, dir, nil); v.Result != restore.Complete {
		t.Fatalf("restored %s: %v", v.Result, v.Problems)
	}
	root := filepath.Join(dir, filepath.FromSlash(plan.Steps[0].Place))
	if a, n := read(t, filepath.Join(root, "a/keep.txt")), read(t, filepath.Join(root, "new/n.txt")); a != "changed" || n != "new" {
		t.Errorf("a/keep.txt is %q, new/n.txt is %q", a, n)
	}
	if there(filepath.Join(root, "gone")) || there(filepath.Join(root, "files")) || there(filepath.Join(root, "deleted.json")) {
		t.Error("the working root holds what it should not")
	}
	wantVerdict(t, w.reproduce(plan, dir, nil), schema.BitExact)
}

// A folder as input and as output, in a working directory below the root.
func TestRestoreFolders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit(map[string]string{"sub/make.sh": "#!/bin/sh\nmkdir -p out/deep\ncp ../data/a.csv out/deep/b.csv\nln -s deep/b.csv out/link\n", "sub/use.sh": "#!/bin/sh\ncat out/link > used.txt\n"})
	w.write(map[string]string{"data/a.csv": "1\n", "data/empty.csv": ""})
	w.record(run.Options{Argv: []string{"./make.sh"}, Dir: "sub", Inputs: []string{"../data"}, Outputs: []string{"out"}})
	w.record(run.Options{Argv: []string{"./use.sh"}, Dir: "sub", Inputs: []string{"out"}, Outputs: []string{"used.txt"}})
	plan, dir := w.plan(w.lastRun()), t.TempDir()
	if len(plan.Steps) != 2 {
		t.Fatalf("the plan has %d steps, want 2", len(plan.Steps))
	}
	if v := w.restore(plan, dir, nil); v.Result != restore.Complete {
		t.Fatalf("restored %s: %v", v.Result, v.Problems)
	}
	wantVerdict(t, w.reproduce(plan, dir, nil), schema.BitExact)
}

// A file out of a folder that a step made comes from that step.
func TestRestoreFileOfFolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit(map[string]string{".gitignore": "out/\n", "make.sh": "#!/bin/sh\nmkdir -p out/deep\necho 1 > out/deep/a.csv\necho 2 > out/b.csv\n", "use.sh": "#!/bin/sh\ncat out/deep/a.csv > used.txt\nls out >> used.txt\n"})
	w.record(run.Options{Argv: []string{"./make.sh"}, Outputs: []string{"out"}})
	if err := os.Remove(filepath.Join(w.dir, "out/b.csv")); err != nil {
		t.Fatal(err)
	}
	w.record(run.Options{Argv: []string{"./use.sh"}, Inputs: []string{"out/deep/a.csv"}, Outputs: []string{"used.txt"}})
	plan, dir := w.plan(w.lastRun()), t.TempDir()
	if len(plan.Steps) != 2 {
		t.Fatalf("steps: %q, want both", places(plan))
	}
	if v := w.restore(plan, dir, nil); v.Result != restore.Complete {
		t.Fatalf("restored %s: %v", v.Result, v.Problems)
	}
	wantVerdict(t, w.reproduce(plan, dir, nil), schema.BitExact)
}

func TestRestoreMissingInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.statement(fabricated{
		id: "r1", argv: []string{"true"}, inputs: map[string]string{"data/lost.csv": "these bytes were never kept"}, unkept: true,
		outputs: map[string]string{"model.bin": "model"},
	})
	plan, dir := w.plan("run:r1"), t.TempDir()
	if missing := plan.Missing(); len(missing) != 1 || !strings.Contains(missing[0].Missing, "were not kept") {
		t.Errorf("Missing() = %+v", missing)
	}
	v := w.restore(plan, dir, nil)
	if v.Result != restore.Incomplete || len(v.Problems) != 1 || !strings.Contains(v.Problems[0], "data/lost.csv") {
		t.Errorf("restored %s: %q", v.Result, v.Problems)
	}
	if lock, err := restore.ReadLock(dir); err != nil || lock.State != restore.Incomplete {
		t.Errorf("lock: %+v, %v; want INCOMPLETE", lock, err)
	}
	wantVerdict(t, w.reproduce(plan, dir, nil), schema.NotReplayable, "data/lost.csv", "missing")
}

// A failed item does not stop the others.
func TestRestoreGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain(train)
	plan, dir := w.plan("forecast"), t.TempDir()
	src := w.sources()
	src.Content = failing{src.Content, schema.BytesKey([]byte("2\n1\n3\n"))}
	v, err := restore.Restore(t.Context(), plan, dir, src, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.Result != restore.Incomplete || len(v.Problems) != 1 || !strings.Contains(v.Problems[0], "the disk is on fire") {
		t.Fatalf("restored %s: %q", v.Result, v.Problems)
	}
	if got := read(t, filepath.Join(dir, "resource/model.bin")); got != "model\n1\n2\n3\n" {
		t.Errorf("resource/model.bin holds %q", got)
	}
	// Once the store is well again, restoring the same plan mends it.
	if v = w.restore(plan, dir, nil); v.Result != restore.Complete {
		t.Errorf("restored again: %s: %q", v.Result, v.Problems)
	}
	if got := read(t, filepath.Join(dir, "steps/01-sh-features.sh/data/weather.csv")); got != "2\n1\n3\n" {
		t.Errorf("data/weather.csv holds %q", got)
	}
}

// failing is a store that cannot give one key.
type failing struct {
	restore.Content
	key schema.Key
}

func (f failing) Fetch(ctx context.Context, key schema.Key, path string) error {
	if key == f.key {
		return errors.New("the disk is on fire")
	}
	return f.Content.Fetch(ctx, key, path)
}

// lying is a store that gives other bytes.
type lying struct{ restore.Content }

func (l lying) Fetch(ctx context.Context, key schema.Key, path string) error {
	if err := l.Content.Fetch(ctx, key, path); err != nil || key.Algorithm() != schema.SHA256 {
		return err
	}
	return os.WriteFile(path, []byte("other"), 0o666)
}

func TestRestoreTampered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain(train)
	plan, dir := w.plan("forecast"), t.TempDir()
	src := w.sources()
	src.Content = lying{src.Content}
	v, err := restore.Restore(t.Context(), plan, dir, src, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.Result != restore.Incomplete || !slices.ContainsFunc(v.Problems, func(p string) bool { return strings.Contains(p, "what was fetched has the digest sha256:") }) {
		t.Errorf("restored %s: %q", v.Result, v.Problems)
	}
	err = filepath.WalkDir(filepath.Join(dir, "steps"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && read(t, p) == "other" {
			t.Errorf("%s holds the wrong bytes", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// stopping is a store that is interrupted at the nth fetch.
type stopping struct {
	restore.Content
	left   int
	cancel func()
}

func (s *stopping) Fetch(ctx context.Context, key schema.Key, path string) error {
	if s.left--; s.left < 0 {
		s.cancel()
		return ctx.Err()
	}
	return s.Content.Fetch(ctx, key, path)
}

func TestRestoreResumes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain(train)
	plan := w.plan("forecast")
	for n := 0; ; n++ {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		src := w.sources()
		store := &stopping{src.Content, n, cancel}
		src.Content = store
		v, err := restore.Restore(ctx, plan, dir, src, nil)
		cancel()
		if err == nil {
			if v.Result != restore.Complete || n == 0 {
				t.Errorf("after %d fetches: %s", n, v.Result)
			}
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("interrupted at fetch %d: %v", n, err)
		}
		if lock, err := restore.ReadLock(dir); err != nil || lock.State != restore.Incomplete {
			t.Errorf("interrupted at fetch %d: lock %+v, %v; want INCOMPLETE", n, lock, err)
		}
		if v := w.restore(plan, dir, nil); v.Result != restore.Complete {
			t.Errorf("resumed after fetch %d: %s: %q", n, v.Result, v.Problems)
		}
		if there(filepath.Join(dir, ".partial")) {
			t.Errorf("resumed after fetch %d: .partial stays", n)
		}
	}
}

// What was fetched before the interruption is not fetched again.
func TestRestoreResumeFetchesTheRest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain(train)
	plan, dir := w.plan("forecast"), t.TempDir()
	w.restore(plan, dir, nil)
	src := w.sources()
	src.Content, src.Fetchers = failingAll{src.Content}, nil
	src.Fetchers = w.sources().Fetchers
	v, err := restore.Restore(t.Context(), plan, dir, src, nil)
	if err != nil || v.Result != restore.Complete {
		t.Errorf("restored again: %+v, %v", v, err)
	}
}

type failingAll struct{ restore.Content }

func (failingAll) Fetch(context.Context, schema.Key, string) error { return errors.New("not again") }

func TestRestoreRefusesNonEmpty(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain(train)
	plan, dir := w.plan("forecast"), t.TempDir()
	write(t, filepath.Join(dir, "thesis.tex"), "mine")
	_, err := restore.Restore(t.Context(), plan, dir, w.sources(), nil)
	var notEmpty *restore.NotEmptyError
	if !errors.As(err, &notEmpty) || notEmpty.Holds != "thesis.tex" {
		t.Fatalf("Restore: %v, want a NotEmptyError about thesis.tex", err)
	}
	if v := w.restore(plan, dir, &restore.RestoreOptions{Overwrite: true}); v.Result != restore.Complete {
		t.Errorf("told to: %s: %q", v.Result, v.Problems)
	}
	if read(t, filepath.Join(dir, "thesis.tex")) != "mine" {
		t.Error("what was there is gone")
	}
	w.statement(fabricated{id: "r9", argv: []string{"true"}, outputs: map[string]string{"x": "y"}})
	_, err = restore.Restore(t.Context(), w.plan("run:r9"), dir, w.sources(), nil)
	if !errors.As(err, &notEmpty) || notEmpty.Plan == "" {
		t.Errorf("another plan: %v, want a NotEmptyError with the plan that is there", err)
	}
}

// Work done in a restored place is never replaced unless told.
func TestRestoreKeepsWork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain(train)
	plan, dir := w.plan("forecast"), t.TempDir()
	w.restore(plan, dir, nil)
	script := filepath.Join(dir, "steps/02-train.sh/train.sh")
	write(t, script, "#!/bin/sh\n# better\n")
	v := w.restore(plan, dir, nil)
	if v.Result != restore.Incomplete || !strings.Contains(strings.Join(v.Problems, "\n"), "changed since it was laid out") {
		t.Errorf("restored %s: %q", v.Result, v.Problems)
	}
	if read(t, script) != "#!/bin/sh\n# better\n" {
		t.Error("the work is gone")
	}
	if v := w.restore(plan, dir, &restore.RestoreOptions{Overwrite: true}); v.Result != restore.Complete || read(t, script) != train {
		t.Errorf("told to: %s: %q", v.Result, v.Problems)
	}
}

// No recorded path leads into .git. (Package schema refuses those that lead out
// of the working root; TestParsePlanHostile is about plans that have them.)
func TestRestoreHostilePaths(t *testing.T) {
	t.Parallel()
	for _, path := range []string{".git/hooks/post-checkout", "data/.GIT/config", "git~1/config"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t)
			w.statement(fabricated{id: "r1", argv: []string{"true"}, inputs: map[string]string{path: "hostile", "good.csv": "good"}, outputs: map[string]string{"m": "m"}})
			above := t.TempDir()
			dir := filepath.Join(above, "a/b/restored")
			plan := w.plan("run:r1")
			v := w.restore(plan, dir, nil)
			if v.Result != restore.Incomplete || len(v.Problems) != 1 || !strings.Contains(v.Problems[0], "refused") {
				t.Errorf("restored %s: %q", v.Result, v.Problems)
			}
			err := filepath.WalkDir(above, func(p string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() && read(t, p) == "hostile" {
					t.Errorf("%s was written", p)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			if read(t, filepath.Join(dir, filepath.FromSlash(plan.Steps[0].Place), "good.csv")) != "good" {
				t.Error("the other input was not laid out")
			}
		})
	}
}

// An absolute path is laid out beside the step, never where it says.
func TestRestoreOutside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	target := filepath.Join(t.TempDir(), "shared.csv")
	w.statement(fabricated{id: "r1", argv: []string{"true"}, inputs: map[string]string{filepath.ToSlash(target): "shared"}, outputs: map[string]string{"m": "m"}})
	plan, dir := w.plan("run:r1"), t.TempDir()
	if v := w.restore(plan, dir, nil); v.Result != restore.Complete {
		t.Fatalf("restored %s: %q", v.Result, v.Problems)
	}
	if there(target) {
		t.Errorf("%s was written", target)
	}
	if got := read(t, filepath.Join(dir, "outside/01-true", target)); got != "shared" {
		t.Errorf("outside/ holds %q", got)
	}
	wantVerdict(t, w.reproduce(plan, dir, nil), schema.NotReplayable, "outside its working root")
}

// A link in a commit does not decide where an input goes.
func TestRestoreLinkedParent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	elsewhere := t.TempDir()
	if err := os.Symlink(elsewhere, filepath.Join(w.dir, "data")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(".git/hooks", filepath.Join(w.dir, "inner")); err != nil {
		t.Fatal(err)
	}
	w.commit(map[string]string{"make.sh": "#!/bin/sh\ncat data/x.csv inner/y.csv > out.txt\n"})
	w.write(map[string]string{"data/x.csv": "1\n", "inner/y.csv": "2\n"})
	w.record(run.Options{Argv: []string{"./make.sh"}, Inputs: []string{"data/x.csv", "inner/y.csv"}, Outputs: []string{"out.txt"}})
	if err := os.Remove(filepath.Join(elsewhere, "x.csv")); err != nil {
		t.Fatal(err)
	}
	plan, dir := w.plan(w.lastRun()), t.TempDir()
	v := w.restore(plan, dir, nil)
	if v.Result != restore.Incomplete || !strings.Contains(strings.Join(v.Problems, "\n"), "is in the way") {
		t.Errorf("restored %s: %q", v.Result, v.Problems)
	}
	if there(filepath.Join(elsewhere, "x.csv")) {
		t.Error("the link was followed")
	}
	if there(filepath.Join(dir, filepath.FromSlash(plan.Steps[0].Place), ".git/hooks/y.csv")) {
		t.Error("the link into .git was followed")
	}
}

func TestRestoreAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit(map[string]string{"a.txt": "a"})
	w.write(map[string]string{"data/x.csv": "1\n"})
	w.record(run.Options{Argv: []string{"true"}, Inputs: []string{"data"}})
	v := w.view()
	s, err := v.Step(t.Context(), v.Size()-1)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range s.Uses {
		want := map[string]string{schema.RoleInput: "resource/data/x.csv", schema.RoleCode: "resource/forecast/a.txt"}[u.Role]
		if want == "" {
			continue
		}
		plan, dir := w.plan(string(u.Key)), t.TempDir()
		if got := w.restore(plan, dir, nil); got.Result != restore.Complete || got.Checked != 1 {
			t.Errorf("restored %s: %s, %d checked: %q", u.Key, got.Result, got.Checked, got.Problems)
		}
		if !there(filepath.Join(dir, want)) {
			t.Errorf("restored %s: %s is not there", u.Key, want)
		}
		wantVerdict(t, w.reproduce(plan, dir, nil), schema.NotReplayable, "nothing to run")
	}
}
