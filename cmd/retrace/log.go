package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// span is the flags --since and --until.
type span struct{ since, until string }

func (s *span) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.since, "since", "", "recorded at or after this `TIME`")
	cmd.Flags().StringVar(&s.until, "until", "", "recorded before this `TIME`")
}

func (s span) filter(f *lineage.Filter) (err error) {
	if f.Since, err = parseTime(s.since, time.Now()); err != nil {
		return cannot(err)
	}
	if f.Until, err = parseTime(s.until, time.Now()); err != nil {
		return cannot(err)
	}
	return nil
}

// entryJSON is an entry as scripts read it.
type entryJSON struct {
	Index         int64            `json:"index"`
	RecordedAt    time.Time        `json:"recordedAt,omitzero"`     // this and what follows is in the body, which may be
	PredicateType string           `json:"predicateType,omitempty"` // erased or withheld
	Namespace     string           `json:"namespace,omitempty"`
	Source        string           `json:"source,omitempty"`
	Submitter     string           `json:"submitter,omitempty"`
	Signers       []string         `json:"signers"`
	Certificate   *certificateJSON `json:"certificate,omitempty"` // of a Sigstore bundle; verified if signers name an identity
	Evidence      schema.Evidence  `json:"evidence,omitempty"`
	Summary       string           `json:"summary,omitempty"`
	State         schema.State     `json:"state"`
	Unreadable    string           `json:"unreadable,omitempty"`
	Commitment    string           `json:"commitment,omitempty"`
	Statement     schema.Statement `json:"statement,omitzero"`
	Retracted     *retractedJSON   `json:"retracted,omitempty"`
}

// certificateJSON is whom a certificate names, and who vouched for them.
type certificateJSON struct {
	Subject string `json:"subject"`
	Issuer  string `json:"issuer"`
}

func (c *certificateJSON) String() string { return c.Subject + " by " + c.Issuer }

// retractedJSON says by which entry another was withdrawn.
type retractedJSON struct {
	By     int64  `json:"by"`
	Reason string `json:"reason"`
}

func toEntryJSON(e lineage.EntryInfo) entryJSON {
	signers := e.Signers
	if signers == nil {
		signers = []string{}
	}
	e.Evidence = evidenceOf(e)
	return entryJSON{
		Index: e.Index, RecordedAt: e.RecordedAt, PredicateType: e.PredicateType, Namespace: e.Namespace, Source: e.Source,
		Submitter: e.Submitter, Signers: signers, Evidence: e.Evidence, Summary: e.Summary, State: e.State, Unreadable: e.Unreadable,
	}
}

// evidenceOf is how we know what an entry states; nothing if it has no body.
func evidenceOf(e lineage.EntryInfo) schema.Evidence {
	if e.State != schema.Present {
		return ""
	}
	return e.Evidence
}

func (a *app) logCmd() *cobra.Command {
	var last int
	var predicate, text string
	var period span
	cmd := &cobra.Command{
		Use:   "log",
		Short: "List entries, oldest first",
		Long: `List entries, oldest first. --search lists those that hold a text, whatever its
case: in their summary, which names what they are about and quotes the first line
of commits' messages, or in the name, the command or a parameter of a step.`,
		Example: "  retrace log -n 20\n  retrace log --type model --since '2h ago' -o json\n  retrace log --search 'leap day'\n  retrace log --search region=north",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if last < 0 {
				return cannot(fmt.Errorf("-n %d: want a number of entries, or 0 for all", last))
			}
			filter := lineage.Filter{PredicateType: fullPredicateType(predicate)}
			if err := period.filter(&filter); err != nil {
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
			filter.Newest = true
			found := v.Entries(cmd.Context(), v.Size()-1, filter)
			if text != "" {
				found = v.Search(cmd.Context(), v.Size()-1, text, filter)
			}
			entries := []lineage.EntryInfo{}
			for e, err := range found {
				if err != nil {
					return err
				}
				if entries = append(entries, e); len(entries) == last {
					break
				}
			}
			slices.Reverse(entries)
			return a.printLog(cmd, v, entries)
		},
	}
	cmd.Flags().IntVarP(&last, "last", "n", 0, "only the last `N`")
	cmd.Flags().StringVar(&predicate, "type", "", "only this predicate `TYPE`: a URI, or a short name such as model, step or commit")
	cmd.Flags().StringVar(&text, "search", "", "only those that hold this `TEXT`")
	period.flags(cmd)
	return cmd
}

func (a *app) printLog(cmd *cobra.Command, v *lineage.View, entries []lineage.EntryInfo) error {
	if a.output == "json" {
		out := struct {
			Size    int64       `json:"size"`
			Entries []entryJSON `json:"entries"`
		}{v.Size(), []entryJSON{}}
		for _, e := range entries {
			out.Entries = append(out.Entries, toEntryJSON(e))
		}
		return printJSON(cmd.OutOrStdout(), out)
	}
	t := newTable(cmd.OutOrStdout(), "ENTRY", "RECORDED", "TYPE", "EVIDENCE", "SUMMARY")
	for _, e := range entries {
		summary := e.Summary
		switch {
		case e.State != schema.Present:
			summary = goneBecause(v, e.Index, e.State)
		case e.Unreadable != "":
			summary = "unreadable: " + e.Unreadable
		default:
			summary = shortCommand(summary)
		}
		t.row(strconv.FormatInt(e.Index, 10), when(e.RecordedAt), shortPredicateType(e.PredicateType), string(evidenceOf(e)), clipTo(summary, 80))
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%d of %s\n", len(entries), count(v.Size(), "entry", "entries"))
	return nil
}

// predicateNames are short names of the predicate types that are not retrace's
// own.
var predicateNames = map[string]string{
	schema.ProvenanceV1: "step", schema.ProvenanceV02: "step (v0.2)", schema.VSAv1: "vsa", schema.LinkV03: "link",
}

const ownPredicates = "https://github.com/retrace-ledger/retrace/predicates/"

func shortPredicateType(uri string) string {
	if name, ok := predicateNames[uri]; ok {
		return name
	}
	if name, ok := strings.CutPrefix(uri, ownPredicates); ok {
		return strings.TrimSuffix(name, "/v1")
	}
	return uri
}

func fullPredicateType(name string) string {
	if name == "" || strings.Contains(name, ":") {
		return name
	}
	for uri, short := range predicateNames {
		if short == name {
			return uri
		}
	}
	return ownPredicates + name + "/v1"
}

// clipTo shortens s to n characters.
func clipTo(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
