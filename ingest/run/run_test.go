package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/schema"
)

// newStore returns a content store that leaves exclude out.
func newStore(t *testing.T, exclude ...string) *content.Store {
	t.Helper()
	s, err := content.Open(t.Context(), filepath.Join(t.TempDir(), "content"), &content.Options{Exclude: exclude})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// folder makes files below a new folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		put(t, filepath.Join(dir, name), text)
	}
	return dir
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sh are options that run a script in dir.
func sh(dir, script string) Options {
	return Options{Dir: dir, Argv: []string{"sh", "-c", script}, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard,
		Env: []string{"PATH=" + os.Getenv("PATH"), "LANG=C"}}
}

func record(t *testing.T, s Store, opts Options) (Result, *schema.Step) {
	t.Helper()
	r, err := Record(t.Context(), s, opts)
	if err != nil {
		t.Fatalf("Record: %v", err)
	}
	return r, step(t, r)
}

// step reads the step back from what would be signed.
func step(t *testing.T, r Result) *schema.Step {
	t.Helper()
	f, err := r.Statements[len(r.Statements)-1].Facts()
	if err != nil {
		t.Fatal(err)
	}
	if f.Step == nil {
		t.Fatal("the last statement describes no step")
	}
	return f.Step
}

func rules(gaps []schema.GapFact) []string {
	var out []string
	for _, g := range gaps {
		out = append(out, g.Rule)
	}
	return out
}

// uses are the paths of a step's inputs and what they held.
func uses(s *schema.Step, role string) map[string]schema.Key {
	out := map[string]schema.Key{}
	for _, u := range s.Uses {
		if u.Role == role {
			out[u.Path] = u.Key
		}
	}
	return out
}

func generates(s *schema.Step) map[string]schema.Key {
	out := map[string]schema.Key{}
	for _, g := range s.Generates {
		out[g.Path] = g.Key
	}
	return out
}

func text(s string) schema.Key { return schema.BytesKey([]byte(s)) }

func TestRecord(t *testing.T) {
	t.Parallel()
	store, dir := newStore(t), folder(t, map[string]string{"data/a.csv": "1\n", "conf": "x"})
	var out bytes.Buffer
	opts := sh(dir, `cat data/a.csv conf > model.bin; echo '{"rmse": 1.5, "note": "ok"}' > m.json; echo hello; exit 3`)
	opts.Stdout = &out
	opts.Inputs, opts.Outputs, opts.Metrics = []string{"data", "./conf"}, []string{"model.bin"}, "m.json"
	opts.Params = map[string]string{"lr": "0.1"}
	opts.Model = &Model{Name: "forecast"}
	opts.Producer = func(k schema.Key, _ string) string {
		if k == text("x") {
			return "feedfeedfeedfeed"
		}
		return ""
	}
	r, s := record(t, store, opts)
	if r.Exit != 3 || s.Exit == nil || *s.Exit != 3 {
		t.Errorf("Exit = %d, recorded %v, want 3", r.Exit, s.Exit)
	}
	if out.String() != "hello\n" {
		t.Errorf("stdout = %q, want what the command wrote", out.String())
	}
	in := uses(s, schema.RoleInput)
	if in["conf"] != text("x") || in["data"].Algorithm() != schema.RetraceTree1 {
		t.Errorf("inputs = %v", in)
	}
	if got, want := generates(s), map[string]schema.Key{"model.bin": text("1\nx")}; !cmp.Equal(got, want) {
		t.Errorf("outputs = %v, want %v", got, want)
	}
	if want := map[string]any{"rmse": 1.5, "note": "ok"}; !cmp.Equal(s.Metrics, want) {
		t.Errorf("metrics = %v, want %v", s.Metrics, want)
	}
	if s.Run != r.Run || len(r.Run) < 16 || s.Dir != "." || s.Environment["LANG"] != "C" || s.Environment["PATH"] != "" || s.Parameters["lr"] != "0.1" {
		t.Errorf("step = %+v", s)
	}
	if tool := uses(s, schema.RoleTool); len(tool) != 1 {
		t.Errorf("tool = %v, want the program's digest", tool)
	}
	for _, u := range s.Uses {
		if want := map[bool]string{true: "feedfeedfeedfeed"}[u.Path == "conf"]; u.Producer != want {
			t.Errorf("producer of %s = %q, want %q", u.Path, u.Producer, want)
		}
	}
	if r.Naming != nil || !strings.Contains(r.NotNamed, "exit status 3") {
		t.Errorf("Naming = %v, %q, want none: the command failed", r.Naming, r.NotNamed)
	}
	for _, k := range []schema.Key{in["data"], in["conf"], text("1\nx")} {
		if ok, err := store.Has(t.Context(), k); !ok || err != nil {
			t.Errorf("Has(%s) = %v, %v, want true", k, ok, err)
		}
	}
	if len(r.Gaps) != 0 {
		t.Errorf("gaps = %v, want none", r.Gaps)
	}
	// The files of a folder are known to be part of it.
	f, err := r.Statements[0].Facts()
	if err != nil || len(f.Relations) != 1 || f.Relations[0].From != in["data"] || f.Relations[0].To != text("1\n") {
		t.Errorf("facts of the folder = %+v, %v", f, err)
	}
}

func TestModelNaming(t *testing.T) {
	t.Parallel()
	store, dir := newStore(t), folder(t, nil)
	opts := sh(dir, `echo v1 > m.bin; echo other > log`)
	opts.Outputs, opts.Model = []string{"log"}, &Model{Name: "forecast", Version: "1", Path: "m.bin"}
	r, s := record(t, store, opts)
	if r.Naming == nil {
		t.Fatalf("no Naming: %s", r.NotNamed)
	}
	st, err := r.Naming.Statement("1", false)
	if err != nil {
		t.Fatal(err)
	}
	f, err := st.Facts()
	if err != nil {
		t.Fatal(err)
	}
	want := []schema.NameFact{{Name: "model:forecast@1", Key: text("v1\n"), Run: s.Run}}
	if diff := cmp.Diff(want, f.Names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	// The same again leaves the file as it was: nothing was made.
	r, s = record(t, store, opts)
	if r.Naming != nil || r.NotNamed == "" || len(s.Generates) != 0 {
		t.Errorf("Naming = %v (%s), outputs %v after a run that changed nothing", r.Naming, r.NotNamed, s.Generates)
	}
	if got := uses(s, schema.RoleInput); got["m.bin"] != text("v1\n") {
		t.Errorf("an output that did not change is a use; uses = %v", got)
	}
	opts.Model.Path = ""
	opts.Outputs = []string{"a", "b"}
	if _, err := Record(t.Context(), store, opts); err == nil {
		t.Errorf("Record with a model and two outputs succeeded, want an error: which one is it?")
	}
}

func TestOutputs(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	for _, test := range []struct {
		name, script  string
		in, out       []string
		made          []string
		used          []string
		gaps          []string
		wantInputText string // of the input "in"
	}{
		{name: "made", script: "echo new > out", in: []string{"in"}, out: []string{"out"}, made: []string{"out"}, used: []string{"in"}},
		{name: "missing", script: "true", out: []string{"nothing"}, gaps: []string{"output-missing"}},
		{name: "untouched", script: "true", out: []string{"old"}, used: []string{"old"}, gaps: []string{"output-unchanged"}},
		{name: "rewritten the same", script: "echo old > old", out: []string{"old"}, used: []string{"old"}, gaps: []string{"output-unchanged"}},
		{name: "in place", script: "echo more >> in", in: []string{"in"}, out: []string{"in"}, made: []string{"in"}, used: []string{"in"}},
		{name: "in place, untouched", script: "true", in: []string{"in"}, out: []string{"in"}, used: []string{"in"}, gaps: []string{"output-unchanged"}},
		{name: "input changed", script: "echo more >> in", in: []string{"in"}, used: []string{"in"}, gaps: []string{"input-changed"}},
		{name: "input gone", script: "rm in", in: []string{"in"}, used: []string{"in"}, gaps: []string{"input-changed"}},
		{name: "output inside an input", script: "echo x > d/out", in: []string{"d"}, out: []string{"d/out"}, made: []string{"d/out"}, used: []string{"d"}},
		{name: "another file of that input", script: "echo x > d/out; echo y > d/stray", in: []string{"d"}, out: []string{"d/out"}, made: []string{"d/out"}, used: []string{"d"}, gaps: []string{"input-changed"}},
		{name: "a folder", script: "mkdir o; echo x > o/f", out: []string{"o"}, made: []string{"o"}},
		{name: "declared twice", script: "echo x > out", out: []string{"out", "./d/../out"}, made: []string{"out"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, map[string]string{"in": "input\n", "old": "old\n", "d/f": "f\n"})
			opts := sh(dir, test.script)
			opts.Inputs, opts.Outputs = test.in, test.out
			r, s := record(t, store, opts)
			keys := func(m map[string]schema.Key) []string {
				var out []string
				for k := range m {
					out = append(out, k)
				}
				slices.Sort(out)
				return out
			}
			if got := keys(generates(s)); !slices.Equal(got, test.made) {
				t.Errorf("generated %v, want %v", got, test.made)
			}
			if got := keys(uses(s, schema.RoleInput)); !slices.Equal(got, test.used) {
				t.Errorf("used %v, want %v", got, test.used)
			}
			if got := rules(r.Gaps); !slices.Equal(got, test.gaps) {
				t.Errorf("gaps %v, want %v", r.Gaps, test.gaps)
			}
			// As it was before the command, whatever happened since.
			if got, ok := uses(s, schema.RoleInput)["in"]; ok && got != text("input\n") {
				t.Errorf("input is recorded as %s, want what it was before", got)
			}
		})
	}
}

func TestOutsideRoot(t *testing.T) {
	t.Parallel()
	dir, other := folder(t, map[string]string{"sub/in": "1"}), folder(t, map[string]string{"far": "2"})
	opts := sh(filepath.Join(dir, "sub"), "true")
	opts.Inputs = []string{filepath.Join(other, "far"), filepath.Join(dir, "sub", "in")}
	r, s := record(t, newStore(t), opts)
	if got := rules(r.Gaps); !slices.Equal(got, []string{"outside-root"}) {
		t.Errorf("gaps = %v, want outside-root for one of two", r.Gaps)
	}
	real, err := filepath.EvalSymlinks(other)
	if err != nil {
		t.Fatal(err)
	}
	in := uses(s, schema.RoleInput)
	if in["in"] != text("1") || in[filepath.Join(other, "far")] == "" && in[filepath.Join(real, "far")] == "" {
		t.Errorf("inputs = %v", in)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	for _, test := range []struct{ name, text, want string }{
		{"not JSON", `rmse=1`, "is not a JSON object"},
		{"an array", `[1]`, "is not a JSON object"},
		{"null", `null`, "is not a JSON object"},
		{"nested", `{"a": {"b": 1}}`, `"a" is neither a number nor a string`},
		{"NaN, as Python writes it", `{"a": NaN}`, "is not a JSON object"},
		{"a secret", `{"a": "ghp_012345678901234567890123456789012345"}`, "looks like a GitHub token"},
	} {
		dir := folder(t, map[string]string{"src": test.text})
		opts := sh(dir, "cp src m.json")
		opts.Metrics = "m.json"
		r, s := record(t, store, opts)
		if len(s.Metrics) != 0 || len(r.Gaps) != 1 || r.Gaps[0].Rule != "metrics-not-recorded" || !strings.Contains(r.Gaps[0].Detail, test.want) {
			t.Errorf("%s: metrics %v, gaps %v, want a gap with %q", test.name, s.Metrics, r.Gaps, test.want)
		}
	}
	dir := folder(t, map[string]string{"m.json": `{"a": 1}`})
	opts := sh(dir, "true")
	opts.Metrics = "m.json"
	if r, s := record(t, store, opts); s.Metrics != nil || len(r.Gaps) != 1 {
		t.Errorf("metrics of an earlier run were taken for those of this one: %v, gaps %v", s.Metrics, r.Gaps)
	}
}

func TestCommandError(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"notexec": "#!/bin/sh\n", "bad": "\x00\x01"})
	if err := os.Chmod(filepath.Join(dir, "bad"), 0o755); err != nil {
		t.Fatal(err)
	}
	store := newStore(t)
	for argv0, want := range map[string]int{"no-such-program-here": 127, "./absent": 127, "./notexec": 126, "./bad": 126} {
		_, err := Record(t.Context(), store, Options{Dir: dir, Argv: []string{argv0}})
		var ce *CommandError
		if !errors.As(err, &ce) || ce.Code != want {
			t.Errorf("Record(%s) = %v, want a CommandError with status %d", argv0, err, want)
		}
	}
}

// A program of the user's own is kept, with the fact that it can be run.
func TestToolInRoot(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"train.sh": "#!/bin/sh\necho x > out\n"})
	if err := os.Chmod(filepath.Join(dir, "train.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	store := newStore(t)
	opts := sh(dir, "")
	opts.Argv, opts.Outputs = []string{"./train.sh"}, []string{"out"}
	r, s := record(t, store, opts)
	key := uses(s, schema.RoleTool)["train.sh"]
	if key != text("#!/bin/sh\necho x > out\n") {
		t.Fatalf("tool = %v", uses(s, schema.RoleTool))
	}
	if ok, err := store.Has(t.Context(), key); !ok || err != nil {
		t.Errorf("the program is not kept: %v", err)
	}
	var prov schema.Provenance
	if err := schema.DecodePredicate(r.Statements[0], false, &prov); err != nil {
		t.Fatal(err)
	}
	if got := prov.BuildDefinition.ResolvedDependencies[0].Annotations[schema.AnnotationExec]; got != "true" {
		t.Errorf("annotation exec = %v, want true", got)
	}
}

func TestNestedRun(t *testing.T) {
	t.Parallel()
	opts := sh(folder(t, nil), `printf %s "$RETRACE_RUN" > id`)
	opts.Env = append(opts.Env, EnvRun+"=0123456789abcdef")
	opts.Outputs = []string{"id"}
	r, s := record(t, newStore(t), opts)
	if s.Parent != "0123456789abcdef" {
		t.Errorf("Parent = %q, want the enclosing run", s.Parent)
	}
	if got := generates(s)["id"]; got != text(r.Run) {
		t.Errorf("the command saw another %s than %s", EnvRun, r.Run)
	}
}

func TestSignalled(t *testing.T) {
	t.Parallel()
	r, s := record(t, newStore(t), sh(folder(t, nil), `kill -9 $$`))
	if want := 128 + int(syscall.SIGKILL); r.Exit != want || *s.Exit != want {
		t.Errorf("Exit = %d, recorded %d, want %d", r.Exit, *s.Exit, want)
	}
}

// A signal to us reaches the command, which ends in its own way and is
// recorded.
func TestSignalForwarded(t *testing.T) {
	dir := folder(t, nil)
	opts := sh(dir, `trap 'echo bye > out; exit 7' TERM; echo up > ready; while :; do sleep 0.05; done`)
	opts.Outputs = []string{"out"}
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
	}()
	r, s := record(t, newStore(t), opts)
	if r.Exit != 7 || generates(s)["out"] != text("bye\n") {
		t.Errorf("Exit = %d, outputs %v, want 7 and what the trap wrote", r.Exit, generates(s))
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	dir := folder(t, nil)
	opts := sh(dir, `echo up > ready; exec sleep 60`)
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
				cancel()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	r, err := Record(ctx, newStore(t), opts)
	if err != nil || r.Exit != 128+int(syscall.SIGTERM) {
		t.Errorf("Record = %+v, %v, want the step that SIGTERM ended", r, err)
	}
}

func TestInputsThatCannotBeKept(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"ok": "1", "d/f": "1"})
	if err := syscall.Mkfifo(filepath.Join(dir, "d", "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	store := newStore(t)
	for in, want := range map[string]string{"absent": "absent", "d": "d/fifo"} {
		opts := sh(dir, "echo ran > ran")
		opts.Inputs = []string{in}
		_, err := Record(t.Context(), store, opts)
		if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, want)) {
			t.Errorf("Record(--in %s) = %v, want an error that names %s", in, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Errorf("the command ran though its inputs could not be kept")
	}
}

func TestParseModel(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]*Model{
		"m": {Name: "m"}, "m:2": {Name: "m", Version: "2"}, "m=out/x": {Name: "m", Path: "out/x"},
		"a/b:v1.0=x=y:z": {Name: "a/b", Version: "v1.0", Path: "x=y:z"},
		"":               nil, ":1": nil, "m:": nil, "m=": nil, "m@1": nil, "m:a b": nil,
	} {
		got, err := ParseModel(s)
		if (err != nil) != (want == nil) || want != nil && !cmp.Equal(got, want) {
			t.Errorf("ParseModel(%q) = %+v, %v, want %+v", s, got, err, want)
		}
	}
}

// An output that cannot be read does not lose the record of the run.
func TestOutputThatCannotBeKept(t *testing.T) {
	t.Parallel()
	opts := sh(folder(t, nil), "mkdir out; echo 1 > out/f; mkfifo out/pipe; echo ok > log")
	opts.Outputs = []string{"out", "log"}
	opts.Model = &Model{Name: "m", Path: "out"}
	r, s := record(t, newStore(t), opts)
	if got := generates(s); len(got) != 1 || got["log"] == "" {
		t.Errorf("outputs = %v, want log alone", got)
	}
	if got := rules(r.Gaps); !slices.Equal(got, []string{"output-not-recorded"}) || !strings.Contains(r.Gaps[0].Detail, "pipe") {
		t.Errorf("gaps = %v, want one that names the FIFO", r.Gaps)
	}
	if r.Naming != nil || r.NotNamed == "" {
		t.Errorf("Naming = %v, %q, want none", r.Naming, r.NotNamed)
	}
}

// fullStore cannot keep anything that it does not know.
type fullStore struct {
	*content.Store
	full bool
}

func (f *fullStore) PutFiles(ctx context.Context, path string) (schema.Key, []schema.SnapshotFile, error) {
	if f.full {
		return "", nil, syscall.ENOSPC
	}
	return f.Store.PutFiles(ctx, path)
}

func TestDiskFullAfterwards(t *testing.T) {
	t.Parallel()
	store := &fullStore{Store: newStore(t)}
	opts := sh(folder(t, nil), "echo 1 > out")
	opts.Outputs = []string{"out"}
	p, err := Prepare(t.Context(), store, opts)
	if err != nil {
		t.Fatal(err)
	}
	e, err := p.Exec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	store.full = true
	r, err := p.Finish(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Statements[0].Facts()
	if err != nil {
		t.Fatal(err)
	}
	if generates(f.Step)["out"] != text("1\n") || !slices.Equal(rules(r.Gaps), []string{"content-not-kept"}) {
		t.Errorf("outputs = %v, gaps = %v, want the digest and what is missing", generates(f.Step), r.Gaps)
	}
	for _, res := range f.Resources {
		if res.Key == text("1\n") && !strings.HasPrefix(res.Content, "host:") {
			t.Errorf("content = %q, want that it is on this host only", res.Content)
		}
	}
}

// What cannot be recorded is found before the command runs.
func TestRefusedBefore(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	for name, change := range map[string]func(*Options){
		"no command":         func(o *Options) { o.Argv = nil },
		"argument":           func(o *Options) { o.Argv = append(o.Argv, "\xff") },
		"parameter":          func(o *Options) { o.Params = map[string]string{"x": "\xff"} },
		"output":             func(o *Options) { o.Outputs = []string{"\xff"} },
		"large parameter":    func(o *Options) { o.Params = map[string]string{"x": strings.Repeat("x", 1<<20)} },
		"too many inputs":    func(o *Options) { o.Inputs = make([]string, 5000) },
		"model without name": func(o *Options) { o.Model, o.Outputs = &Model{}, []string{"o"} },
		"no such folder":     func(o *Options) { o.Dir = filepath.Join(o.Dir, "absent") },
	} {
		dir := folder(t, nil)
		opts := sh(dir, "echo ran > ran")
		change(&opts)
		if _, err := Record(t.Context(), store, opts); err == nil {
			t.Errorf("%s: Record succeeded, want an error", name)
		}
		if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
			t.Errorf("%s: the command ran", name)
		}
	}
}

// Sixteen runs at once share a store and are all recorded.
func TestParallelRuns(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	results := make(chan Result, 16)
	for i := range cap(results) {
		go func() {
			opts := sh(folder(t, map[string]string{"in": "same"}), fmt.Sprintf("echo %d > out", i))
			opts.Inputs, opts.Outputs = []string{"in"}, []string{"out"}
			r, err := Record(t.Context(), store, opts)
			if err != nil {
				t.Error(err)
			}
			results <- r
		}()
	}
	ids := map[string]bool{}
	for range cap(results) {
		r := <-results
		ids[r.Run] = true
		for _, k := range r.Outputs {
			if has, err := store.Has(t.Context(), k); !has || err != nil {
				t.Errorf("Has(%s) = %v, %v", k, has, err)
			}
		}
	}
	if len(ids) != cap(results) {
		t.Errorf("%d different runs, want %d", len(ids), cap(results))
	}
}

func FuzzParseMetrics(f *testing.F) {
	for _, s := range []string{`{"rmse": 1.5, "note": "ok"}`, `{}`, `[1]`, `{"a": NaN}`, `{"a": 1e999}`, `{"a": {"b": 1}}`, `null`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parseMetrics(raw)
		if err != nil {
			return
		}
		for name, v := range m {
			switch v.(type) {
			case float64, string:
			default:
				t.Errorf("parseMetrics(%q): %q is a %T", raw, name, v)
			}
		}
	})
}

func FuzzParseModel(f *testing.F) {
	for _, s := range []string{"m", "m:2", "m=out", "a/b:v1.0=x=y:z", ":1", "m:", "m="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseModel(s)
		if err != nil {
			return
		}
		again := m.Name
		if m.Version != "" {
			again += ":" + m.Version
		}
		if m.Path != "" {
			again += "=" + m.Path
		}
		if again != s {
			t.Errorf("ParseModel(%q) = %+v, which is written as %q", s, m, again)
		}
	})
}

func FuzzSecretValue(f *testing.F) {
	f.Add("Authorization: Bearer abcdefghijkl")
	f.Add("https://u:p@example.org/")
	f.Add("x://%zz@")
	f.Fuzz(func(t *testing.T, s string) {
		p := &Prepared{opts: Options{Argv: []string{"x", s, s}, Params: map[string]string{s: s}}}
		_ = p.checkSecrets(t.Context()) // must not panic
		_ = secretFile(s)
	})
}
