package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/verify"
)

type findingJSON struct {
	Part    string `json:"part"` // ledger, lineage or content
	Where   string `json:"where"`
	Problem string `json:"problem"`
}

func (a *app) fsckCmd() *cobra.Command {
	var withContent bool
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check every byte of the ledger, and its lineage index, and with --content what it keeps",
		Long: `Check a ledger on this machine, reading every byte from disk again: bodies
against leaves, leaves against tiles, tiles against the signed checkpoint, and the
lineage index against one built anew. It needs log.vkey and no private key, and
also looks at a ledger that refuses to open.`,
		Example: "  retrace fsck\n  retrace --dir /mnt/copy fsck --content",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			dir, err := a.findDir()
			if err != nil {
				return err
			}
			findings, err := fsck(cmd.Context(), dir, withContent)
			if err != nil {
				return cannot(err)
			}
			return a.printFindings(cmd, dir, findings)
		},
	}
	cmd.Flags().BoolVar(&withContent, "content", false, "read all kept content again too")
	return cmd
}

func fsck(ctx context.Context, dir string, withContent bool) ([]findingJSON, error) {
	findings, err := fsckLedger(ctx, dir)
	if err != nil {
		return nil, err
	}
	if len(findings) == 0 { // an index is only as right as the ledger it follows
		more, err := fsckLineage(ctx, dir)
		if err != nil {
			return nil, err
		}
		findings = append(findings, more...)
	}
	if withContent {
		more, err := fsckContent(ctx, dir)
		if err != nil {
			return nil, err
		}
		findings = append(findings, more...)
	}
	return findings, nil
}

func fsckLedger(ctx context.Context, dir string) ([]findingJSON, error) {
	vkey, err := os.ReadFile(filepath.Join(dir, logVKeyFile))
	if err != nil {
		return nil, err
	}
	v, err := verify.ParseLogKey(vkey, "")
	if err != nil {
		return nil, err
	}
	bar := newProgress(-1, "ledger")
	defer bar.finish()
	var out []findingJSON
	for f, err := range ledger.Fsck(ctx, dir, v, func(p ledger.Progress) { bar.set(p.Done, p.Total) }) {
		if err != nil {
			return nil, err
		}
		out = append(out, findingJSON{"ledger", f.Where, f.Problem})
	}
	return out, nil
}

// fsckLineage compares the index with one that is built anew beside it.
func fsckLineage(ctx context.Context, dir string) (_ []findingJSON, err error) {
	at := filepath.Join(dir, lineageDir)
	if _, err := os.Stat(at); errors.Is(err, os.ErrNotExist) {
		return nil, nil // it comes back by itself
	}
	l, err := openLedger(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	tmp, err := os.MkdirTemp("", "retrace-lineage-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	have := at
	if !writable(dir) {
		have = filepath.Join(tmp, "have")
		if err := os.CopyFS(have, os.DirFS(at)); err != nil {
			return nil, err
		}
	}
	err = compareLineage(ctx, l, have, filepath.Join(tmp, "fresh"))
	var differs *lineage.DifferenceError
	var unusable *lineage.UnusableError
	switch {
	case errors.As(err, &differs):
		return []findingJSON{{"lineage", at, differs.Error() + lineageRemedy}}, nil
	case errors.As(err, &unusable):
		return []findingJSON{{"lineage", at, unusable.Err.Error() + lineageRemedy}}, nil
	}
	return nil, err
}

const lineageRemedy = " (nothing is lost: delete this folder, and the index comes back from the ledger)"

// compareLineage compares the index in dir, brought up to date, with one built
// in fresh.
func compareLineage(ctx context.Context, l *ledger.Ledger, dir, fresh string) error {
	have, err := lineage.Inspect(ctx, dir, l, verify.Signers, verify.Trusted)
	if err != nil {
		return err
	}
	defer have.Close()
	if err := have.Follow(ctx, l); err != nil {
		return err
	}
	want, err := openGraph(ctx, fresh, l)
	if err != nil {
		return err
	}
	defer want.Close()
	return have.Compare(ctx, want)
}

func fsckContent(ctx context.Context, dir string) (_ []findingJSON, err error) {
	s, err := openContent(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
	var out []findingJSON
	_, err = s.Verify(ctx, func(f content.Finding) {
		where := string(f.Key)
		if where == "" {
			where = filepath.Join(dir, contentDir)
		}
		out = append(out, findingJSON{"content", where, f.Reason})
	})
	return out, err
}

func (a *app) printFindings(cmd *cobra.Command, dir string, findings []findingJSON) error {
	if a.output == "json" {
		if findings == nil {
			findings = []findingJSON{}
		}
		if err := printJSON(cmd.OutOrStdout(), map[string]any{"dir": dir, "ok": len(findings) == 0, "findings": findings}); err != nil {
			return err
		}
	} else if len(findings) == 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "OK: %s is whole\n", dir)
	} else {
		for _, f := range findings {
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s: %s\n", f.Part, printable(f.Where), printable(f.Problem))
		}
	}
	if len(findings) > 0 {
		return isFalse(fmt.Errorf("%s is damaged: %s, the first in %s", dir, count(len(findings), "finding", "findings"), printable(findings[0].Where)))
	}
	return nil
}
