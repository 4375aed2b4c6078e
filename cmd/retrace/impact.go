package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// reachedJSON is one thing that a resource reaches.
type reachedJSON struct {
	Name    string     `json:"name"`
	Key     schema.Key `json:"key"`
	From    time.Time  `json:"from"`
	Until   time.Time  `json:"until,omitzero"`
	Running bool       `json:"running"`
	Depth   int        `json:"depth"`
	Claimed bool       `json:"claimed"`
	Entry   int64      `json:"entry"`
}

func (a *app) impactCmd() *cobra.Command {
	var q asked
	var since, until string
	cmd := &cobra.Command{
		Use:   "impact REF",
		Short: "List the models and workloads that a resource reaches, and which of them run",
		Long: `List every version of a model, and every workload, that was made from a resource,
or runs what was: a commit, an image, a snapshot, a file, a model; key:KEYID for
everything that a key vouched for. A workload counts as running if it runs now;
with --since and --until, if it ran at some time between the two.`,
		Example: `  retrace impact git:1f3c9a72
  retrace impact image:registry.example.com/base/python:3.12 --since '7d ago'
  retrace impact key:SHA256:lbmsoA0yIEcEiVDRnMWuzm+nV+3ZEEpVIURqFoeSspg -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			var span lineage.Span
			var err error
			now := time.Now()
			if span.Since, err = parseTime(since, now); err != nil {
				return cannot(err)
			}
			if span.Until, err = parseTime(until, now); err != nil {
				return cannot(err)
			}
			b, v, label, starts, err := a.impactOf(cmd.Context(), q, args[0])
			if err != nil {
				return err
			}
			defer b.Close()
			reached, running := []reachedJSON{}, 0
			for r, err := range v.Impact(cmd.Context(), starts, span) {
				if err != nil {
					return err
				}
				if r.Running {
					running++
				}
				reached = append(reached, reachedJSON(r))
			}
			if a.output == "json" {
				err = printJSON(cmd.OutOrStdout(), struct {
					Ref     string        `json:"ref"`
					Size    int64         `json:"size"`
					Running int           `json:"running"`
					Reached []reachedJSON `json:"reached"`
				}{label, v.Size(), running, reached})
			} else {
				err = printImpact(cmd.OutOrStdout(), cmd.ErrOrStderr(), v.Size(), label, reached)
			}
			if err == nil && running > 0 {
				err = isFalse(fmt.Errorf("%s reached", count(running, "workload that runs is", "workloads that run are")))
			}
			return err
		},
	}
	q.flags(cmd)
	cmd.Flags().StringVar(&since, "since", "", "workloads that ran after this `TIME` count as running")
	cmd.Flags().StringVar(&until, "until", "", "workloads that ran before this `TIME` count as running")
	return cmd
}

// impactOf opens the ledger and says where the walk begins. The caller closes the
// book.
func (a *app) impactOf(ctx context.Context, q asked, text string) (*book, *lineage.View, string, []schema.Start, error) {
	id, isKey := strings.CutPrefix(text, "key:")
	if !isKey {
		b, v, ref, err := a.ask(ctx, q, text)
		if err != nil {
			return nil, nil, "", nil, err
		}
		return b, v, refLabel(ref), []schema.Start{ref.Start}, nil
	}
	b, err := a.open(ctx)
	if err != nil {
		return nil, nil, "", nil, err
	}
	v, err := b.view(q.size, q.at)
	if err == nil {
		var starts []schema.Start
		if starts, err = v.SignedBy(ctx, b.log.Entry, id); err == nil && len(starts) > 0 {
			return b, v, text, starts, nil
		}
		if err == nil {
			err = cannot(fmt.Errorf("%s signed nothing in this ledger; `retrace keys` lists those that are known", id))
		}
	}
	b.Close()
	return nil, nil, "", nil, err
}

func printImpact(w, notes io.Writer, size int64, label string, reached []reachedJSON) error {
	if len(reached) == 0 {
		fmt.Fprintf(w, "no recorded model or workload was made from %s\n", label)
		speaksFor(notes, size)
		return nil
	}
	t := newTable(w, "REACHED", "STATE", "SINCE", "UNTIL", "EDGES", "EVIDENCE", "ENTRY")
	for _, r := range reached {
		state, end, evidence := "", "", ""
		switch {
		case r.Running:
			state = "RUNS"
		case strings.HasPrefix(r.Name, schema.NameWorkload+":"):
			state = "ran"
		}
		if !r.Until.IsZero() {
			end = when(r.Until)
			if r.Running {
				state = "RAN"
			}
		}
		if r.Claimed {
			evidence = "claimed"
		}
		t.row(r.Name, state, when(r.From), end, strconv.Itoa(r.Depth), evidence, strconv.FormatInt(r.Entry, 10))
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s reached by %s\n", count(len(reached), "model or workload is", "models and workloads are"), label)
	speaksFor(notes, size)
	return nil
}
