package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/ingest/git"
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
	var running workloadAudit
	var who signedBy
	cmd := &cobra.Command{
		Use:   "audit --kubeconfig FILE | --workload W | -f FILE | --images FILE | --ledger DIR|URL",
		Short: "Check what runs against the ledger, or a whole ledger against what it signed",
		Long: `Check what runs in a cluster, what the ledger saw a workload run (--workload), or
what manifests ask for (-f): for each container and model, is it recorded, what was
it made from, and, with --key, is the image signed. Is what runs what the ledger saw
last? With --repo, is the commit that it was deployed from on the branch, and is the
object as the manifest of that commit has it, field by field? One verdict for each
workload; each PASS or FAIL of a recorded state is recorded as a signed SLSA
Verification Summary. --html writes a page with the lineage of each.

With --images, check a list of images, one reference a line: is each resolved to a digest, is
that digest recorded (a mere claim does not count), what was it built from, and,
with --key or --certificate-identity, does the image carry a cosign signature by that
key, or by a certificate of that subject, over this digest.
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
		Example: "  retrace audit --kubeconfig ~/.kube/config --namespace ml --key cosign.pub\n  retrace audit --workload prod/ml/Deployment/api --at '2026-11-24 14:00'\n  retrace audit --images running.txt --key cosign.pub\n  retrace audit --ledger /mnt/copy --key log.vkey\n  retrace audit --ledger https://ledger.example.com --key log.vkey --policy witnesses.txt",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if whole.ledger != "" {
				return whole.run(cmd, a)
			}
			who.key = whole.key
			auditor, err := newAuditor(who, origin)
			if err != nil {
				return cannot(err)
			}
			if running.asks() {
				return running.run(cmd, a, auditor)
			}
			list, models, err := listImages(images, running.files)
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
			if err := heed(cmd.Context(), b, v, auditor); err != nil {
				return err
			}
			auditor.Models = &imageRecords{v: v}
			var verdicts []audit.Verdict
			for verdict, err := range auditor.Audit(cmd.Context(), list) {
				if err != nil {
					return cannot(err)
				}
				verdicts = append(verdicts, verdict)
			}
			for _, uri := range models {
				verdicts = append(verdicts, auditor.Model(cmd.Context(), uri))
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
	who.flags(cmd)
	running.flags(cmd)
	cmd.MarkFlagsOneRequired("images", "ledger", "kubeconfig", "workload", "filename")
	cmd.MarkFlagsMutuallyExclusive("images", "ledger", "kubeconfig", "workload")
	for _, what := range []string{"images", "kubeconfig", "workload", "filename"} {
		for _, f := range []string{"policy", "state", "fresh", "out", "sign"} {
			cmd.MarkFlagsMutuallyExclusive(what, f)
		}
	}
	for _, f := range []string{"images", "ledger", "workload"} {
		cmd.MarkFlagsMutuallyExclusive("filename", f)
		if f != "workload" {
			cmd.MarkFlagsMutuallyExclusive("repo", f)
			cmd.MarkFlagsMutuallyExclusive("html", f)
			cmd.MarkFlagsMutuallyExclusive("bundle", f)
		}
	}
	cmd.MarkFlagsMutuallyExclusive("ledger", "require-origin")
	return cmd
}

// listImages reads a list of images, or finds those that manifests name, and the
// places that they have models served from.
func listImages(images string, files []string) (list []audit.Image, models []string, err error) {
	if images == "" {
		return manifestImages(files)
	}
	f := os.Stdin
	if images != "-" {
		if f, err = os.Open(images); err != nil {
			return nil, nil, err
		}
		defer f.Close()
	}
	if list, err = audit.ParseImages(f); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", images, err)
	}
	return list, nil, nil
}

// manifestImages are the images and the models that manifests name.
func manifestImages(files []string) (list []audit.Image, models []string, err error) {
	manifests, err := readManifests(files)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range git.NeedsOf(manifests) {
		if n.Kind == git.NeedsModel {
			models = append(models, n.Name)
		}
		if n.Kind != git.NeedsImage {
			continue
		}
		image, err := audit.ParseImage(n.Name)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", n.Path, err)
		}
		list = append(list, image)
	}
	if len(list)+len(models) == 0 {
		return nil, nil, errors.New("the manifests name no image and no model")
	}
	return list, models, nil
}

// signedBy says who has to have signed an image: the holder of a key, or somebody
// by a certificate.
type signedBy struct {
	key                           string
	identity, issuer, trustedRoot string
}

func (w *signedBy) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.identity, "certificate-identity", "", "images must be signed by a certificate of this `SUBJECT`")
	cmd.Flags().StringVar(&w.issuer, "certificate-oidc-issuer", "", "that this `URL` vouches for")
	cmd.Flags().StringVar(&w.trustedRoot, "trusted-root", "", "Sigstore trusted root `FILE`: the authorities and logs that are believed")
	cmd.MarkFlagsRequiredTogether("certificate-identity", "certificate-oidc-issuer", "trusted-root")
	cmd.MarkFlagsMutuallyExclusive("certificate-identity", "key")
	cmd.MarkFlagsMutuallyExclusive("certificate-identity", "ledger")
}

// signer is nil where nobody is asked for.
func (w *signedBy) signer() (audit.Signer, error) {
	file := w.key
	if w.identity != "" {
		file = w.trustedRoot
	}
	if file == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if w.identity != "" {
		id, err := cosign.NewIdentity(w.identity, w.issuer, raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return id, nil
	}
	k, err := cosign.ParseKey(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}

func newAuditor(who signedBy, origin bool) (*audit.Auditor, error) {
	auditor := &audit.Auditor{Resolver: oci.Registry{}, Policy: audit.Policy{Origin: origin}}
	signer, err := who.signer()
	if err != nil || signer == nil {
		return auditor, err
	}
	auditor.Signer, auditor.Policy.Key = signer, signer.ID()
	return auditor, nil
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
		case schema.VSAv1, schema.AttestationV1, schema.RestoreV1, schema.ReproductionV1, schema.DeploymentV1:
			continue // opinions about the image do not record it, and that it runs is what is in question
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
	if record.Said, err = said(r.v, digest); err != nil {
		return record, err
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

// Manifest implements audit.Ledger.
func (r *imageRecords) Manifest(ctx context.Context, digest schema.Key) (schema.Key, error) {
	up, _, err := r.v.Relations(ctx, digest)
	if err != nil {
		return digest, err
	}
	for _, rel := range up {
		if rel.Kind == schema.RelConfigOf {
			return rel.To, nil
		}
	}
	return digest, nil
}

// Model implements audit.Models.
func (r *imageRecords) Model(ctx context.Context, uri string) (audit.ModelRecord, error) {
	var record audit.ModelRecord
	ref, err := r.v.Resolve(strings.TrimRight(uri, "/"))
	if errors.Is(err, lineage.ErrNotFound) {
		return record, nil
	}
	if err != nil {
		return record, err
	}
	found, err := r.v.Lineage(ctx, ref, lineage.LineageOptions{})
	if err != nil {
		return record, err
	}
	record.Digest = ref.Start.Key
	about, err := r.v.About(ref.Start.Key)
	if err != nil {
		return record, err
	}
	if !record.Digest.Digested() {
		record.Digest = ""
		for _, e := range found.Edges {
			if e.Relation == schema.RelHolds && e.From == ref.Start.Key {
				record.Digest = e.To
				about = append(about, lineage.EntryInfo{Index: e.Entry, Evidence: e.Evidence})
			}
		}
	}
	for _, e := range about {
		switch e.PredicateType {
		case schema.VSAv1, schema.AttestationV1, schema.RestoreV1, schema.ReproductionV1:
			continue
		}
		entry := audit.Entry{Index: e.Index, Evidence: e.Evidence}
		withdrawn, gone, err := r.v.Retraction(e.Index)
		if err != nil {
			return record, err
		}
		if gone {
			entry.Withdrawn = fmt.Sprintf("entry %d: %s", withdrawn.By, withdrawn.Reason)
		}
		record.Entries = append(record.Entries, entry)
	}
	if len(found.Steps) > 0 {
		nearest := found.Steps[0]
		if len(record.Entries) == 0 {
			record.Entries = append(record.Entries, audit.Entry{Index: nearest.Entry, Evidence: nearest.Evidence})
		}
		record.Origins = append(record.Origins, audit.Origin{Step: nearest.Step.Name, Entry: nearest.Entry, Evidence: nearest.Evidence})
	}
	for _, w := range found.Retracted {
		record.Said = append(record.Said, fmt.Sprintf("entry %d, which it rests on, was withdrawn by entry %d: %s", w.Entry, w.By, w.Reason))
	}
	vouched, err := said(r.v, record.Digest)
	if err != nil {
		return record, err
	}
	record.Said = append(record.Said, vouched...)
	gaps, err := r.v.Gaps(ctx, ref, nil)
	if err != nil {
		return record, err
	}
	for _, g := range gaps {
		record.Gaps = append(record.Gaps, fmt.Sprintf("%s: %s", g.ID, g.Explain))
	}
	slices.Sort(record.Gaps)
	record.Gaps = slices.Compact(record.Gaps)
	return record, nil
}

// said is what people say of a resource.
func said(v *lineage.View, k schema.Key) ([]string, error) {
	if k == "" {
		return nil, nil
	}
	all, err := v.Attestations(k)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range all {
		text := fmt.Sprintf("vouched for: %s (entry %d, %s)", e.Summary, e.Index, e.Evidence)
		r, gone, err := v.Retraction(e.Index)
		if err != nil {
			return nil, err
		}
		if gone {
			text += fmt.Sprintf(", withdrawn by entry %d: %s", r.By, r.Reason)
		}
		out = append(out, text)
	}
	return out, nil
}

// revocable refuses what a key signed once the ledger says that it is not trusted
// any more.
type revocable struct {
	audit.Signer
	why string
}

// Signed implements audit.Signer.
func (r revocable) Signed(context.Context, string, schema.Key) (bool, string, error) {
	return false, r.why, nil
}

// heed has an auditor refuse a key that the ledger revoked.
func heed(ctx context.Context, b *book, v *lineage.View, auditor *audit.Auditor) error {
	if auditor.Signer == nil {
		return nil
	}
	trusted, err := readTrust(ctx, b, v)
	if err != nil {
		return err
	}
	var last *trustJSON
	for i, t := range trusted.entries {
		if t.KeyID == auditor.Signer.ID() {
			last = &trusted.entries[i]
		}
	}
	if last != nil && last.Action == "revoke" {
		auditor.Signer = revocable{auditor.Signer, fmt.Sprintf("entry %d revoked the key: %s", last.Entry, last.Reason)}
	}
	return nil
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
	for i, verdict := range verdicts {
		entries[i] = -1
		s, ok, err := policy.Statement(verdict, thisVerifier(), time.Now())
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

func printReasons(w io.Writer, indent string, reasons []audit.Reason) {
	for _, r := range reasons {
		fmt.Fprintf(w, "%s%-7s  %-9s %s\n", indent, strings.ToLower(string(r.Result)), r.Check, printable(r.Detail))
	}
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
			printReasons(w, "  ", v.Reasons)
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
