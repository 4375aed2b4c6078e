package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/ledger"
)

// copyJSON is what backup and import say about a copy.
type copyJSON struct {
	File       string   `json:"file,omitempty"`
	Dir        string   `json:"dir,omitempty"`
	Bytes      int64    `json:"bytes,omitempty"`
	Entries    int64    `json:"entries"`
	Withheld   int64    `json:"withheld,omitempty"`
	Checkpoint string   `json:"checkpoint"`
	Keys       []string `json:"keys"` // private keys in it
}

func (a *app) backupCmd() *cobra.Command {
	var withKeys bool
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the whole ledger to one file, while writing goes on",
		Long: `Write everything that is recorded to one file, a tar stream, as of the newest
signed checkpoint; - stands for standard output. Others go on appending meanwhile,
also through a running server. Every entry is checked on the way: a backup of a
damaged ledger fails instead of hiding it.

The file holds all entries with their salts, and the secret under which duplicates
are recognized, so keep it as private as the ledger. Private keys are in it with
--keys alone; without them a ledger made from it can be read and proved, and goes
on once they are copied in. Kept content (the folder content) is not in it: copy
that folder separately.

FILE appears when it is complete; until then it is FILE.partial. A file that is
there already is never replaced.`,
		Example: "  retrace backup ledger-1126.backup\n  retrace backup --keys - | age -r age1… >ledger.age",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return cannotUnlessSaid(a.backup(cmd, args[0], withKeys))
		},
	}
	cmd.Flags().BoolVar(&withKeys, "keys", false, "put the private keys into it: whoever reads it can sign as this ledger")
	return cmd
}

// cannotUnlessSaid gives an error without a status of its own that of what
// could not be done.
func cannotUnlessSaid(err error) error {
	var s *statusError
	if err == nil || errors.As(err, &s) {
		return err
	}
	return cannot(err)
}

func (a *app) backup(cmd *cobra.Command, file string, withKeys bool) error {
	if file == "-" {
		info, err := a.writeBackup(cmd.Context(), cmd.OutOrStdout(), withKeys)
		if err != nil {
			return err
		}
		return a.printBackup(cmd.ErrOrStderr(), "standard output", info)
	}
	var info ledger.BackupInfo
	err := writeNew(file, func(w io.Writer) (err error) {
		info, err = a.writeBackup(cmd.Context(), w, withKeys)
		return err
	})
	if err != nil {
		return err
	}
	return a.printBackup(cmd.OutOrStdout(), file, info)
}

// writeNew makes a file that only its owner reads, in one step once fill has
// written all of it. It never replaces one.
func writeNew(file string, fill func(io.Writer) error) (err error) {
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("%s: %w", file, fs.ErrExist)
	}
	partial := file + ".partial"
	f, err := os.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &hinted{err, "another backup is writing it, or one was interrupted: then remove " + partial}
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(partial))
		}
	}()
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	// A link refuses to replace, which a rename does not.
	err = os.Link(partial, file)
	switch {
	case err == nil:
		err = os.Remove(partial)
	case !errors.Is(err, fs.ErrExist): // a file system without links
		err = os.Rename(partial, file)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

// syncDir makes a new name in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeBackup writes a backup of the ledger here, through the server that
// holds it if one does, or of the one behind --server.
func (a *app) writeBackup(ctx context.Context, w io.Writer, withKeys bool) (info ledger.BackupInfo, err error) {
	bar := newProgress(-1, "backup")
	defer bar.finish()
	report := func(p ledger.Progress) { bar.set(p.Done, p.Total) }
	if a.server != "" {
		if withKeys {
			return info, errors.New("private keys are where the ledger is: --keys does not go with --server")
		}
		c, err := a.client()
		if err != nil {
			return info, err
		}
		return streamBackup(ctx, c, w, "", false, report)
	}
	dir, err := a.findDir()
	if err != nil {
		return info, err
	}
	if c, ok, err := discover(ctx, dir); err != nil {
		return info, err
	} else if ok {
		return streamBackup(ctx, c, w, dir, withKeys, report)
	}
	l, err := openLedger(ctx, dir)
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return l.Backup(ctx, w, withKeys, report)
}

func streamBackup(ctx context.Context, c *client.Client, w io.Writer, dir string, withKeys bool, report func(ledger.Progress)) (ledger.BackupInfo, error) {
	r, err := c.Backup(ctx)
	if err != nil {
		return ledger.BackupInfo{}, err
	}
	defer r.Close()
	return ledger.CopyBackup(ctx, w, r, dir, withKeys, report)
}

func (a *app) printBackup(w io.Writer, file string, info ledger.BackupInfo) error {
	if a.output == "json" {
		return printJSON(w, copyJSON{File: file, Bytes: info.Bytes, Entries: info.Checkpoint.Size, Withheld: info.Withheld, Checkpoint: string(info.Checkpoint.Note), Keys: orEmpty(info.Keys)})
	}
	fmt.Fprintf(w, "%s: %s, %d bytes, under the checkpoint\n\n%s\n", file, entriesOf(info.Checkpoint.Size, info.Withheld), info.Bytes, indent(string(info.Checkpoint.Note)))
	if len(info.Keys) > 0 {
		fmt.Fprintf(w, "WITH PRIVATE KEYS (%s): whoever reads it can sign as this ledger\n", strings.Join(info.Keys, ", "))
	} else {
		fmt.Fprintln(w, "without private keys: keep log.key and observer.key elsewhere, or use --keys")
	}
	fmt.Fprintln(w, "kept content is not in it: copy the folder content separately")
	return nil
}

func entriesOf(size, withheld int64) string {
	s := count(size, "entry", "entries")
	if withheld > 0 {
		s += fmt.Sprintf(" (%d without a body)", withheld)
	}
	return s
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// indent sets text off.
func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimRight("  "+printable(strings.TrimSuffix(line, "\n")), " ") + "\n")
	}
	return b.String()
}
