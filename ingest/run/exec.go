package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

// Ended says how a command ended.
type Ended struct {
	Exit              int // 128+n for signal n
	Started, Finished time.Time
}

// grace is how long a command has to end after it was told to, when the
// context is done.
const grace = 10 * time.Second

// Exec runs the command and returns how it ended; a command that failed is no
// error. SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to it meanwhile. A
// program that cannot be run is a *[CommandError].
func (p *Prepared) Exec(ctx context.Context) (Ended, error) {
	cmd := exec.CommandContext(ctx, p.tool, p.opts.Argv[1:]...)
	cmd.Args[0] = p.opts.Argv[0]
	cmd.Dir = p.dir
	cmd.Env = append(slices.DeleteFunc(slices.Clone(p.env), func(kv string) bool {
		return strings.HasPrefix(kv, EnvRun+"=")
	}), EnvRun+"="+p.Run)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.stdio()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, forwarded()...)
	defer signal.Stop(signals)

	e := Ended{Started: now()}
	if err := cmd.Start(); err != nil {
		return e, commandError(p.opts.Argv[0], err)
	}
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		forward(cmd.Process, signals, done)
	}()
	err := cmd.Wait()
	close(done)
	<-stopped
	e.Finished = now()
	if cmd.ProcessState == nil {
		return e, fmt.Errorf("waiting for %s: %w", p.opts.Argv[0], err)
	}
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) && ctx.Err() == nil && !errors.Is(err, exec.ErrWaitDelay) {
		return e, fmt.Errorf("passing on what %s reads or writes: %w", p.opts.Argv[0], err)
	}
	e.Exit = exitStatus(cmd.ProcessState)
	return e, nil
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

func (p *Prepared) stdio() (io.Reader, io.Writer, io.Writer) {
	in, out, err := p.opts.Stdin, p.opts.Stdout, p.opts.Stderr
	if in == nil {
		in = os.Stdin
	}
	if out == nil {
		out = os.Stdout
	}
	if err == nil {
		err = os.Stderr
	}
	return in, out, err
}

// forwarded are the signals that are passed on.
func forwarded() []os.Signal {
	return []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
}

// forward passes signals on until done. What a person types at a terminal
// reaches the command without us, since it is in the same process group: it
// must not arrive twice, or an orderly end looks like a repeated demand.
func forward(proc *os.Process, signals <-chan os.Signal, done <-chan struct{}) {
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	for {
		select {
		case <-done:
			return
		case s := <-signals:
			if terminal && (s == syscall.SIGINT || s == syscall.SIGQUIT) {
				continue
			}
			_ = proc.Signal(s) // it may have ended just now
		}
	}
}

func exitStatus(s *os.ProcessState) int {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return s.ExitCode()
}
