package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/ingest/argo"
	"github.com/retrace-ledger/retrace/ingest/openlineage"
	"github.com/retrace-ledger/retrace/ingest/tekton"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
	"github.com/retrace-ledger/retrace/verify/sigstore"
)

// maxDocument is how large a file `retrace record` reads, in bytes.
const maxDocument = 64 << 20

type recordedJSON struct {
	File          string `json:"file"`
	Where         string `json:"where,omitempty"`
	PredicateType string `json:"predicateType"`
	Entry         int64  `json:"entry"`
	Duplicate     bool   `json:"duplicate,omitempty"`
	// Signer is the identity that the bundle was found to be signed by.
	Signer *certificateJSON `json:"signer,omitempty"`
}

func (a *app) recordCmd() *cobra.Command {
	var namespace string
	var identity identityFlags
	cmd := &cobra.Command{
		Use:   "record FILE…",
		Short: "Record in-toto statements, DSSE envelopes, Sigstore bundles and Workflows",
		Long: `Record what others state: in-toto statements, DSSE envelopes, Sigstore bundles,
one in a file or several as JSON Lines; - is standard input. Envelopes are kept
byte for byte. What a trusted key signed is graded attested, all else claimed;
see "retrace keys trust".

With --trusted-root each document has to be a Sigstore bundle that verifies as
signed by the identity; one that does not is refused. The identity and its root
are recorded, so that answers show who signed and anybody can check it; to have
it graded attested, trust the identity. A bundle whose certificate names an
identity that the ledger knows has to verify in any case.

Workflows of Argo and of Kubeflow Pipelines that ran are taken too, one or many,
as JSON or YAML: their steps and models are recorded as a watcher would see them.
So are TaskRuns and PipelineRuns of Tekton, with what Chains attests of them in
their annotations, and run events of OpenLineage, one, an array or JSON Lines: each run is a step.

All files are read before anything is recorded: if one is refused, nothing is.`,
		Example: "  retrace record build.intoto.jsonl\n  cosign download attestation IMAGE | retrace record -\n  kubectl get workflow forecast-x7k2p -o yaml | retrace record -",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			// No context ends a read of a terminal or a FIFO. Nothing is held
			// until all is read, so until then a signal just ends the process.
			signal.Reset(os.Interrupt, syscall.SIGTERM)
			var who *schema.Identity
			var signer *sigstore.Identity
			if identity.given() {
				var err error
				if who, err = identity.read(); err == nil {
					signer, err = sigstore.New(*who)
				}
				if err != nil {
					return cannot(err)
				}
			}
			docs, where, err := readDocuments(args, signer)
			if err != nil {
				return cannot(err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			cmd.SetContext(ctx)
			b, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer b.Close()
			for i, d := range docs {
				if err := verify.CheckIdentity(d.Envelope, b.graph.Keys()); err != nil {
					return cannot(fmt.Errorf("%s: %w", where[i].place(), err))
				}
			}
			for start := 0; start < len(docs); {
				n := batchLength(docs[start:])
				if err := recordBatch(cmd, b, namespace, docs[start:start+n], where[start:start+n]); err != nil {
					return err
				}
				start += n
			}
			if signer != nil {
				if err := recognize(cmd, b, who); err != nil {
					return err
				}
			}
			return a.printRecorded(cmd, where)
		},
	}
	cmd.Flags().StringVar(&namespace, "namespace", schema.DefaultNamespace, "`NAMESPACE` of the entries")
	identity.add(cmd)
	return cmd
}

// place says where a document is.
func (r *recordedJSON) place() string {
	if r.Where == "" {
		return r.File
	}
	return r.File + ": " + r.Where
}

// readDocuments reads all documents of files. Unless signer is nil, each has to
// be signed by it.
func readDocuments(files []string, signer *sigstore.Identity) ([]schema.Document, []recordedJSON, error) {
	var docs []schema.Document
	var where []recordedJSON
	for _, name := range files {
		raw, err := readFileOrStdin(name, maxDocument)
		if err != nil {
			return nil, nil, err
		}
		ds, err := parseDocument(raw)
		if bare := (*schema.BareSignatureError)(nil); signer != nil && errors.As(err, &bare) {
			if wrong := signer.VerifyBare(raw); wrong != nil {
				err = fmt.Errorf("does not verify: %w", wrong)
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, d := range ds {
			r := recordedJSON{File: name, Where: d.Where, PredicateType: d.Statement.PredicateType}
			if signer != nil {
				if err := signer.Verify(d.Envelope); err != nil {
					return nil, nil, fmt.Errorf("%s: does not verify: %w", r.place(), err)
				}
				subject, issuer := verify.Certified(d.Envelope)
				r.Signer = &certificateJSON{subject, issuer}
			}
			docs, where = append(docs, d), append(where, r)
		}
	}
	return docs, where, nil
}

// parseDocument reads a file of statements, or one of Workflows or events as
// their watcher would see them. What is said of those nobody signed.
func parseDocument(raw []byte) ([]schema.Document, error) {
	var docs []schema.Document
	var statements []schema.Statement
	var err error
	switch {
	case openlineage.Looks(raw):
		statements, err = openlineage.Statements(raw)
	case tekton.Looks(raw):
		var attested []schema.Envelope
		statements, attested, err = tekton.Statements(raw, nil)
		for _, env := range attested {
			more, err := schema.ParseDocument(env.Raw)
			if err != nil {
				return nil, err
			}
			docs = append(docs, more...)
		}
	case argo.Looks(raw):
		statements, err = argo.Statements(raw, nil)
	default:
		return schema.ParseDocument(raw)
	}
	if err != nil {
		return nil, err
	}
	for _, s := range statements {
		line, err := s.Encode()
		if err != nil {
			return nil, err
		}
		one, err := schema.ParseDocument(line)
		if err != nil {
			return nil, err
		}
		docs = append(docs, one...)
	}
	return docs, nil
}

// recognize records who is known by a certificate, so that answers show who
// signed and whoever verifies them can check it. Nothing is trusted by that.
// Only where the ledger is can it be recorded; elsewhere the bundle alone is.
func recognize(cmd *cobra.Command, b *book, who *schema.Identity) error {
	if slices.ContainsFunc(b.graph.Keys(), func(k schema.PublicKey) bool { return k.ID == who.ID() }) {
		return nil
	}
	if err := mayTrust(cmd, b); err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "retrace: the bundles verify; the ledger will show who signed them once the identity is trusted where the ledger is: see `retrace keys trust`")
		return nil
	}
	s, err := trustStatement(aboutIdentity(schema.Trust{Action: "recognize"}, who))
	if err != nil {
		return err
	}
	_, err = b.record(cmd.Context(), "keys", []schema.Statement{s})
	return err
}

// batchLength is how many of docs fit one append.
func batchLength(docs []schema.Document) int {
	size := 0
	for i, d := range docs {
		size += len(d.Envelope.Raw)
		if i > 0 && (size > schema.MaxBatchBytes || i == schema.MaxBatchEnvelopes) {
			return i
		}
	}
	return len(docs)
}

func recordBatch(cmd *cobra.Command, b *book, namespace string, docs []schema.Document, out []recordedJSON) error {
	batch := schema.Batch{Namespace: namespace, Source: "record"}
	if b.observer != nil {
		batch.Submitter = b.observer.ID()
	}
	for _, d := range docs {
		batch.Envelopes = append(batch.Envelopes, d.Envelope)
	}
	r, err := b.log.Append(cmd.Context(), batch)
	if err != nil {
		return err
	}
	for i, e := range r.Entries {
		out[i].Entry, out[i].Duplicate = e.Index, e.Duplicate
	}
	return nil
}

func (a *app) printRecorded(cmd *cobra.Command, out []recordedJSON) error {
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), out)
	}
	t := newTable(cmd.OutOrStdout(), "ENTRY", "TYPE", "FROM", "")
	for _, r := range out {
		note := ""
		if r.Signer != nil {
			note = "signed by " + r.Signer.String()
		}
		if r.Duplicate {
			note = strings.TrimPrefix(note+", already recorded", ", ")
		}
		from := r.File
		if r.Where != "" {
			from += " " + r.Where
		}
		t.row(strconv.FormatInt(r.Entry, 10), shortPredicateType(r.PredicateType), from, note)
	}
	return t.flush()
}
