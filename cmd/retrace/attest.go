package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os/user"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// wordFlags are those of a person's word: who gives it, and where it counts.
type wordFlags struct {
	key, by, namespace string
}

func (f *wordFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.key, "key", "", "your private key `FILE`: of retrace, or of cosign")
	cmd.Flags().StringVar(&f.namespace, "namespace", schema.DefaultNamespace, "`NAMESPACE` of the entry")
	cmd.MarkFlagRequired("key")
}

func (a *app) attestCmd() *cobra.Command {
	var f wordFlags
	var claim, comment string
	cmd := &cobra.Command{
		Use:   "attest REF",
		Short: "Vouch for something in your own name, such as that it is approved",
		Long: `Record a word about a resource, signed with your own key: that it is approved for
production, that it was reviewed. Answers, audits and lineage show it, and how we
know: attested where the key is trusted for it (` + "`retrace keys trust KEY.pub --type\n" + schema.AttestationV1 + "`" + `), claimed where it is not.`,
		Example: "  retrace attest forecast@3 --claim 'approved for production' --key ada.key\n  retrace attest image:registry.example/api:stable --claim reviewed --key cosign.key",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if claim == "" {
				return cannot(errors.New("--claim is missing: what do you vouch for? such as --claim 'approved for production'"))
			}
			b, v, ref, err := a.ask(cmd.Context(), asked{}, args[0])
			if err != nil {
				return err
			}
			defer b.Close()
			about, err := attested(v, ref)
			if err != nil {
				return cannot(err)
			}
			return f.give(cmd, a, b, schema.AttestationV1, schema.Attestation{Claim: claim, Comment: comment, By: f.who()}, about, "said of "+refLabel(ref))
		},
	}
	f.flags(cmd)
	cmd.Flags().StringVar(&f.by, "by", "", "`WHO` gives it; you, if left out")
	cmd.Flags().StringVar(&claim, "claim", "", "what you vouch for, in `TEXT`")
	cmd.Flags().StringVar(&comment, "comment", "", "what else there is to say, in `TEXT`")
	return cmd
}

// attested describes what ref stands for as a subject. It has to have a digest:
// what is known by its location alone may be something else tomorrow.
func attested(v *lineage.View, ref lineage.Ref) (schema.Descriptor, error) {
	if !ref.Start.Key.Digested() {
		return schema.Descriptor{}, fmt.Errorf("%s has no digest, so that nobody could tell what is vouched for", refLabel(ref))
	}
	r, err := v.Resource(ref.Start.Key)
	if err != nil {
		return schema.Descriptor{}, err
	}
	return schema.Descriptor{Name: refLabel(ref), URI: r.URI, Digest: schema.DigestSet{r.Key.Algorithm(): r.Key.Hex()}}, nil
}

func (a *app) retractCmd() *cobra.Command {
	var f wordFlags
	var reason string
	cmd := &cobra.Command{
		Use:   "retract REF|#INDEX",
		Short: "Withdraw an entry: it stays, and is marked, with all that rests on it",
		Long: `Withdraw an entry, signed with your own key: the naming of a version of a model,
a step, an approval, anything. It stays in all answers, marked with the reason;
what rests on it has the gap retracted. It counts where the key is one that signed
that entry, or is trusted to retract in its namespace; the ledger's own observer
may be it too (--key .retrace/observer.key).`,
		Example: "  retrace retract '#26' --reason 'trained on last year\\'s holidays' --key ada.key\n  retrace retract forecast@3 --reason 'the label is shifted by a day' --key ada.key",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if reason == "" {
				return cannot(errors.New("--reason is missing: who comes upon the entry wants to know why it does not hold"))
			}
			b, v, ref, err := a.ask(cmd.Context(), asked{}, args[0])
			if err != nil {
				return err
			}
			defer b.Close()
			if ref.Entry < 0 {
				return cannot(&hinted{fmt.Errorf("%s is no entry: which of those about it is meant?", refLabel(ref)), "`retrace show " + args[0] + "` lists them; give #INDEX"})
			}
			if ref.Entry == 0 {
				return cannot(errors.New("entry 0 says whose ledger this is, and cannot be withdrawn"))
			}
			e, err := b.log.Entry(cmd.Context(), ref.Entry)
			if err != nil {
				return err
			}
			info, err := v.Entry(ref.Entry)
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("namespace") {
				f.namespace = info.Namespace
			}
			about := schema.Descriptor{Name: fmt.Sprintf("entry %d", ref.Entry), Digest: schema.DigestSet{schema.SHA256: hex.EncodeToString(e.Commitment[:])}}
			return f.give(cmd, a, b, schema.RetractionV1, schema.Retraction{Index: ref.Entry, Reason: reason}, about, fmt.Sprintf("withdraws entry %d (%s)", ref.Entry, info.Summary))
		},
	}
	f.flags(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why it does not hold, in `TEXT`")
	return cmd
}

// who gives the word, in words.
func (f *wordFlags) who() string {
	if f.by != "" {
		return f.by
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

// wordJSON is what came of giving a word.
type wordJSON struct {
	Entry     int64           `json:"entry"`
	Duplicate bool            `json:"duplicate"`
	Evidence  schema.Evidence `json:"evidence"`
	Signer    string          `json:"signer"`
	Size      int64           `json:"size"`
}

// give signs a statement with the person's key and records it.
func (f *wordFlags) give(cmd *cobra.Command, a *app, b *book, predicateType string, predicate any, about schema.Descriptor, done string) error {
	key, err := loadKey(f.key)
	if err != nil {
		return cannot(err)
	}
	s, err := schema.NewStatement(predicateType, predicate, about)
	if err != nil {
		return cannot(err)
	}
	env, err := key.SignStatement(s)
	if err != nil {
		return cannot(err)
	}
	batch := schema.Batch{Namespace: f.namespace, Source: cmd.Name(), Envelopes: []schema.Envelope{env}}
	if b.observer != nil {
		batch.Submitter = b.observer.ID()
	}
	r, err := b.log.Append(cmd.Context(), batch)
	if err != nil {
		return err
	}
	if err := b.graph.Follow(cmd.Context(), b.log); err != nil {
		return err
	}
	v, err := b.view(0, "")
	if err != nil {
		return err
	}
	entry := r.Entries[0]
	info, err := v.Entry(entry.Index)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), wordJSON{entry.Index, entry.Duplicate, info.Evidence, key.ID(), r.Size})
	}
	verb := "recorded as entry"
	if entry.Duplicate {
		verb = "recorded already as entry"
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s %d, %s: %s\n", verb, entry.Index, info.Evidence, printable(done))
	if !info.Evidence.Trusted() {
		counts := "it is shown as a claim"
		if p, ok := predicate.(schema.Retraction); ok {
			if _, valid, err := v.Retraction(p.Index); err != nil || valid {
				return err
			}
			counts = "it does not count"
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "retrace: %s: the key %s is not trusted for it. `retrace keys trust KEY.pub --type %s` trusts it from then on\n", counts, key.ID(), predicateType)
	}
	return nil
}
