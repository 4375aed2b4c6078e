package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/ingest/oci"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify/audit"
	"github.com/retrace-ledger/retrace/verify/cosign"
)

func (a *app) auditCmd() *cobra.Command {
	var images string
	var origin bool
	var whole ledgerAudit
	cmd := &cobra.Command{
		Use:   "audit --images FILE | --ledger DIR|URL",
		Short: "Check images against the ledger, or a whole ledger against what it signed",
		Long: `Check a list of images, one reference a line: is each resolved to a digest, is
that digest recorded (a mere claim does not count), what was it built from, and,
with --key, does the image carry a cosign signature by that key over this digest.
One PASS, FAIL or UNKNOWN for each, with reasons; what could not be checked is
UNKNOWN and never passed. Each verdict of PASS or FAIL is recorded as a signed
SLSA Verification Summary.

With --ledger, replay a whole ledger, of a directory or behind a server, with its
public key alone: every body against its commitment, the tree against the signed
checkpoint, every signature against the trust of its time, erased bodies against
erasure entries, and the lineage index against one made anew. One signed SLSA
Verification Summary says what came of it and which bodies were withheld. The
next audit goes on where this one ended or was interrupted; --fresh reads
everything again. A URL is asked with RETRACE_TOKEN, and what it cannot prove is
no matter of trust.`,
		Example: "  retrace audit --images running.txt --key cosign.pub\n  retrace audit --ledger /mnt/copy --key log.vkey\n  retrace audit --ledger https://ledger.example.com --key log.vkey --policy witnesses.txt",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if whole.ledger != "" {
				return whole.run(cmd, a)
			}
			auditor, list, err := newAuditor(images, whole.key, origin)
			if err != nil {
				return cannot(err)
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
			auditor.Ledger = &imageRecords{v: v}
			var verdicts []audit.Verdict
			for verdict, err := range auditor.Audit(cmd.Context(), list) {
				if err != nil {
					return cannot(err)
				}
				verdicts = append(verdicts, verdict)
			}
			entries, err := b.recordVerdicts(cmd.Context(), auditor.Policy, verdicts)
			if err != nil {
				return cannot(err)
			}
			return a.printVerdicts(cmd, v.Size(), verdicts, entries)
		},
	}
	cmd.Flags().StringVar(&images, "images", "", "`FILE` with one image reference a line, - for standard input")
	cmd.Flags().StringVar(&whole.key, "key", "", "public key `FILE`: of cosign, for images, or of the ledger, log.vkey")
	cmd.Flags().BoolVar(&origin, "require-origin", false, "fail images whose origin is not recorded by a trusted signer or a watcher")
	cmd.Flags().StringVar(&whole.ledger, "ledger", "", "replay the ledger in this `DIR`, or behind this URL")
	cmd.Flags().StringVar(&whole.policy, "policy", "", "C2SP policy `FILE`: witnesses that must have cosigned")
	cmd.Flags().StringVar(&whole.state, "state", "", "`FILE`: how far earlier audits came (default in your cache)")
	cmd.Flags().BoolVar(&whole.fresh, "fresh", false, "replay from entry 0, whatever earlier audits saw")
	cmd.Flags().StringVar(&whole.out, "out", "audit.dsse", "`FILE` for the signed statement; empty for none")
	cmd.Flags().StringVar(&whole.sign, "sign", "", "private key `FILE` to sign with (default your agent's)")
	cmd.MarkFlagsOneRequired("images", "ledger")
	cmd.MarkFlagsMutuallyExclusive("images", "ledger")
	for _, f := range []string{"policy", "state", "fresh", "out", "sign"} {
		cmd.MarkFlagsMutuallyExclusive("images", f)
	}
	cmd.MarkFlagsMutuallyExclusive("ledger", "require-origin")
	return cmd
}

func newAuditor(images, key string, origin bool) (*audit.Auditor, []audit.Image, error) {
	f := os.Stdin
	if images != "-" {
		var err error
		if f, err = os.Open(images); err != nil {
			return nil, nil, err
		}
		defer f.Close()
	}
	list, err := audit.ParseImages(f)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", images, err)
	}
	auditor := &audit.Auditor{Resolver: oci.Registry{}, Policy: audit.Policy{Origin: origin}}
	if key == "" {
		return auditor, list, nil
	}
	pem, err := os.ReadFile(key)
	if err != nil {
		return nil, nil, err
	}
	k, err := cosign.ParseKey(pem)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", key, err)
	}
	auditor.Signer, auditor.Policy.Key = k, k.ID()
	return auditor, list, nil
}

// imageRecords answers an auditor from the lineage of a ledger.
type imageRecords struct{ v *lineage.View }

// Image implements audit.Ledger.
func (r *imageRecords) Image(ctx context.Context, digest schema.Key) (audit.Record, error) {
	record := audit.Record{Size: r.v.Size()}
	about, err := r.v.About(digest)
	if err != nil {
		return record, err
	}
	for _, e := range about {
		switch e.PredicateType {
		case schema.VSAv1, schema.AttestationV1, schema.RestoreV1, schema.ReproductionV1:
			continue // opinions about the image do not record it
		}
		withdrawn, gone, err := r.v.Retraction(e.Index)
		if err != nil {
			return record, err
		}
		entry := audit.Entry{Index: e.Index, Evidence: e.Evidence}
		if gone {
			entry.Withdrawn = fmt.Sprintf("entry %d: %s", withdrawn.By, withdrawn.Reason)
		}
		record.Entries = append(record.Entries, entry)
	}
	if len(record.Entries) == 0 {
		return record, nil
	}
	if record.Origins, err = r.origins(ctx, digest); err != nil {
		return record, err
	}
	gaps, err := r.v.Gaps(ctx, lineage.Ref{Text: string(digest), Start: schema.Start{Key: digest}, Entry: -1}, nil)
	if err != nil {
		return record, err
	}
	for _, g := range gaps {
		if g.ID != "not-recorded" {
			record.Gaps = append(record.Gaps, fmt.Sprintf("%s: %s", g.ID, g.Explain))
		}
	}
	record.Gaps = slices.Compact(record.Gaps)
	return record, nil
}

// origins are the commits and steps that an image was built from, strongest
// evidence first.
func (r *imageRecords) origins(ctx context.Context, digest schema.Key) ([]audit.Origin, error) {
	var out []audit.Origin
	made, err := r.v.Producers(ctx, schema.Start{Key: digest})
	if err != nil {
		return nil, err
	}
	for _, s := range made {
		o := audit.Origin{Step: s.Step.Name, Entry: s.Entry, Evidence: s.Evidence}
		for _, u := range s.Step.Uses {
			if u.Key.Algorithm() == schema.GitCommit {
				o.Commit, o.Repository = u.Key, r.uri(u.Key)
				break
			}
		}
		out = append(out, o)
	}
	up, _, err := r.v.Relations(ctx, digest)
	if err != nil {
		return nil, err
	}
	for _, rel := range up {
		if rel.Kind == schema.RelBuiltOf {
			out = append(out, audit.Origin{Commit: rel.To, Repository: r.uri(rel.To), Entry: rel.Entry, Evidence: schema.Claimed})
		}
	}
	strength := []schema.Evidence{schema.Attested, schema.Observed, schema.Claimed}
	slices.SortStableFunc(out, func(a, b audit.Origin) int {
		return slices.Index(strength, a.Evidence) - slices.Index(strength, b.Evidence)
	})
	return out, nil
}

// uri is where a resource is said to be, if anywhere.
func (r *imageRecords) uri(k schema.Key) string {
	resource, err := r.v.Resource(k)
	if err != nil {
		return ""
	}
	return resource.URI
}

// recordVerdicts appends a verification summary for each verdict that has one,
// and returns their entries: -1 for a verdict without.
func (b *book) recordVerdicts(ctx context.Context, policy audit.Policy, verdicts []audit.Verdict) ([]int64, error) {
	entries := make([]int64, len(verdicts))
	if b.observer == nil {
		for i := range entries {
			entries[i] = -1
		}
		return entries, nil
	}
	verifier := schema.Verifier{ID: schema.RunBuilder, Version: map[string]string{"retrace": version()}}
	for i, verdict := range verdicts {
		entries[i] = -1
		s, ok, err := policy.Statement(verdict, verifier, time.Now())
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		receipt, err := b.record(ctx, "audit", []schema.Statement{s})
		if err != nil {
			return nil, err
		}
		entries[i] = receipt.Entries[0].Index
	}
	return entries, nil
}

type verdictJSON struct {
	audit.Verdict
	Entry int64 `json:"entry"` // of the signed summary; -1 if there is none
}

func (a *app) printVerdicts(cmd *cobra.Command, size int64, verdicts []audit.Verdict, entries []int64) error {
	var results []audit.Result
	out := []verdictJSON{}
	for i, v := range verdicts {
		results = append(results, v.Result)
		out = append(out, verdictJSON{v, entries[i]})
	}
	if a.output == "json" {
		if err := printJSON(cmd.OutOrStdout(), map[string]any{"size": size, "verdicts": out}); err != nil {
			return err
		}
	} else {
		w := cmd.OutOrStdout()
		for _, v := range out {
			fmt.Fprintf(w, "%-7s  %s\n", v.Result, printable(v.Ref))
			for _, r := range v.Reasons {
				fmt.Fprintf(w, "  %-7s  %-9s %s\n", strings.ToLower(string(r.Result)), r.Check, printable(r.Detail))
			}
			if v.Entry >= 0 {
				fmt.Fprintf(w, "  recorded as entry %d\n", v.Entry)
			}
		}
	}
	switch audit.Exit(results...) {
	case audit.ExitPass:
		return nil
	case audit.ExitFail:
		return isFalse(nil)
	}
	return cannot(errors.New("at least one image could not be checked"))
}
