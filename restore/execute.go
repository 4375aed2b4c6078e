package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// commands are what will be run, with the programs as far as they can be found
// before anything runs.
func (r *reproduction) commands(ctx context.Context) ([]Command, error) {
	var out []Command
	for _, s := range r.needed() {
		c := Command{
			Step: s.Number, Entry: s.Entry, Name: label(s), Dir: s.Dir, Argv: s.Argv,
			Environment: s.Environment, Parameters: s.Parameters, Evidence: s.Evidence,
		}
		if !laidOut(s) {
			var err error
			if c.Program, err = r.program(ctx, s, ""); err != nil {
				return nil, err
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// laidOut says whether the program lies in the step's working root.
func laidOut(s *Step) bool {
	if s.Tool != nil && s.Tool.Path != "" {
		return true
	}
	argv0 := filepath.ToSlash(s.Argv[0])
	return strings.Contains(argv0, "/") && !filepath.IsAbs(s.Argv[0])
}

// program finds what argv[0] resolves to, and refuses it if it is not the
// program that ran. root is the step's working root; it is not used for
// programs that lie elsewhere.
func (r *reproduction) program(ctx context.Context, s *Step, root string) (string, error) {
	argv0 := s.Argv[0]
	var found string
	var err error
	switch {
	case s.Tool != nil && s.Tool.Path != "":
		found = filepath.Join(root, filepath.FromSlash(s.Tool.Path))
	case laidOut(s):
		p := path.Join(firstOf(s.Dir, "."), filepath.ToSlash(argv0))
		if err := checkRecordedPath(p); err != nil {
			return "", r.unfit(s, "runs %s, which is not in its working root: %v", argv0, err)
		}
		found = filepath.Join(root, filepath.FromSlash(p))
	case filepath.IsAbs(argv0):
		found = argv0
	default:
		found, err = lookPath(argv0, firstOf(s.Environment["PATH"], os.Getenv("PATH")))
	}
	if err == nil {
		found, err = exec.LookPath(found)
	}
	if s.Tool == nil {
		if err != nil {
			return "", r.unfit(s, "runs %s, which is not found: %v", argv0, err)
		}
		return found, nil
	}
	var got schema.Key
	if err == nil {
		if got, _, err = r.src.Digest(ctx, found); err == nil && got == s.Tool.Key {
			return found, nil
		}
	}
	if other := r.elsewhere(ctx, s.Tool.Key); other != "" {
		return other, nil
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", r.unfit(s, "runs %s, which is not found (recorded was %s with %s): %v", argv0, s.Tool.Name, s.Tool.Key, err)
	}
	return "", r.unfit(s, "ran %s with the digest %s; here %s is %s with the digest %s", s.Tool.Name, s.Tool.Key, argv0, found, got)
}

func (r *reproduction) unfit(s *Step, format string, args ...any) error {
	return blocked("step %d (%s, entry:%d) %s", s.Number, label(s), s.Entry, fmt.Sprintf(format, args...))
}

// elsewhere is one of the programs that the caller offered, by digest.
func (r *reproduction) elsewhere(ctx context.Context, key schema.Key) string {
	for _, p := range r.opt.Programs {
		if got, _, err := r.src.Digest(ctx, p); err == nil && got == key {
			return p
		}
	}
	return ""
}

// lookPath finds a program as a shell with that PATH does, but never in the
// working directory.
func lookPath(name, searched string) (string, error) {
	for _, dir := range filepath.SplitList(searched) {
		if !filepath.IsAbs(dir) {
			continue
		}
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("it is not in the PATH %q", searched)
}

// patience is how long what a command left running may hold its output open
// after it ended or was told to.
const patience = 2 * time.Second

// execute runs the step's command in scratch and returns its exit status.
func (r *reproduction) execute(ctx context.Context, s *Step, c *Command) (int, error) {
	root := filepath.Join(r.dir, filepath.FromSlash(s.Place))
	program, err := r.program(ctx, s, root)
	if err != nil {
		return 0, err
	}
	c.Program = program
	name := path.Base(s.Place)
	for _, dir := range []string{"home/" + name, "tmp/" + name, path.Join(s.Place, firstOf(s.Dir, "."))} {
		if err := r.scratch.MkdirAll(dir, 0o777); err != nil {
			return 0, err
		}
	}
	at := filepath.Join(root, filepath.FromSlash(firstOf(s.Dir, ".")))
	if r.opt.Started != nil {
		r.opt.Started(*c, at)
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Args = s.Argv
	cmd.Dir = at
	cmd.Env = environment(s, filepath.Join(r.dir, "home", name), filepath.Join(r.dir, "tmp", name))
	cmd.Stdout, cmd.Stderr = r.opt.Stdout, r.opt.Stderr
	cmd.Cancel = func() error { return endGroup(cmd.Process) }
	cmd.WaitDelay = patience
	r.isolate(cmd)
	if err := cmd.Start(); err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, r.unfit(s, "cannot be started: %v", err)
	}
	err = cmd.Wait()
	// What the command left running must not write while outputs are compared.
	if end := endGroup(cmd.Process); end != nil && !errors.Is(end, os.ErrProcessDone) && !errors.Is(end, os.ErrPermission) {
		return 0, fmt.Errorf("ending what step %d left running: %w", s.Number, end)
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return 0, fmt.Errorf("running step %d: %w", s.Number, err)
	}
	return exitStatus(cmd.ProcessState), nil
}
