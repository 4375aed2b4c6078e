package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/ingest/snapshot"
	"github.com/retrace-ledger/retrace/schema"
)

func (a *app) snapshotCmd() *cobra.Command {
	var all, list, release bool
	cmd := &cobra.Command{
		Use:   "snapshot DIR",
		Short: "Take and record a content-addressed snapshot of a folder",
		Long: `Keep the content of a folder in the ledger's deduplicating store and record its
digest (retraceTree1) with the files in it. A folder that did not change since is
recorded once. Files that did not change since the last snapshot, as the system
says, are not read again.

With --list, nothing is taken: it lists the snapshots of the folder, whether their
bytes are kept, and why. Those that "retrace serve" takes are kept as the rules
under keep: in retrace.yaml say; --list goes by the rules that were recorded last.
With --release, what they do not keep is let go at once, and its disk space freed.
What a person took by hand, and what an entry mentions, stays.`,
		Example: "  retrace snapshot data\n  retrace snapshot --list data",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			b, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer b.Close()
			if list || release {
				return a.listSnapshots(cmd, b, args[0], release)
			}
			return a.snapshot(cmd, b, args[0], all)
		},
	}
	cmd.Flags().BoolVar(&all, "read-all", false, "read every file, whether or not it changed since the last snapshot")
	cmd.Flags().BoolVar(&list, "list", false, "list what was taken of the folder, and why it is kept")
	cmd.Flags().BoolVar(&release, "release", false, "let go what the keep rules do not keep, and list the rest")
	cmd.MarkFlagsMutuallyExclusive("read-all", "list", "release")
	return cmd
}

// listSnapshots lists the snapshots of dir, after letting go what is not to be
// kept if told to.
func (a *app) listSnapshots(cmd *cobra.Command, b *book, dir string, release bool) error {
	ctx := cmd.Context()
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	source := snapshot.URL(abs)
	store, ok := b.store.(releasing)
	if !ok {
		return cannot(errors.New("what a server keeps is listed on its machine"))
	}
	rules, err := b.statedKeep(ctx, source)
	if err != nil {
		return cannot(err)
	}
	if release {
		if rules == nil {
			return cannot(fmt.Errorf("no keep rules are recorded for %s: nothing goes; write keep: under its source in retrace.yaml", source))
		}
		if _, err := b.keep(ctx, source, *rules); err != nil {
			return cannot(err)
		}
		c, err := store.Collect(ctx, b.needed)
		if err != nil {
			return cannot(err)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "retrace: %s gone, %d bytes freed\n", count(c.Folders, "snapshot", "snapshots"), c.Before-c.After)
	}
	v, err := b.view(0, "")
	if err != nil {
		return err
	}
	all, err := judge(ctx, v, store, source, rules)
	if err != nil {
		return cannot(err)
	}
	if len(all) == 0 {
		return cannot(fmt.Errorf("no snapshot of %s is recorded", source))
	}
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), map[string]any{"source": source, "rules": rules, "snapshots": all})
	}
	t := newTable(cmd.OutOrStdout(), "ENTRY", "TAKEN", "SNAPSHOT", "BYTES", "WHY")
	for _, s := range all {
		state, why := "kept", strings.Join(s.Why, ", ")
		switch {
		case !s.Kept:
			state = "gone"
		case s.Goes:
			state, why = "kept", "goes: no rule keeps it"
		}
		t.row(fmt.Sprint(s.Entry), when(s.At), s.Key.Short(), state, why)
	}
	return t.flush()
}

// snapshot takes a snapshot of dir and moves the cursor of the folder, as a
// watch of it would.
func (a *app) snapshot(cmd *cobra.Command, b *book, dir string, all bool) error {
	ctx := cmd.Context()
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	source := snapshot.URL(abs)
	from, err := b.log.Cursor(ctx, schema.DefaultNamespace, source)
	if err != nil {
		return err
	}
	s, to, err := snapshot.Take(ctx, b.store, abs, from, snapshot.Options{All: all})
	if err != nil {
		return cannot(err)
	}
	entry, changed := int64(-1), s.Type != ""
	if changed {
		r, err := b.record(ctx, source, []schema.Statement{s}, schema.Cursor{Source: source, From: from, To: to})
		if err != nil {
			return err
		}
		entry = r.Entries[0].Index
	}
	v, err := b.view(0, "")
	if err != nil {
		return err
	}
	now, err := v.Name(schema.NameSnapshot + ":" + source)
	if err != nil {
		return err
	}
	r, err := v.Resource(now.Key)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), map[string]any{"key": now.Key, "entry": now.Entry, "changed": changed, "durability": r.Durability})
	}
	if kept := durabilityText(r.Durability); kept != "" {
		defer fmt.Fprintf(cmd.OutOrStdout(), "  kept on %s\n", kept)
	}
	if changed {
		fmt.Fprintf(cmd.OutOrStdout(), "%s  recorded as entry %d\n", now.Key, entry)
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "%s  did not change since entry %d\n", now.Key, now.Entry)
	}
	return nil
}
