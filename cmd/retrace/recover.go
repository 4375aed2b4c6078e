package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/ledger"
)

func (a *app) recoverCmd() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "recover --from MIRROR|BACKUP",
		Short: "Repair what fsck found damaged, byte for byte, from a copy",
		Long: `Make the store anew from every entry of it that is right and, where one is not,
from a copy: a directory that "retrace mirror" keeps, or a file that "retrace
backup" wrote. The result is compared with the newest signed checkpoint that this
ledger or the copy knows before it takes the place of the old store, which is kept
as store.damaged-TIME. A lost checkpoint file is written anew, and so is the index
of duplicates. Entries that only the copy has are taken over: this ledger was put
back to an older state, and goes on where it really was.

What nobody has stays as it is and is listed; fsck goes on reporting it, and the
status is 1. A copy of another log, or of another history of this one, is refused.`,
		Example: "  retrace recover --from /srv/mirror\n  retrace --dir /srv/ledger recover --from ledger-1126.backup",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return cannotUnlessSaid(a.recover(cmd, from))
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "`COPY` to repair from: a mirror's directory or a backup")
	cmd.MarkFlagRequired("from")
	return cmd
}

func (a *app) recover(cmd *cobra.Command, from string) error {
	ctx := cmd.Context()
	dir, err := a.findDir()
	if err != nil {
		return err
	}
	if _, ok, err := discover(ctx, dir); err != nil && !errors.Is(err, client.ErrNoServer) {
		return err
	} else if ok {
		return fmt.Errorf("%w by a server: stop it first, recover needs the ledger for itself", ledger.ErrLocked)
	}
	v, _, err := readLogKey(filepath.Join(dir, logVKeyFile))
	if err != nil {
		return err
	}
	bar := newProgress(-1, "recover")
	defer bar.finish()
	got, err := ledger.Recover(ctx, dir, v, from, func(p ledger.Progress) { bar.set(p.Done, p.Total) })
	bar.finish()
	if err != nil {
		return falseIfSaid(err)
	}
	left, err := stillDamaged(ctx, dir, v)
	if err != nil {
		return err
	}
	if err := a.printRecovery(cmd, dir, from, got, left); err != nil {
		return err
	}
	if got.LostAll > 0 || len(left) > 0 {
		return isFalse(fmt.Errorf("%s is repaired except for %s", dir, count(max(got.LostAll, int64(len(left))), "finding", "findings")))
	}
	return nil
}

// stillDamaged is what fsck finds after a repair.
func stillDamaged(ctx context.Context, dir string, v note.Verifier) ([]ledger.Finding, error) {
	bar := newProgress(-1, "fsck")
	defer bar.finish()
	var left []ledger.Finding
	for f, err := range ledger.Fsck(ctx, dir, v, func(p ledger.Progress) { bar.set(p.Done, p.Total) }) {
		if err != nil {
			return nil, fmt.Errorf("checking what was repaired: %w", err)
		}
		left = append(left, f)
	}
	return left, nil
}

func (a *app) printRecovery(cmd *cobra.Command, dir, from string, got ledger.Recovery, left []ledger.Finding) error {
	w := cmd.OutOrStdout()
	if a.output == "json" {
		out := map[string]any{
			"dir": dir, "from": from, "ok": got.LostAll == 0 && len(left) == 0, "size": got.Checkpoint.Size, "had": got.Had, "copied": got.Copied,
			"lost": findings(got.Lost), "lostAll": got.LostAll, "kept": got.Kept, "checkpointFile": got.File, "dedupKey": got.Secret,
			"cursors": got.Cursors, "checkpoint": string(got.Checkpoint.Note), "findings": findings(left),
		}
		return printJSON(w, out)
	}
	fmt.Fprintf(w, "%s: size %d, of which %s came from %s\n", dir, got.Checkpoint.Size, count(got.Copied, "entry", "entries"), from)
	if got.Checkpoint.Size > got.Had {
		fmt.Fprintf(w, "  this ledger knew of size %d only: it was put back, and goes on from size %d\n", got.Had, got.Checkpoint.Size)
	}
	if got.File {
		fmt.Fprintf(w, "  the checkpoint file was written anew\n")
	}
	switch got.Secret {
	case "copy":
		fmt.Fprintln(w, "  dedup.key is that of the copy")
	case "new":
		fmt.Fprintln(w, "  dedup.key was lost and is new: duplicates are recognized as before, except of erased entries, which can be recorded again")
	}
	fmt.Fprintf(w, "  %s\n", cursorsKept(got.Cursors))
	if got.Kept != "" {
		fmt.Fprintf(w, "  the store as it was is in %s; remove it when nobody wants to look at it\n", got.Kept)
	}
	for _, f := range got.Lost {
		fmt.Fprintf(w, "lost: %s: %s\n", printable(f.Where), printable(f.Problem))
	}
	if more := got.LostAll - int64(len(got.Lost)); more > 0 {
		fmt.Fprintf(w, "lost: %d more\n", more)
	}
	for _, f := range left {
		fmt.Fprintf(w, "fsck: %s: %s\n", printable(f.Where), printable(f.Problem))
	}
	if len(left) == 0 && got.LostAll == 0 {
		fmt.Fprintf(w, "OK: %s is whole\n", dir)
	}
	return nil
}

func cursorsKept(n int) string {
	if n == 0 {
		return "no cursor is left: sources are read from their beginning, and nothing is recorded twice"
	}
	return count(n, "source goes", "sources go") + " on from where it was read"
}

func findings(fs []ledger.Finding) []findingJSON {
	out := []findingJSON{}
	for _, f := range fs {
		out = append(out, findingJSON{"ledger", f.Where, f.Problem})
	}
	return out
}
