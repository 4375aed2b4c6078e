package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// ReproduceOptions are how recorded steps are run again. Confirm is required:
// without it nothing runs.
type ReproduceOptions struct {
	// Confirm is shown every command before the first is run, and says whether
	// they may be. An error ends the reproduction without a verdict.
	Confirm func([]Command) (bool, error)
	// Trusted says whether a step may be run; nil for steps that are not
	// merely claimed.
	Trusted func(Step) bool
	// Scratch is the folder in which steps run, in a new one of their own;
	// empty for the system's temporary folder.
	Scratch string
	// Keep leaves the scratch folder; Result says nothing of it, Started does.
	Keep bool
	// Programs are files that a program may also be found at, by its digest,
	// where argv[0] leads to another or nowhere.
	Programs []string
	// Started, if set, is told before each step with the folder it runs in.
	Started func(c Command, dir string)
	// Stdout and Stderr take what the commands write; nil to drop it.
	Stdout, Stderr io.Writer
}

// trusted is whether the step may be run.
func (o *ReproduceOptions) trusted(s Step) bool {
	if o.Trusted != nil {
		return o.Trusted(s)
	}
	return s.Evidence == schema.Attested || s.Evidence == schema.Observed
}

// Reproduce runs the recorded steps of a plan again, in order, in scratch
// copies of what was restored to dir, and compares what they make with what
// was recorded, digest by digest. Each step gets what the steps before it made
// anew; what was recorded as made by the plan's own steps is nowhere in the
// folders that it is given. It stops at the first difference.
//
// The verdict is BIT_EXACT only if every step was run, ended as recorded, and
// wrote every output that was recorded, byte for byte. NOT_REPLAYABLE says why
// steps could not be run or compared; an error says that it could not be
// found out.
func Reproduce(ctx context.Context, plan *Plan, dir string, src Sources, opt *ReproduceOptions) (*Result, error) {
	if opt == nil {
		opt = &ReproduceOptions{}
	}
	r, err := newReproduction(plan, src, opt)
	if err != nil {
		return nil, fmt.Errorf("reproducing %s: %w", plan.Ref, err)
	}
	err = r.run(ctx, dir)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	var stop *obstacle
	switch {
	case errors.As(err, &stop):
		r.result.Verdict, r.result.Reason = schema.NotReplayable, stop.reason
	case err != nil:
		return nil, fmt.Errorf("reproducing %s: %w", plan.Ref, err)
	case r.result.First != nil:
		r.result.Verdict, r.result.Reason = schema.Diverged, r.result.First.String()
	default:
		r.result.Verdict = schema.BitExact
		r.result.Reason = exactly(len(r.result.Steps), r.result.Outputs())
	}
	return r.result, nil
}

// exactly says in words what was made again.
func exactly(steps, outputs int) string {
	ran, made := "1 step was", "1 output with the recorded digest"
	if steps != 1 {
		ran = fmt.Sprintf("%d steps were", steps)
	}
	if outputs != 1 {
		made = fmt.Sprintf("%d outputs with the recorded digests", outputs)
	}
	return fmt.Sprintf("%s run again and made %s", ran, made)
}

// obstacle is a reason for NOT_REPLAYABLE.
type obstacle struct{ reason string }

func (o *obstacle) Error() string { return o.reason }

func blocked(format string, args ...any) error { return &obstacle{fmt.Sprintf(format, args...)} }

type reproduction struct {
	plan   *Plan
	src    Sources
	opt    *ReproduceOptions
	result *Result
	// isolate sets up what keeps a command apart from the machine.
	isolate func(*exec.Cmd)

	from    *os.Root // the restored place
	scratch *os.Root
	dir     string // of scratch, absolute
	ran     map[int]bool
	made    map[schema.Key][]madeBy // what needed steps generated
}

// madeBy is an output of a step of the plan.
type madeBy struct {
	step   int // number
	output Output
}

func newReproduction(plan *Plan, src Sources, opt *ReproduceOptions) (*reproduction, error) {
	if err := plan.check(); err != nil {
		return nil, fmt.Errorf("the plan is not one that retrace makes: %w", err)
	}
	if src.Digest == nil {
		return nil, errors.New("nothing was given to digest with")
	}
	digest, err := plan.Digest()
	if err != nil {
		return nil, err
	}
	how, start := isolate()
	r := &reproduction{plan: plan, src: src, opt: opt, isolate: start, ran: map[int]bool{}, made: map[schema.Key][]madeBy{}}
	r.result = &Result{
		Ref: plan.Ref, Name: plan.Name, Key: plan.Key, Isolation: how.words(), Platform: platform(), Size: plan.Size, Plan: digest,
	}
	var images []string
	for _, s := range r.needed() {
		for _, o := range s.Outputs {
			if !o.Key.Empty() {
				r.made[o.Key] = append(r.made[o.Key], madeBy{s.Number, o})
			}
		}
		if s.Image != "" && !slices.Contains(images, string(s.Image)) {
			images = append(images, string(s.Image))
		}
	}
	if len(images) > 0 {
		r.result.Isolation += "; on this machine, not in the recorded image " + strings.Join(images, ", ")
	}
	return r, nil
}

func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

// needed are the steps that are to be run.
func (r *reproduction) needed() []*Step {
	var out []*Step
	for i := range r.plan.Steps {
		if r.plan.Steps[i].Needed {
			out = append(out, &r.plan.Steps[i])
		}
	}
	return out
}

// Obstacles are the reasons, known from the plan alone, why its steps cannot
// be run again and compared. trusted is as in ReproduceOptions.
func (p *Plan) Obstacles(trusted func(Step) bool) []string {
	opt := &ReproduceOptions{Trusted: trusted}
	var out []string
	steps := 0
	for i := range p.Steps {
		s := &p.Steps[i]
		if !s.Needed {
			continue
		}
		steps++
		for _, why := range s.obstacles(p, opt) {
			out = append(out, fmt.Sprintf("step %d (%s, entry:%d) %s", s.Number, label(s), s.Entry, why))
		}
	}
	if steps == 0 {
		out = append(out, "no step that made it was recorded, so there is nothing to run")
	}
	return out
}

// shorten keeps the first few of a list and counts the rest.
func shorten(list []string, most int) []string {
	if len(list) <= most {
		return list
	}
	return append(slices.Clone(list[:most]), fmt.Sprintf("and %d more", len(list)-most))
}

func label(s *Step) string {
	_, name, _ := strings.Cut(path.Base(s.Place), "-")
	return name
}

// obstacles begin with a verb: the step is the subject.
func (s *Step) obstacles(p *Plan, opt *ReproduceOptions) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if len(s.Argv) == 0 {
		add("does not say which command to run")
	}
	if !opt.trusted(*s) {
		add("is not stated by a trusted signer (evidence: %s)", s.Evidence)
	}
	for _, name := range s.Secrets {
		add("was given the secret %s, whose value is withheld", name)
	}
	rules := lineage.Rules()
	for _, g := range s.Gaps {
		i := slices.IndexFunc(rules, func(r lineage.Rule) bool { return r.ID == g.Rule })
		if i >= 0 && rules[i].Severity == lineage.Blocks && !(g.Rule == "secret-withheld" && len(s.Secrets) > 0) {
			add("has the gap %s: %s", g.Rule, firstOf(g.Detail, rules[i].Explain))
		}
	}
	if s.Platform != "" && s.Platform != platform() {
		add("ran on %s, this is %s", s.Platform, platform())
	}
	s.comparable(add)
	for i := range s.Items {
		s.available(p, &s.Items[i], add)
	}
	return out
}

// comparable says which outputs could not be compared.
func (s *Step) comparable(add func(string, ...any)) {
	if len(s.Outputs) == 0 {
		add("has no recorded outputs: there is nothing to compare")
	}
	for _, o := range s.Outputs {
		switch alg := o.Key.Algorithm(); {
		case alg != schema.SHA256 && alg != schema.RetraceTree1:
			add("generated %s as %s, which is neither a file nor a folder that could be compared", o.Path, o.Key.Short())
		case checkRecordedPath(o.Path) != nil:
			add("wrote %q, which is not a path below its working root", o.Path)
		}
	}
}

// available says why an item that the step needs cannot be given to it.
func (s *Step) available(p *Plan, it *Item, add func(string, ...any)) {
	name := firstOf(strings.TrimPrefix(it.Place, s.Place+"/"), it.Name, string(it.Key))
	if it.Producer > 0 {
		from := p.Steps[it.Producer-1]
		if !slices.ContainsFunc(from.Outputs, func(o Output) bool { return o.Key == it.Key || o.Key == it.Within }) {
			add("used %s, which step %d made under another digest", name, it.Producer)
		}
		return
	}
	_, err := recordedPath(s, it)
	switch {
	case it.Missing != "":
		add("used %s, which is missing: %s", name, it.Missing)
	case err != nil:
		add("used %s, which lies outside its working root", name)
	}
}

func (r *reproduction) run(ctx context.Context, dir string) error {
	if why := r.plan.Obstacles(r.opt.trusted); len(why) > 0 {
		return blocked("%s", strings.Join(shorten(why, 5), "; "))
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if r.from, err = os.OpenRoot(abs); err != nil {
		return err
	}
	defer r.from.Close()
	if err := r.restored(ctx, abs); err != nil {
		return err
	}
	commands, err := r.commands(ctx)
	if err != nil {
		return err
	}
	if r.opt.Confirm == nil {
		return blocked("nobody confirmed that the commands may be run")
	}
	if ok, err := r.opt.Confirm(commands); err != nil || !ok {
		return cmpErr(err, blocked("it was declined to run the commands"))
	}
	if r.dir, err = os.MkdirTemp(r.opt.Scratch, "retrace-reproduce-"); err != nil {
		return err
	}
	if r.dir, err = filepath.Abs(r.dir); err != nil {
		return err
	}
	if !r.opt.Keep {
		defer removeAll(r.dir)
	}
	if r.scratch, err = os.OpenRoot(r.dir); err != nil {
		return err
	}
	defer r.scratch.Close()
	for i, s := range r.needed() {
		if err := r.step(ctx, s, commands[i]); err != nil || r.result.First != nil {
			return err
		}
	}
	return nil
}

// cmpErr is the first that is not nil.
func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// restored checks that dir holds this plan, and that what steps need of it is
// as it was laid out.
func (r *reproduction) restored(ctx context.Context, dir string) error {
	lock, err := readLock(r.from)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not a restored place: it has no %s", dir, lockName)
	}
	if err != nil {
		return err
	}
	if lock.PlanDigest != r.result.Plan {
		return fmt.Errorf("%s holds another plan (%.12s, wanted %.12s)", dir, lock.PlanDigest, r.result.Plan)
	}
	for _, s := range r.needed() {
		for _, it := range s.Items {
			i := slices.IndexFunc(lock.Items, func(l LockItem) bool { return l.Place == it.Place && l.Key == it.Key })
			switch {
			case it.Producer > 0:
			case i < 0:
				return blocked("%s was not laid out", it.Place)
			case lock.Items[i].Problem != "":
				return blocked("%s could not be laid out: %s", it.Place, lock.Items[i].Problem)
			}
		}
		at := filepath.Join(dir, filepath.FromSlash(s.Place))
		_, files, err := r.src.Digest(ctx, at, filepath.Join(at, ".git"))
		if err != nil {
			return err
		}
		tree, err := listingOf(files).digest()
		if err != nil {
			return err
		}
		if tree != lock.Trees[s.Place] {
			return blocked("%s was changed since it was laid out", s.Place)
		}
	}
	return nil
}

// step runs one step and compares what it made.
func (r *reproduction) step(ctx context.Context, s *Step, c Command) error {
	if err := r.prepare(ctx, s); err != nil {
		return fmt.Errorf("laying out step %d: %w", s.Number, err)
	}
	exit, err := r.execute(ctx, s, &c)
	if err != nil {
		return err
	}
	r.ran[s.Number] = true
	done := schema.ReproducedStep{Step: s.Entry, Run: s.Run, Exit: exit}
	r.result.Steps = append(r.result.Steps, done)
	last := &r.result.Steps[len(r.result.Steps)-1]
	differs := func(d Difference) {
		d.Step, d.Entry, d.Name = s.Number, s.Entry, label(s)
		r.result.First = &d
	}
	want := 0
	if s.Exit != nil {
		want = *s.Exit
	}
	if exit != want {
		differs(Difference{Recorded: strconv.Itoa(want), Made: strconv.Itoa(exit)})
		return nil
	}
	below, err := r.scratch.OpenRoot(s.Place)
	if err != nil {
		return err
	}
	defer below.Close()
	for _, o := range s.Outputs {
		made, err := r.digest(ctx, below, s, o.Path)
		if err != nil {
			return err
		}
		last.Outputs = append(last.Outputs, schema.ReproducedOutput{Path: o.Path, Recorded: string(o.Key), Made: string(made)})
		if made != o.Key {
			differs(Difference{Path: o.Path, Recorded: string(o.Key), Made: string(made)})
			return nil
		}
	}
	return nil
}

// digest is the key of an output as it was made; empty if it was not.
func (r *reproduction) digest(ctx context.Context, root *os.Root, s *Step, p string) (schema.Key, error) {
	_, err := root.Stat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		// A root follows no link that leads out of it.
		return "", blocked("step %d (%s, entry:%d) left %s as something that cannot be read in its working root: %v", s.Number, label(s), s.Entry, p, err)
	}
	key, _, err := r.src.Digest(ctx, filepath.Join(r.dir, filepath.FromSlash(s.Place), filepath.FromSlash(p)))
	if err != nil && ctx.Err() == nil {
		return "", blocked("step %d (%s, entry:%d) left %s as something that cannot be digested: %v", s.Number, label(s), s.Entry, p, err)
	}
	return key, err
}

// removeAll removes a scratch folder, also where a step took away the right to.
func removeAll(dir string) {
	if os.RemoveAll(dir) == nil {
		return
	}
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(p, 0o700) // whatever stays is reported by nobody: it is scratch
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}

// environment is what a command is given: what was recorded, with a scratch
// HOME and TMPDIR, and this process's PATH where none was recorded.
func environment(s *Step, home, tmp string) []string {
	env := map[string]string{"PATH": os.Getenv("PATH")}
	maps.Copy(env, s.Environment)
	env["HOME"], env["TMPDIR"] = home, tmp
	var out []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		out = append(out, name+"="+env[name])
	}
	return out
}
