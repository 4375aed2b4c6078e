package restore_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ingest/run"
	"github.com/retrace-ledger/retrace/restore"
	"github.com/retrace-ledger/retrace/schema"
)

// actEnv makes the test binary act as a program that a step runs.
const actEnv = "RETRACE_RESTORE_TEST_ACT"

func act() int {
	if os.Getenv(actEnv) == "dial" {
		if c, err := net.Dial("tcp", os.Args[1]); err == nil {
			c.Close()
			return 0
		}
		return 3
	}
	return 2
}

func wantVerdict(t *testing.T, r *restore.Result, verdict string, reason ...string) {
	t.Helper()
	if r.Verdict != verdict {
		t.Fatalf("verdict is %s (%s), want %s", r.Verdict, r.Reason, verdict)
	}
	for _, part := range reason {
		if !strings.Contains(r.Reason, part) {
			t.Errorf("reason is %q, want it to say %q", r.Reason, part)
		}
	}
	if _, err := r.Statement(); err != nil {
		t.Errorf("Statement: %v", err)
	}
}

func TestReproduceChain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain(train)
	plan := w.plan("forecast@1")
	dir := t.TempDir()
	if v := w.restore(plan, dir, nil); v.Result != restore.Complete {
		t.Fatalf("restored %s: %v", v.Result, v.Problems)
	}
	var shown []string
	var dirs []string
	r := w.reproduce(plan, dir, &restore.ReproduceOptions{
		Confirm: func(cs []restore.Command) (bool, error) {
			for _, c := range cs {
				shown = append(shown, c.String())
			}
			return true, nil
		},
		Started: func(_ restore.Command, dir string) { dirs = append(dirs, dir) },
	})
	wantVerdict(t, r, schema.BitExact)
	if want := []string{"sh features.sh", "./train.sh"}; !cmp.Equal(shown, want) {
		t.Errorf("shown before: %q, want %q", shown, want)
	}
	if len(r.Steps) != 2 || r.Outputs() != 2 {
		t.Errorf("%d steps, %d outputs; want 2 and 2", len(r.Steps), r.Outputs())
	}
	if slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(d, dir) }) {
		t.Errorf("steps ran in %q, below the restored place", dirs)
	}
	if r.Isolation == "" || r.Platform == "" {
		t.Errorf("isolation %q, platform %q; want both said", r.Isolation, r.Platform)
	}
}

// The recorded outputs are not given to the steps: a command that does nothing,
// or that passes on what it finds, cannot pass.
func TestReproduceNoOp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// The script makes the model when it is recorded, and nothing when it is
	// run again: it looks for a file that is not recorded as an input.
	marker := filepath.Join(t.TempDir(), "recording")
	write(t, marker, "")
	w.chain("#!/bin/sh\n[ -e " + marker + " ] && { echo model; cat work/features.csv; } > model.bin\nexit 0\n")
	if err := os.Remove(marker); err != nil {
		t.Fatal(err)
	}
	r := w.again(w.plan("forecast@1"), nil)
	wantVerdict(t, r, schema.Diverged, "step 2 (train.sh", "did not write model.bin")
	if made := r.Steps[1].Outputs[0].Made; made != "" {
		t.Errorf("made %q, want nothing", made)
	}
}

func TestReproduceDiverges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain("#!/bin/sh\ndate +%N > model.bin\n")
	r := w.again(w.plan("forecast@1"), nil)
	wantVerdict(t, r, schema.Diverged, "step 2 (train.sh", "made another model.bin", "recorded is sha256:")
	if r.First == nil || r.First.Path != "model.bin" || r.First.Step != 2 || r.First.Made == r.First.Recorded {
		t.Errorf("First = %+v", r.First)
	}
	if len(r.Steps) != 2 || r.Steps[0].Outputs[0].Made != r.Steps[0].Outputs[0].Recorded {
		t.Errorf("Steps = %+v, want the first step equal", r.Steps)
	}
}

// It stops where the path is left first.
func TestReproduceStopsAtFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit(map[string]string{"a.sh": "#!/bin/sh\ndate +%N > a.txt\n", "b.sh": "#!/bin/sh\ndate +%N > b.txt; cat a.txt >> b.txt\n"})
	w.record(run.Options{Argv: []string{"./a.sh"}, Outputs: []string{"a.txt"}})
	w.record(run.Options{Argv: []string{"./b.sh"}, Inputs: []string{"a.txt"}, Outputs: []string{"b.txt"}, Model: &run.Model{Name: "m"}})
	r := w.again(w.plan("m"), nil)
	wantVerdict(t, r, schema.Diverged, "step 1 (a.sh", "a.txt")
	if len(r.Steps) != 1 {
		t.Errorf("%d steps were run, want 1", len(r.Steps))
	}
}

func TestReproduceExitStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	marker := filepath.Join(t.TempDir(), "recording")
	write(t, marker, "")
	w.chain("#!/bin/sh\necho model > model.bin\ntest -e " + marker + "\n")
	if err := os.Remove(marker); err != nil {
		t.Fatal(err)
	}
	wantVerdict(t, w.again(w.plan("forecast"), nil), schema.Diverged, "exit status 1, recorded is 0")
}

// A step that failed and left something behind is compared like any other.
func TestReproduceFailedStep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain("#!/bin/sh\necho model > model.bin\nkill -TERM $$\n")
	r := w.again(w.plan(w.lastRun()), nil)
	wantVerdict(t, r, schema.BitExact)
	if r.Steps[1].Exit != 128+15 {
		t.Errorf("exit is %d, want 143", r.Steps[1].Exit)
	}
}

// lastRun refers to the last step recorded.
func (w *world) lastRun() string {
	v := w.view()
	for i := v.Size() - 1; i > 0; i-- {
		if s, err := v.Step(w.t.Context(), i); err == nil {
			return "run:" + s.Run
		}
	}
	w.t.Fatal("no step was recorded")
	return ""
}

func TestReproduceTool(t *testing.T) {
	w := newWorld(t)
	bin := t.TempDir()
	tool := filepath.Join(bin, "trainer")
	write(t, tool, "#!/bin/sh\necho model > model.bin\n")
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	w.record(run.Options{Argv: []string{"trainer"}, Outputs: []string{"model.bin"}, Model: &run.Model{Name: "m"}})
	plan := w.plan("m")
	wantVerdict(t, w.again(plan, nil), schema.BitExact)

	old := filepath.Join(t.TempDir(), "old")
	if err := os.Rename(tool, old); err != nil {
		t.Fatal(err)
	}
	wantVerdict(t, w.again(plan, nil), schema.NotReplayable, "runs trainer, which is not found")

	write(t, tool, "#!/bin/sh\ntrue\n")
	recorded := string(schema.BytesKey([]byte("#!/bin/sh\necho model > model.bin\n")))
	here := string(schema.BytesKey([]byte("#!/bin/sh\ntrue\n")))
	wantVerdict(t, w.again(plan, nil), schema.NotReplayable, "trainer", recorded, here)
	wantVerdict(t, w.again(plan, &restore.ReproduceOptions{Confirm: yes, Programs: []string{old}}), schema.BitExact)
}

func TestReproduceRefuses(t *testing.T) {
	w := newWorld(t)
	w.commit(map[string]string{"make.sh": "#!/bin/sh\necho model > model.bin\n"})
	t.Setenv("TOKEN_FOR_TEST", "x")
	outside := filepath.Join(t.TempDir(), "outside.csv")
	write(t, outside, "1\n")
	opts := run.Options{Argv: []string{"./make.sh"}, Outputs: []string{"model.bin"}}
	with := func(change func(*run.Options)) run.Options {
		o := opts
		change(&o)
		return o
	}
	for _, c := range []struct {
		name   string
		opts   run.Options
		opt    restore.ReproduceOptions
		reason string
	}{
		{"secret", with(func(o *run.Options) { o.Secrets = []string{"TOKEN_FOR_TEST"} }), restore.ReproduceOptions{Confirm: yes}, "was given the secret TOKEN_FOR_TEST"},
		{"outside", with(func(o *run.Options) { o.Inputs = []string{outside} }), restore.ReproduceOptions{Confirm: yes}, "outside"},
		{"nothing made", run.Options{Argv: []string{"./make.sh"}}, restore.ReproduceOptions{Confirm: yes}, "nothing to compare"},
		{"declined", opts, restore.ReproduceOptions{Confirm: func([]restore.Command) (bool, error) { return false, nil }}, "declined"},
		{"not asked", opts, restore.ReproduceOptions{}, "nobody confirmed"},
		{"untrusted", opts, restore.ReproduceOptions{Confirm: yes, Trusted: func(restore.Step) bool { return false }}, "trusted signer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.RemoveAll(filepath.Join(w.dir, "model.bin")); err != nil {
				t.Fatal(err)
			}
			w.record(c.opts)
			ran := false
			c.opt.Started = func(restore.Command, string) { ran = true }
			wantVerdict(t, w.again(w.plan(w.lastRun()), &c.opt), schema.NotReplayable, c.reason)
			if ran {
				t.Error("a command was run all the same")
			}
		})
	}
}

func TestReproduceConfirmError(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain(train)
	plan, dir := w.plan("forecast"), t.TempDir()
	w.restore(plan, dir, &restore.RestoreOptions{NeededOnly: true})
	broken := errors.New("the terminal is gone")
	_, err := restore.Reproduce(t.Context(), plan, dir, w.sources(), &restore.ReproduceOptions{Confirm: func([]restore.Command) (bool, error) { return false, broken }})
	if !errors.Is(err, broken) {
		t.Errorf("Reproduce: %v, want %v", err, broken)
	}
}

// What lies in a restored place and was changed since is not run.
func TestReproduceTampered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain(train)
	plan, dir := w.plan("forecast"), t.TempDir()
	w.restore(plan, dir, nil)
	write(t, filepath.Join(dir, filepath.FromSlash(plan.Steps[1].Place), "train.sh"), "#!/bin/sh\necho other > model.bin\n")
	wantVerdict(t, w.reproduce(plan, dir, nil), schema.NotReplayable, "was changed since it was laid out")
}

// Outputs that were recorded lie around as uncommitted files when later steps
// are recorded. They are made anew all the same.
func TestReproduceWithholdsChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit(map[string]string{
		"one.sh": "#!/bin/sh\necho one > one.txt\n",
		"two.sh": "#!/bin/sh\necho two > two.txt\n",
		// Passes on whatever an earlier run left, as a cache does.
		"three.sh": "#!/bin/sh\ncat one.txt two.txt > three.txt\n",
	})
	record := func() {
		w.record(run.Options{Argv: []string{"./one.sh"}, Outputs: []string{"one.txt"}})
		w.record(run.Options{Argv: []string{"./two.sh"}, Outputs: []string{"two.txt"}})
		w.record(run.Options{Argv: []string{"./three.sh"}, Inputs: []string{"one.txt", "two.txt"}, Outputs: []string{"three.txt"}})
	}
	record()
	plan := w.plan(w.lastRun())
	var holds []string
	r := w.again(plan, &restore.ReproduceOptions{Confirm: yes, Started: func(c restore.Command, dir string) {
		for _, name := range []string{"one.txt", "two.txt", "three.txt"} {
			if there(filepath.Join(dir, name)) {
				holds = append(holds, c.Name+" "+name)
			}
		}
	}})
	wantVerdict(t, r, schema.BitExact)
	want := []string{"two.sh one.txt", "three.sh one.txt", "three.sh two.txt"}
	if diff := cmp.Diff(want, holds); diff != "" {
		t.Errorf("what steps found (-want +got):\n%s", diff)
	}
}

// The commit has the recorded output, too: it is taken out before the step runs.
func TestReproduceWithholdsCode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit(map[string]string{"make.sh": "#!/bin/sh\nmkdir -p deep\necho deep > deep/a.txt\necho made > out.txt\n", "out.txt": "made\n", "deep/a.txt": "deep\n"})
	for _, name := range []string{"out.txt", "deep"} {
		if err := os.RemoveAll(filepath.Join(w.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	w.record(run.Options{Argv: []string{"./make.sh"}, Outputs: []string{"out.txt", "deep"}})
	r := w.again(w.plan(w.lastRun()), &restore.ReproduceOptions{Confirm: yes, Started: func(_ restore.Command, dir string) {
		for _, name := range []string{"out.txt", "deep"} {
			if there(filepath.Join(dir, name)) {
				t.Errorf("the step is given the recorded %s", name)
			}
		}
	}})
	wantVerdict(t, r, schema.BitExact)
}

// An input that was executable still is.
func TestReproduceExecutableInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit(map[string]string{"make.sh": "#!/bin/sh\n./tool.sh > out.txt\n", ".gitignore": "tool.sh\n"})
	w.write(map[string]string{"tool.sh": "#!/bin/sh\necho made\n"})
	w.record(run.Options{Argv: []string{"./make.sh"}, Inputs: []string{"tool.sh"}, Outputs: []string{"out.txt"}})
	wantVerdict(t, w.again(w.plan(w.lastRun()), nil), schema.BitExact)
}

// A program in the working root is restored with it, and runs from there.
func TestReproduceIgnoredTool(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit(map[string]string{".gitignore": "bin/\n"})
	w.write(map[string]string{"bin/tool": "#!/bin/sh\necho made > out.txt\n"})
	w.record(run.Options{Argv: []string{filepath.Join(w.dir, "bin/tool")}, Outputs: []string{"out.txt"}})
	if err := os.RemoveAll(w.dir); err != nil {
		t.Fatal(err)
	}
	wantVerdict(t, w.again(w.plan(w.lastRun()), nil), schema.BitExact)
}

func TestReproduceEnvironment(t *testing.T) {
	t.Setenv("TZ", "Asia/Tokyo")
	t.Setenv("RETRACE_RESTORE_TEST_OTHER", "leaks")
	w := newWorld(t)
	w.commit(map[string]string{"make.sh": "#!/bin/sh\necho x > out.txt\necho \"$HOME\\n$TMPDIR\\n$TZ\\n$RETRACE_RUN$RETRACE_RESTORE_TEST_OTHER\"\n"})
	w.record(run.Options{Argv: []string{"./make.sh"}, Outputs: []string{"out.txt"}})
	t.Setenv("TZ", "Europe/Berlin")
	var out strings.Builder
	var dir string
	r := w.again(w.plan(w.lastRun()), &restore.ReproduceOptions{Confirm: yes, Stdout: &out, Started: func(_ restore.Command, d string) { dir = d }})
	wantVerdict(t, r, schema.BitExact)
	scratch := filepath.Dir(filepath.Dir(dir))
	want := []string{filepath.Join(scratch, "home/01-make.sh"), filepath.Join(scratch, "tmp/01-make.sh"), "Asia/Tokyo", "", ""}
	if diff := cmp.Diff(want, strings.Split(out.String(), "\n")); diff != "" {
		t.Errorf("HOME, TMPDIR, TZ and others (-want +got):\n%s", diff)
	}
}

// A step that is said to have made what it was given proves nothing.
func TestReproduceInputIsOutput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.statement(fabricated{
		id: "r1", argv: []string{"true"}, inputs: map[string]string{"model.bin": "given"}, outputs: map[string]string{"model.bin": "given"},
	})
	wantVerdict(t, w.again(w.plan("run:r1"), nil), schema.NotReplayable, "would prove nothing")
}

// A link in place of an output is not read through.
func TestReproduceLinkOutside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kept := filepath.Join(t.TempDir(), "model.bin")
	write(t, kept, "model\n")
	w.statement(fabricated{id: "r1", argv: []string{"ln", "-s", kept, "model.bin"}, outputs: map[string]string{"model.bin": "model\n"}})
	wantVerdict(t, w.again(w.plan("run:r1"), nil), schema.NotReplayable, "model.bin")
}

func TestReproduceWithoutNetwork(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.statement(fabricated{
		id: "r1", argv: []string{self, l.Addr().String()}, environment: map[string]string{actEnv: "dial"},
		outputs: map[string]string{"model.bin": "model\n"},
	})
	r := w.again(w.plan("run:r1"), nil)
	if strings.HasPrefix(r.Isolation, "no network") {
		wantVerdict(t, r, schema.Diverged, "exit status 3")
	} else {
		wantVerdict(t, r, schema.Diverged, "did not write")
	}
}

func TestReproduceCancelled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.statement(fabricated{id: "r1", argv: []string{"sleep", "600"}, outputs: map[string]string{"model.bin": "model\n"}})
	plan, dir := w.plan("run:r1"), t.TempDir()
	w.restore(plan, dir, nil)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := restore.Reproduce(ctx, plan, dir, w.sources(), &restore.ReproduceOptions{
		Confirm: yes, Scratch: t.TempDir(), Started: func(restore.Command, string) { cancel() },
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Reproduce: %v, want that the context is done", err)
	}
}

func TestReproduceSixteen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit(map[string]string{"step.sh": "#!/bin/sh\n{ cat \"$1\" 2>/dev/null; echo $2; } > $2\n"})
	in := ""
	for i := range 16 {
		out := "out-" + string(rune('a'+i)) + ".txt"
		o := run.Options{Argv: []string{"./step.sh", in, out}, Outputs: []string{out}}
		if in != "" {
			o.Inputs = []string{in}
		}
		if i == 15 {
			o.Model = &run.Model{Name: "m"}
		}
		w.record(o)
		in = out
	}
	plan := w.plan("m")
	if len(plan.Steps) != 16 {
		t.Fatalf("the plan has %d steps, want 16", len(plan.Steps))
	}
	dir := t.TempDir()
	if v := w.restore(plan, dir, nil); v.Result != restore.Complete {
		t.Fatalf("restored %s: %v", v.Result, v.Problems)
	}
	wantVerdict(t, w.reproduce(plan, dir, nil), schema.BitExact, "16 steps")
}
