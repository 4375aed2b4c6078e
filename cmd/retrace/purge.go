package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/verify"
)

// outOfReach are the copies of an erased body that no purge here removes, with
// what to do about each (docs/erase.md).
var outOfReach = []struct{ what, remedy string }{
	{"backups of this folder", "take a new one and destroy those of before"},
	{"mirrors and copies of the ledger elsewhere", "have each fetch the ledger anew, or destroy it"},
	{"bundles that were handed out", "ask their holders; they verify as before, and have to"},
	{"indexes of this ledger in the cache folders of users and of other machines", "each is built anew by the next command that uses it"},
	{"folders that were restored, here under restorations/ or elsewhere", "remove those that repeat it"},
	{"kept bytes in content/, which are encrypted under a key beside them", "no piece of them is removed yet; those listed above were mentioned by nothing else"},
	{"snapshots of the file system, swap, and blocks that the disk has taken out of use", "only whoever runs the machine can tell"},
}

// purge writes the store anew and builds the lineage index from nothing.
func purge(ctx context.Context, dir string) error {
	vkey, err := os.ReadFile(filepath.Join(dir, logVKeyFile))
	if err != nil {
		return err
	}
	v, err := verify.ParseLogKey(vkey, "")
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, logVKeyFile), err)
	}
	signer, err := new(logKey).signer(dir, v.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s has no %s: %w", dir, logKeyFile, ledger.ErrReadOnly)
	}
	if err != nil {
		return err
	}
	bar := newProgress(-1, "rewriting the store")
	err = ledger.Purge(ctx, dir, signer, func(p ledger.Progress) { bar.set(p.Done, p.Total) })
	bar.finish()
	if err != nil {
		return err
	}
	l, err := ledger.Open(dir, signer, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	for _, name := range []string{lineageDir, lineageDir + ".new"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	g, err := openGraph(ctx, filepath.Join(dir, lineageDir), l)
	if err != nil {
		return err
	}
	return errors.Join(g.Close(), l.Close())
}

// printErased says what was done and what was not.
func (a *app) printErased(cmd *cobra.Command, dir string, d *erased, purged bool) error {
	w := cmd.OutOrStdout()
	if a.output == "json" {
		out := struct {
			*erased
			Purged     bool     `json:"purged"`
			OutOfReach []string `json:"outOfReach"`
		}{erased: d, Purged: purged}
		for _, o := range outOfReach {
			out.OutOfReach = append(out.OutOfReach, o.what)
		}
		return printJSON(w, out)
	}
	if d != nil {
		fmt.Fprintf(w, "entry %d: erases entry %d\n", d.By, d.Entry)
	}
	if purged {
		fmt.Fprintf(w, "%s: store and lineage index are rewritten\n", dir)
	} else {
		fmt.Fprintln(w, "its bytes are still in the files of the store and of the index: `retrace erase --purge` rewrites them, with the server stopped")
	}
	if d != nil {
		for _, k := range d.Content {
			fmt.Fprintf(w, "still kept in content/: %s\n", k)
		}
	}
	fmt.Fprintln(w, "out of reach:")
	for _, o := range outOfReach {
		fmt.Fprintf(w, "  %s: %s\n", o.what, o.remedy)
	}
	return nil
}
