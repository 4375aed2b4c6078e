package main

import (
	"slices"
	"strconv"
	"strings"

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
	return &cobra.Command{
		Use:   "history NAME",
		Short: "Show what a name pointed at, and when",
		Long: `Show what a name pointed at, and when. A NAME has its kind in front:
model:NAME@VERSION, git:REPOSITORY#refs/heads/BRANCH, image:REPOSITORY:TAG,
snapshot:SOURCE. Part of one is enough where only one name begins with it, and so
is git:BRANCH. A model without a version is all its versions.`,
		Example: "  retrace history model:forecast@3\n  retrace history image:registry.example/ml/trainer:latest",
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
			return a.printNames(cmd, history)
		},
	}
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
			out = append(out, nameJSON{n.NameFact.Name, string(n.Key), n.At.Format(rfc3339), n.Entry, n.Old, n.Forced, n.Deleted, n.Evidence})
		}
		return printJSON(cmd.OutOrStdout(), out)
	}
	t := newTable(cmd.OutOrStdout(), "NAME", "POINTED AT", "SINCE", "ENTRY", "")
	for _, n := range names {
		note := ""
		if n.Forced {
			note = "forced"
			if strings.HasPrefix(n.NameFact.Name, schema.NameModel+":") {
				note = "moved"
			}
		}
		if n.Deleted {
			note = "deleted"
		}
		if n.Evidence == schema.Claimed {
			note = strings.TrimSpace(note + " claimed")
		}
		t.row(n.NameFact.Name, n.Key.Short(), when(n.At), strconv.FormatInt(n.Entry, 10), note)
	}
	return t.flush()
}

// rfc3339 is how JSON output spells times, to the microsecond.
const rfc3339 = "2006-01-02T15:04:05.999999Z07:00"
