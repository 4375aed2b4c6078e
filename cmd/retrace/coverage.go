package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// interval is what the ledger says of a source between two times.
type interval struct {
	Source   string    `json:"source"`
	From     time.Time `json:"from,omitzero"` // zero: since ever
	To       time.Time `json:"to"`
	Blind    string    `json:"blind,omitempty"` // why nothing could be read; empty when it could
	Listed   int       `json:"listed"`          // things that the source held at the end
	Recorded int       `json:"recorded"`        // facts recorded in the interval
	// Refused are things that the source held and that could not be recorded,
	// LeftOut how many more there were.
	Refused []schema.Refusal `json:"refused,omitempty"`
	LeftOut int              `json:"leftOut,omitzero"`
	Entry   int64            `json:"entry"` // that says so
}

// coverageReport is what was watched of all sources in a span of time.
type coverageReport struct {
	Size      int64      `json:"size"` // of the ledger that the report speaks for
	Intervals []interval `json:"intervals"`
	// Until is up to when each source has been spoken for: nothing is known of
	// it afterwards.
	Until map[string]time.Time `json:"until"`
	// Bodiless is how many entries have no body here, erased or withheld: what
	// they say of coverage is in no answer.
	Bodiless int `json:"bodiless"`
}

func (a *app) coverageCmd() *cobra.Command {
	var since, until string
	var all bool
	cmd := &cobra.Command{
		Use:   "coverage [SOURCE]",
		Short: "Say when watchers were blind, and what they refused",
		Long: `List every interval in which a source could not be read, or no watcher ran, as
signed coverage entries say, and up to when each source is spoken for. What came
and went in a blind interval was seen by nobody. Exit status 1: there is one.

Things that a source held and that could not be recorded are listed with the
reason: they are seen, and nothing is known of them.`,
		Example: "  retrace coverage --since '7d ago'\n  retrace coverage git+https://git.example.com/ml/forecast --all -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			now := time.Now()
			from, err := parseTime(since, now)
			if err != nil {
				return cannot(err)
			}
			to, err := parseTime(until, now)
			if err != nil {
				return cannot(err)
			}
			b, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer b.Close()
			source := ""
			if len(args) > 0 {
				source = args[0]
			}
			r, err := b.coverage(cmd.Context(), source, from, to)
			if err != nil {
				return err
			}
			if len(r.Until) == 0 && source != "" {
				return cannot(fmt.Errorf("%s was never watched, or goes by another name; `retrace coverage` lists all", source))
			}
			blind := 0
			for _, i := range r.Intervals {
				if i.Blind != "" {
					blind++
				}
			}
			if !all {
				r.Intervals = slices.DeleteFunc(r.Intervals, func(i interval) bool { return i.Blind == "" && len(i.Refused) == 0 })
			}
			if a.output == "json" {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				err = printCoverage(cmd.OutOrStdout(), cmd.ErrOrStderr(), r)
			}
			if err == nil && blind > 0 {
				err = isFalse(fmt.Errorf("%s without sight", count(blind, "interval", "intervals")))
			}
			return err
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "what reaches beyond this `TIME`")
	cmd.Flags().StringVar(&until, "until", "", "what begins before this `TIME`")
	cmd.Flags().BoolVar(&all, "all", false, "list the intervals with sight too")
	return cmd
}

// coverage reads the coverage entries of our own watchers that touch the span
// of time, of one source or of all.
func (b *book) coverage(ctx context.Context, source string, since, until time.Time) (*coverageReport, error) {
	v, err := b.graph.View(lineage.At{})
	if err != nil {
		return nil, err
	}
	r := &coverageReport{Size: v.Size(), Intervals: []interval{}, Until: map[string]time.Time{}, Bodiless: v.Bodiless()}
	for e, err := range v.Entries(ctx, 0, lineage.Filter{PredicateType: schema.CoverageV1}) {
		if err != nil {
			return nil, err
		}
		if e.State != schema.Present || !e.Evidence.Trusted() {
			continue
		}
		entry, err := b.log.Entry(ctx, e.Index)
		if err != nil {
			return nil, err
		}
		statement, err := entry.Envelope.Statement()
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", e.Index, err)
		}
		var c schema.Coverage
		if err := schema.DecodePredicate(statement, true, &c); err != nil {
			return nil, fmt.Errorf("entry %d: %w", e.Index, err)
		}
		if source != "" && c.Source != source {
			continue
		}
		r.Until[c.Source] = c.To
		if c.To.Before(since) || !until.IsZero() && !c.From.Before(until) {
			continue
		}
		r.Intervals = append(r.Intervals, interval{c.Source, c.From, c.To, c.Blind, c.Count, c.Recorded, c.Refused, c.LeftOut, e.Index})
	}
	return r, nil
}

func printCoverage(w, notes io.Writer, r *coverageReport) error {
	sayBodiless(notes, r.Bodiless)
	if len(r.Until) == 0 {
		_, err := fmt.Fprintln(w, "no coverage is recorded")
		return err
	}
	if len(r.Intervals) > 0 {
		t := newTable(w, "SOURCE", "FROM", "TO", "SIGHT", "LISTED", "RECORDED", "ENTRY")
		for _, i := range r.Intervals {
			from, sight := "-", "yes"
			if !i.From.IsZero() {
				from = i.From.Format(time.RFC3339)
			}
			if i.Blind != "" {
				sight = "BLIND: " + i.Blind
			}
			t.row(i.Source, from, i.To.Format(time.RFC3339), sight, strconv.Itoa(i.Listed), strconv.Itoa(i.Recorded), strconv.FormatInt(i.Entry, 10))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	if err := printRefused(w, r.Intervals); err != nil {
		return err
	}
	t := newTable(w, "SOURCE", "SPOKEN FOR UNTIL")
	for _, source := range slices.Sorted(maps.Keys(r.Until)) {
		t.row(source, r.Until[source].Format(time.RFC3339))
	}
	if err := t.flush(); err != nil {
		return err
	}
	speaksFor(notes, r.Size)
	return nil
}

// printRefused lists what the intervals say was refused, if anything was.
func printRefused(w io.Writer, intervals []interval) error {
	t := newTable(w, "REFUSED", "REASON", "DIGEST", "ENTRY")
	any := false
	for _, i := range intervals {
		entry := strconv.FormatInt(i.Entry, 10)
		for _, r := range i.Refused {
			any = true
			t.row(r.Object, r.Reason, schema.Key(r.Digest).Short(), entry)
		}
		if i.LeftOut > 0 {
			t.row(fmt.Sprintf("and %d more", i.LeftOut), "", "", entry)
		}
	}
	if !any {
		return nil
	}
	return t.flush()
}
