package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/restore"
	"github.com/retrace-ledger/retrace/schema"
)

func (a *app) reproduceCmd() *cobra.Command {
	var q asked
	var yes, verbose bool
	cmd := &cobra.Command{
		Use:   "reproduce REF",
		Short: "Run the recorded steps again and compare what they make, digest by digest",
		Long: `Lay out what the recorded steps of a resource need, run them again in order in a
folder of their own, and compare every output: BIT_EXACT, DIVERGED with the first
step and output that differ, or NOT_REPLAYABLE with the reason. The verdict is
recorded.

This runs commands that the ledger names. They are shown first; only steps signed
by a trusted key or by this ledger's observer run, without network where the
system allows it.`,
		Example: "  retrace reproduce forecast@1\n  retrace reproduce forecast@1 --yes -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			b, v, ref, err := a.ask(cmd.Context(), q, args[0])
			if err != nil {
				return err
			}
			defer b.Close()
			src := b.sources()
			plan, err := restore.NewPlan(cmd.Context(), v, ref, src, nil)
			if err != nil {
				return cannot(err)
			}
			opt := &restore.ReproduceOptions{
				Confirm: func(commands []restore.Command) (bool, error) { return confirm(cmd, commands, yes) },
				Trusted: func(s restore.Step) bool { return trusted(s.Evidence) },
			}
			if self, err := os.Executable(); err == nil {
				opt.Programs = []string{self} // the demo's steps ran this program
			}
			if verbose {
				opt.Stdout, opt.Stderr = cmd.ErrOrStderr(), cmd.ErrOrStderr()
			}
			result, err := reproduce(cmd.Context(), plan, src, opt)
			if err != nil {
				return cannot(err)
			}
			return a.finishReproduce(cmd, b, result)
		},
	}
	q.flags(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "run the commands without asking")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show what the commands print")
	return cmd
}

// reproduce lays out what plan needs in a temporary folder and runs it there.
func reproduce(ctx context.Context, plan *restore.Plan, src restore.Sources, opt *restore.ReproduceOptions) (*restore.Result, error) {
	dir, err := os.MkdirTemp("", "retrace-reproduce-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if _, err := layOut(ctx, plan, dir, src, &restore.RestoreOptions{NeededOnly: true}); err != nil {
		return nil, err
	}
	return restore.Reproduce(ctx, plan, dir, src, opt)
}

// confirm shows the commands that are about to run, and asks on a terminal.
func confirm(cmd *cobra.Command, commands []restore.Command, yes bool) (bool, error) {
	w := cmd.ErrOrStderr()
	fmt.Fprintf(w, "retrace: about to run %s:\n", count(len(commands), "recorded command", "recorded commands"))
	for _, c := range commands {
		fmt.Fprintf(w, "  %d. %s  (entry %d, %s)\n", c.Step, c, c.Entry, c.Evidence)
	}
	if yes {
		return true, nil
	}
	in, isFile := cmd.InOrStdin().(*os.File)
	if !isFile || !isTerminal(in) {
		return false, errors.New("not run: there is no terminal to ask on; give --yes to run these commands")
	}
	fmt.Fprint(w, "Run them? [y/N] ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}

func (a *app) finishReproduce(cmd *cobra.Command, b *book, r *restore.Result) error {
	s, err := r.Statement()
	if err != nil {
		return err
	}
	entry := int64(-1)
	if b.observer != nil {
		receipt, err := b.record(cmd.Context(), "reproduce", []schema.Statement{s})
		if err != nil {
			return cannot(fmt.Errorf("%s; recording the verdict: %w", r.Verdict, err))
		}
		entry = receipt.Entries[0].Index
	}
	w := cmd.OutOrStdout()
	if a.output == "json" {
		if err := printJSON(w, map[string]any{
			"ref": r.Ref, "verdict": r.Verdict, "reason": r.Reason, "isolation": r.Isolation, "platform": r.Platform,
			"steps": append([]schema.ReproducedStep{}, r.Steps...), "entry": entry,
		}); err != nil {
			return err
		}
	} else {
		t := newTable(w, "STEP", "OUTPUT", "RECORDED", "MADE", "")
		for _, s := range r.Steps {
			for _, o := range s.Outputs {
				same := "same"
				if o.Made != o.Recorded {
					same = "DIFFERS"
				}
				t.row(fmt.Sprint(s.Step), o.Path, schema.Key(o.Recorded).Short(), schema.Key(o.Made).Short(), same)
			}
		}
		if err := t.flush(); err != nil {
			return err
		}
		fmt.Fprintf(w, "%s: %s\nisolation: %s\n", r.Verdict, printable(r.Reason), r.Isolation)
		if entry >= 0 {
			fmt.Fprintf(w, "recorded as entry %d\n", entry)
		}
	}
	switch r.Verdict {
	case schema.BitExact:
		return nil
	case schema.Diverged:
		return isFalse(nil)
	}
	return cannot(nil)
}
