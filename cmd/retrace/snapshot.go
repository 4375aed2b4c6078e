package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/ingest/snapshot"
	"github.com/retrace-ledger/retrace/schema"
)

func (a *app) snapshotCmd() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "snapshot DIR",
		Short: "Take and record a content-addressed snapshot of a folder",
		Long: `Keep the content of a folder in the ledger's deduplicating store and record its
digest (retraceTree1) with the files in it. A folder that did not change since is
recorded once.`,
		Example: "  retrace snapshot data",
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
			return a.snapshot(cmd, b, args[0], all)
		},
	}
	cmd.Flags().BoolVar(&all, "read-all", false, "read every file, whether or not it changed since the last snapshot")
	return cmd
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
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), map[string]any{"key": now.Key, "entry": now.Entry, "changed": changed})
	}
	if changed {
		fmt.Fprintf(cmd.OutOrStdout(), "%s  recorded as entry %d\n", now.Key, entry)
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "%s  did not change since entry %d\n", now.Key, now.Entry)
	}
	return nil
}
