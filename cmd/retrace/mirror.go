package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/schema"
)

func (a *app) mirrorCmd() *cobra.Command {
	var key string
	var once bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "mirror URL",
		Short: "Keep a checked copy of another ledger, and raise the alarm if it forks",
		Long: `Follow the ledger at URL into --dir: its signed checkpoints, its tiles (C2SP
tlog-tiles), and the bodies that it gives to the holder of RETRACE_TOKEN or to
anybody. Each new checkpoint has to extend the one before. A log that signed two
histories is a fork: both notes are written to the file "fork" in --dir, the copy
stays as it is, and the status is 1.

The first time, --key has to say which log it is: log.vkey of the ledger, from
whoever runs it and not over the same line. Afterwards the key in --dir counts.

The copy is a ledger's directory without private keys: fsck, lineage, log and
prove work in it, and "retrace recover --from" repairs the original from it. Kept
content is not mirrored.`,
		Example: "  retrace --dir /srv/mirror mirror https://ledger.example.com --key log.vkey\n  retrace --dir /srv/mirror mirror http://127.0.0.1:8470 --once",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if a.dir == "" {
				return cannot(errors.New("--dir is missing: the directory of the copy"))
			}
			if interval < time.Second {
				return cannot(fmt.Errorf("--interval %s: want at least 1s", interval))
			}
			return cannotUnlessSaid(a.mirror(cmd, args[0], key, once, interval))
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "the log's public `KEY`: a file (log.vkey or log.pub), or the verifier key itself")
	cmd.Flags().BoolVar(&once, "once", false, "end when the copy holds what the log's checkpoint covers")
	cmd.Flags().DurationVar(&interval, "interval", 10*time.Second, "how long to rest between looks, at least 1s")
	return cmd
}

func (a *app) mirror(cmd *cobra.Command, url, key string, once bool, interval time.Duration) error {
	ctx := cmd.Context()
	c, err := client.New(url, os.Getenv("RETRACE_TOKEN"))
	if err != nil {
		return err
	}
	v, err := mirrorKey(a.dir, key)
	if err != nil {
		return err
	}
	for {
		next, err := a.mirrorOnce(cmd, c, v)
		if next != nil {
			v = next
		}
		var wrong *statusError
		switch {
		case once || err != nil && ctx.Err() != nil:
			return err
		case errors.As(err, &wrong): // what is wrong with the log does not pass
			return err
		case err != nil:
			fmt.Fprintf(os.Stderr, "retrace: %s\n", printable(err.Error()))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
	}
}

// mirrorKey is the key that the copy in dir is of: on first use the one that
// was given, and from then on the one that stands there.
func mirrorKey(dir, key string) (note.Verifier, error) {
	at := filepath.Join(dir, logVKeyFile)
	have, _, err := readLogKey(at)
	first := errors.Is(err, fs.ErrNotExist)
	if err != nil && !first {
		return nil, err
	}
	if key == "" && first {
		return nil, &hinted{fmt.Errorf("%s holds no mirror yet, and --key does not say of which log it shall be", dir),
			"ask whoever runs the ledger for " + logVKeyFile + " from its directory, over another line than the one that is mirrored, and name it with --key"}
	}
	if key == "" {
		return have, nil
	}
	v, text, err := readLogKey(key)
	if err != nil {
		return nil, err
	}
	if !first {
		if _, _, err := readLogKey(filepath.Join(dir, keptKey(v))); err == nil && v.Name() == have.Name() {
			return have, nil // a rotation led on from it
		}
		if v.Name() != have.Name() || v.KeyHash() != have.KeyHash() {
			return nil, isFalse(fmt.Errorf("%s mirrors %s+%08x, and --key is %s+%08x", dir, have.Name(), have.KeyHash(), v.Name(), v.KeyHash()))
		}
		return v, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("*\n"), 0o644); err != nil {
		return nil, err
	}
	return v, os.WriteFile(at, text, 0o644)
}

// mirrorOnce is one pass. Where the log's key was rotated it returns the one in
// force, which has taken the place of the other in the copy.
func (a *app) mirrorOnce(cmd *cobra.Command, c *client.Client, v note.Verifier) (next note.Verifier, err error) {
	bar := newProgress(-1, "mirror")
	defer bar.finish()
	opts := &ledger.CopyOptions{Report: func(p ledger.Progress) { bar.set(p.Done, p.Total) }}
	got, err := ledger.Mirror(cmd.Context(), a.dir, v, remoteLog{c}, opts)
	if err != nil {
		told := tellServer(cmd.Context(), c, err)
		err = falseIfSaid(err)
		var fork *ledger.ForkError
		if errors.As(err, &fork) {
			err = &hinted{err, told + "; both notes are in " + filepath.Join(a.dir, "fork") + "; the copy stays as it was. docs/runbook.md#fork says what they prove"}
		}
		var behind *ledger.BehindError
		if errors.As(err, &behind) {
			err = &hinted{err, told + ". docs/runbook.md#rolled-back says what to do there"}
		}
		return nil, err
	}
	bar.finish()
	if got.LogKey != "" {
		if next, err = a.takeRotation(v, got.LogKey); err != nil {
			return nil, err
		}
	}
	if a.output == "json" {
		return next, printJSON(cmd.OutOrStdout(), map[string]any{"dir": a.dir, "size": got.Checkpoint.Size, "new": got.New, "withheld": got.Withheld, "checkpoint": string(got.Checkpoint.Note)})
	}
	if got.New > 0 || cmd.Flags().Changed("once") {
		fmt.Fprintf(cmd.OutOrStdout(), "%s: size %d, %s new\n", a.dir, got.Checkpoint.Size, entriesOf(got.New, got.Withheld))
	}
	return next, nil
}

// keptKey is the file that keeps a log key which is not in force any more.
func keptKey(v note.Verifier) string { return fmt.Sprintf("log-%08x.vkey", v.KeyHash()) }

// takeRotation makes the key that a rotation put into force the one that the copy
// is of. The one before is kept beside it.
func (a *app) takeRotation(old note.Verifier, vkey string) (note.Verifier, error) {
	at := filepath.Join(a.dir, logVKeyFile)
	before, err := os.ReadFile(at)
	if err != nil {
		return nil, err
	}
	kept := filepath.Join(a.dir, keptKey(old))
	if err := writeWhole(kept, before, 0o644); err != nil {
		return nil, err
	}
	if err := writeWhole(at, []byte(vkey+"\n"), 0o644); err != nil {
		return nil, err
	}
	next, _, err := readLogKey(at)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "retrace: the log's key was rotated: %s is now %s+%08x, and the one before is kept in %s\n", at, next.Name(), next.KeyHash(), kept)
	return next, nil
}

// tellServer shows the server the checkpoint that its log contradicts, so that
// it writes no more, and says what came of it.
func tellServer(ctx context.Context, c *client.Client, found error) string {
	var fork *ledger.ForkError
	var behind *ledger.BehindError
	var held []byte
	switch {
	case errors.As(found, &fork):
		held = fork.Old
	case errors.As(found, &behind):
		held = behind.Ours
	default:
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	switch err := c.Confront(ctx, held); {
	case errors.Is(err, client.ErrContradicted):
		return "the server was shown the note that is held here, and writes no more"
	case err != nil:
		return fmt.Sprintf("the server could not be told (%v): put the note that is held here at `evidence` in its ledger's directory", err)
	default:
		return "the server, shown the note that is held here, holds it now"
	}
}

// answerTime is how long one answer of a mirrored log may take.
const answerTime = 2 * time.Minute

// remoteLog is a ledger.RemoteLog behind HTTP.
type remoteLog struct{ c *client.Client }

// Checkpoint implements ledger.RemoteLog.
func (r remoteLog) Checkpoint(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return r.c.Checkpoint(ctx)
}

// Tile implements ledger.RemoteLog.
func (r remoteLog) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	raw, err := r.c.Tile(ctx, t)
	if errors.Is(err, client.ErrNotServed) {
		err = fmt.Errorf("%w: %w", ledger.ErrNotFound, err)
	}
	return raw, err
}

// Entries implements ledger.RemoteLog.
func (r remoteLog) Entries(ctx context.Context, from, to int64) iter.Seq2[schema.Entry, error] {
	return func(yield func(schema.Entry, error) bool) {
		for e, err := range r.c.EntriesFrom(ctx, from, to) {
			if errors.Is(err, client.ErrNotServed) {
				err = fmt.Errorf("%w: %w", ledger.ErrNoBodies, err)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// Cosigned gives ledger.Mirror the newest cosigned checkpoint.
func (r remoteLog) Cosigned(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return r.c.Cosigned(ctx)
}
