package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

type nameJSON struct {
	Name    string `json:"name"`
	Key     string `json:"key"`
	At      string `json:"at"`
	Entry   int64  `json:"entry"`
	Old     string `json:"old,omitempty"`
	Forced  bool   `json:"forced,omitempty"`
	Deleted bool   `json:"deleted,omitempty"`

	Evidence schema.Evidence `json:"evidence"`
}

func (a *app) namesCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "names REF",
		Short:   "List the names that ever pointed at a resource",
		Example: "  retrace names sha256:0f3a77c1\n  retrace names ./model.bin",
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
			v, err := b.view(0, "")
			if err != nil {
				return err
			}
			ref, err := resolve(cmd.Context(), v, args[0])
			if err != nil {
				return err
			}
			names, err := v.NamesOf(ref.Start.Key)
			if err != nil {
				return err
			}
			return a.printNames(cmd, names)
		},
	}
}

func (a *app) historyCmd() *cobra.Command {
	var period span
	cmd := &cobra.Command{
		Use:   "history NAME",
		Short: "Show what a name pointed at, when, by whom and from which commit",
		Long: `Show what a name pointed at, when, by whom it was moved and from which commit, as far
as that is recorded: of a workload the manager of its fields and the commit that was
applied, of a model the commit of its step, of anything else who told of it. A NAME has
its kind in front: model:NAME@VERSION, git:REPOSITORY#refs/heads/BRANCH,
image:REPOSITORY:TAG, snapshot:SOURCE, workload:CLUSTER/NAMESPACE/KIND/NAME. Part of
one is enough where only one name begins with it, and so is git:BRANCH. A model without
a version is all its versions.

With --since and --until, the changes between two times, and how many there are in all.`,
		Example: "  retrace history model:forecast@3\n  retrace history workload:prod/ml/Deployment/api --since 2026-11-01 -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			var within lineage.Filter
			if err := period.filter(&within); err != nil {
				return err
			}
			b, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer b.Close()
			v, err := b.view(0, "")
			if err != nil {
				return err
			}
			names, err := completeName(v, args[0])
			if err != nil {
				return err
			}
			var history []lineage.Pointed
			for _, name := range names {
				h, err := v.History(name)
				if err != nil {
					return err
				}
				history = append(history, h...)
			}
			all := len(history)
			history = slices.DeleteFunc(history, func(p lineage.Pointed) bool {
				return p.At.Before(within.Since) || !within.Until.IsZero() && !p.At.Before(within.Until)
			})
			changes := make([]changeJSON, len(history))
			for i, p := range history {
				if changes[i], err = b.changeOf(cmd.Context(), v, p); err != nil {
					return err
				}
			}
			return a.printHistory(cmd, changes, all)
		},
	}
	period.flags(cmd)
	return cmd
}

// changeJSON is one move of a name, with who made it and from which commit, as far
// as that is recorded.
type changeJSON struct {
	nameJSON
	By     string   `json:"by,omitempty"`
	Commit string   `json:"commit,omitempty"` // gitCommit
	Images []string `json:"images,omitempty"` // of a workload
	at     time.Time
}

func (b *book) changeOf(ctx context.Context, v *lineage.View, p lineage.Pointed) (changeJSON, error) {
	c := changeJSON{nameJSON: toNameJSON(p), at: p.At}
	info, err := v.Entry(p.Entry)
	if err != nil {
		return c, err
	}
	switch c.By = info.Source; {
	case info.State != schema.Present:
	case strings.HasPrefix(c.Name, schema.NameWorkload+":") && info.PredicateType == schema.DeploymentV1:
		d, err := b.deployment(ctx, p.Entry)
		if err != nil {
			return c, err
		}
		if d.Changed != nil {
			c.By = d.Changed.By
			if d.Changed.User != "" {
				c.By = d.Changed.User + " by " + c.By
			}
		}
		if d.Revision != nil {
			c.Commit = schema.GitCommit + ":" + d.Revision.Commit
		}
		for _, r := range d.Containers {
			c.Images = append(c.Images, r.Image)
		}
	case strings.HasPrefix(c.Name, schema.NameModel+":"):
		made, err := v.Producers(ctx, schema.Start{Key: p.Key, Run: p.Run})
		if err != nil {
			return c, err
		}
		for _, s := range made {
			for _, u := range s.Step.Uses {
				if u.Role == schema.RoleCode && u.Key.Algorithm() == schema.GitCommit {
					c.Commit = string(u.Key)
				}
			}
		}
	}
	return c, nil
}

func (a *app) printHistory(cmd *cobra.Command, changes []changeJSON, all int) error {
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), changes)
	}
	t := newTable(cmd.OutOrStdout(), "NAME", "POINTED AT", "SINCE", "BY", "COMMIT", "ENTRY", "")
	for _, c := range changes {
		commit := ""
		if c.Commit != "" {
			commit = schema.Key(c.Commit).Hex()[:12]
		}
		t.row(c.Name, schema.Key(c.Key).Short(), when(c.at), clipTo(c.By, 40), commit, strconv.FormatInt(c.Entry, 10), c.note())
	}
	if err := t.flush(); err != nil {
		return err
	}
	if len(changes) != all {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d of %s\n", len(changes), count(all, "change", "changes"))
	}
	return nil
}

// completeName is the one recorded name that text is, or begins; for a model
// without a version, the names of all its versions.
func completeName(v *lineage.View, text string) ([]string, error) {
	if !strings.Contains(text, ":") {
		text = schema.NameModel + ":" + text
	}
	names, err := v.Names(text)
	if err != nil {
		return nil, err
	}
	if slices.Contains(names, text) {
		return []string{text}, nil
	}
	if ref, ok := strings.CutPrefix(text, schema.NameGit+":"); ok && len(names) == 0 {
		if names, err = gitNames(v, ref); err != nil {
			return nil, err
		}
	}
	versions := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasPrefix(n, text+"@") })
	switch {
	case len(versions) > 0:
		return versions, nil
	case len(names) == 1:
		return names, nil
	case len(names) == 0:
		_, err := v.Name(text)
		return nil, err
	}
	return nil, &lineage.AmbiguousError{Text: text, Candidates: names}
}

// gitNames are the branches and tags called ref in any repository.
func gitNames(v *lineage.View, ref string) ([]string, error) {
	names, err := v.Names(schema.NameGit + ":")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(names, func(n string) bool {
		_, full, _ := strings.Cut(n, "#")
		return full != ref && !strings.HasSuffix(full, "/"+ref)
	}), nil
}

func (a *app) printNames(cmd *cobra.Command, names []lineage.Pointed) error {
	if a.output == "json" {
		out := []nameJSON{}
		for _, n := range names {
			out = append(out, toNameJSON(n))
		}
		return printJSON(cmd.OutOrStdout(), out)
	}
	t := newTable(cmd.OutOrStdout(), "NAME", "POINTED AT", "SINCE", "ENTRY", "")
	for _, n := range names {
		t.row(n.NameFact.Name, n.Key.Short(), when(n.At), strconv.FormatInt(n.Entry, 10), toNameJSON(n).note())
	}
	return t.flush()
}

func toNameJSON(n lineage.Pointed) nameJSON {
	return nameJSON{n.NameFact.Name, string(n.Key), n.At.Format(rfc3339), n.Entry, n.Old, n.Forced, n.Deleted, n.Evidence}
}

// note says in a word or two what is special about the move.
func (n nameJSON) note() string {
	note := ""
	if n.Forced {
		note = "forced"
		if strings.HasPrefix(n.Name, schema.NameModel+":") {
			note = "moved"
		}
	}
	if n.Deleted {
		note = "deleted"
	}
	if n.Evidence == schema.Claimed {
		note = strings.TrimSpace(note + " claimed")
	}
	return note
}

// rfc3339 is how JSON output spells times, to the microsecond.
const rfc3339 = "2006-01-02T15:04:05.999999Z07:00"
