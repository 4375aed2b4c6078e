package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/verify"
)

func (a *app) importCmd() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Make a ledger from a backup, in an empty directory",
		Long: `Make a ledger in --dir (or .retrace), which has to be empty or not to exist, from
a file that "retrace backup" wrote; - stands for standard input. Every body is
compared with its commitment and the tree over all of them with the signed
checkpoint before anything of it counts. If it is interrupted, run it again.

With the private keys, in the backup or copied into the directory afterwards, the
ledger goes on where the backup ends. Do that only if nobody went on with the
ledger that it is of: two that go on are a fork, which everybody can prove.

--key says which log it has to be of; without it, the backup says so itself.`,
		Example: "  retrace --dir /srv/ledger import ledger-1126.backup\n  age -d -i id.txt ledger.age | retrace --dir /srv/ledger import - --key log.vkey",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return cannotUnlessSaid(a.importBackup(cmd, args[0], key))
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "the log's public `KEY`: a file (log.vkey or log.pub), or the verifier key itself")
	return cmd
}

func (a *app) importBackup(cmd *cobra.Command, file, key string) error {
	dir := a.dir
	if dir == "" {
		dir = dirName
	}
	bar := newProgress(-1, "import")
	defer bar.finish()
	opts := &ledger.CopyOptions{Report: func(p ledger.Progress) { bar.set(p.Done, p.Total) }}
	if key != "" {
		v, _, err := readLogKey(key)
		if err != nil {
			return err
		}
		opts.Key = v
	}
	var in io.Reader = cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	info, err := ledger.Import(cmd.Context(), in, dir, opts)
	bar.finish()
	if err != nil {
		return falseIfSaid(err)
	}
	w := cmd.OutOrStdout()
	if a.output == "json" {
		return printJSON(w, copyJSON{Dir: dir, Entries: info.Checkpoint.Size, Withheld: info.Withheld, Checkpoint: string(info.Checkpoint.Note), Keys: orEmpty(info.Keys)})
	}
	fmt.Fprintf(w, "%s: %s, as signed by the checkpoint\n\n%s\n", dir, entriesOf(info.Checkpoint.Size, info.Withheld), indent(string(info.Checkpoint.Note)))
	if len(info.Keys) == 0 {
		fmt.Fprintf(w, "it can be read and proved; to go on with it, copy %s and %s into it\n", logKeyFile, observerKey)
	} else {
		fmt.Fprintf(w, "with its private keys (%s) it goes on from here\n", strings.Join(info.Keys, ", "))
	}
	return nil
}

// falseIfSaid gives what was checked and is not so its status: a copy that is
// damaged, of another log, or of another history.
func falseIfSaid(err error) error {
	var backup *ledger.BackupError
	var damage *ledger.DamageError
	var fork *ledger.ForkError
	var behind *ledger.BehindError
	var no *verify.FalseError
	if errors.As(err, &backup) || errors.As(err, &damage) || errors.As(err, &fork) || errors.As(err, &behind) || errors.As(err, &no) {
		return isFalse(err)
	}
	return err
}

// readLogKey reads the public key of a log, and the text of log.vkey for it.
func readLogKey(key string) (note.Verifier, []byte, error) {
	text := []byte(key)
	if read, err := os.ReadFile(key); err == nil {
		text = read
	} else if !strings.Contains(key, "+") {
		return nil, nil, err
	}
	v, err := verify.ParseLogKey(text, "")
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", filepath.Base(key), err)
	}
	return v, []byte(strings.TrimSpace(string(text)) + "\n"), nil
}
