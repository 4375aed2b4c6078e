package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

func (a *app) proveCmd() *cobra.Command {
	var q asked
	var out string
	var down bool
	var depth int
	var redact []int64
	cmd := &cobra.Command{
		Use:   "prove REF --bundle FILE",
		Short: "Write one file that proves an answer offline",
		Long: `Write a bundle: the lineage of a resource (or one entry), the signed entries
that state it, the place of each in the ledger, and the signed checkpoint.
Whoever has log.vkey checks it with "retrace verify", without this ledger.

With --redact, the bodies of entries are left out, and so is what they state:
each still has its place in the log, and the verdict says how many are withheld.`,
		Example: "  retrace prove forecast@3 --bundle forecast-3.bundle\n  retrace prove forecast@3 --redact 12 --redact 15 --bundle for-them.bundle\n  retrace prove entry:12 --bundle -",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, v, ref, err := a.ask(cmd.Context(), q, args[0])
			if err != nil {
				return err
			}
			defer b.Close()
			if err := b.provable(cmd.Context(), v); err != nil {
				return cannot(err)
			}
			opt := lineage.LineageOptions{Depth: depth, Without: redact}
			if down {
				opt.Direction = schema.Downstream
			}
			bundle, err := prove(cmd.Context(), b, v, ref, opt)
			if err != nil {
				return err
			}
			raw, err := bundle.Marshal()
			if err != nil {
				return err
			}
			if out == "-" {
				_, err = cmd.OutOrStdout().Write(raw)
				return err
			}
			if err := os.WriteFile(out, raw, 0o644); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s, %d bytes, under a checkpoint of size %d\n", out,
				count(len(bundle.Entries), "entry", "entries"), count(len(bundle.Claim.Edges), "edge", "edges"), len(raw), b.log.Size())
			return nil
		},
	}
	q.flags(cmd)
	cmd.Flags().StringVar(&out, "bundle", "-", "`FILE` to write, - for standard output")
	cmd.Flags().BoolVar(&down, "down", false, "prove what was made from it")
	cmd.Flags().IntVar(&depth, "depth", 0, "at most `N` steps away")
	cmd.Flags().Int64SliceVar(&redact, "redact", nil, "leave out the body of the entry at `INDEX`")
	return cmd
}

// provable refuses proofs of before the log key was rotated: the checkpoint is
// signed by the key in force, and the entry that says so is none that the answer may
// rest on.
func (b *book) provable(ctx context.Context, v *lineage.View) error {
	all, err := b.view(0, "")
	if err != nil || all.Size() == v.Size() {
		return err
	}
	trusted, err := readTrust(ctx, b, all)
	if err != nil {
		return err
	}
	logs := trusted.chain.Logs()
	if last := logs[len(logs)-1].Entry; last >= v.Size() {
		return fmt.Errorf("an answer as of size %d cannot be proved any more: entry %d rotated the log key, and the checkpoint is signed by the new one; ask as of size %d or later", v.Size(), last, last+1)
	}
	return nil
}

// prove builds the bundle of what ref's lineage says, or of one entry.
func prove(ctx context.Context, b *book, v *lineage.View, ref lineage.Ref, opt lineage.LineageOptions) (*verify.Bundle, error) {
	if strings.HasPrefix(ref.Text, "#") || strings.HasPrefix(ref.Text, "entry:") {
		if len(opt.Without) > 0 {
			return nil, cannot(errors.New("--redact: an entry is proved with its body"))
		}
		entries, err := v.TrustFor(ref.Entry)
		if err != nil {
			return nil, err
		}
		return verify.Build(ctx, b.log, verify.Claim{Ref: ref.Text, Entry: ref.Entry, Size: v.Size()}, entries...)
	}
	l, err := v.Lineage(ctx, ref, opt)
	if err != nil {
		return nil, err
	}
	claim := verify.Claim{
		Ref: ref.Text, Entry: -1, Root: ref.Start.Key, Run: ref.Start.Run, Direction: l.Direction,
		Depth: opt.Depth, Size: v.Size(), Truncated: l.Truncated, Edges: l.Edges,
	}
	if ref.Name != "" {
		claim.Name, claim.Entry = ref.Name, ref.Entry
	}
	bundle, err := verify.Build(ctx, b.log, claim, append(l.Entries, opt.Without...)...)
	if err != nil {
		return nil, err
	}
	for _, index := range opt.Without {
		if err := bundle.Withhold(index); err != nil {
			return nil, cannot(err)
		}
	}
	return bundle, nil
}

func (a *app) verifyCmd() *cobra.Command {
	var key, policy string
	var trust []string
	var identity identityFlags
	cmd := &cobra.Command{
		Use:   "verify FILE --key KEY",
		Short: "Check a bundle offline, with the log's public key and nothing else",
		Long: `Check a bundle that "retrace prove" wrote: the signature on the checkpoint, the
place of every entry under it, and that the answer is exactly what the entries
state. KEY is log.vkey, its text, or log.pub.

With --trust, evidence is graded by your own keys (PEM), and with --trusted-root by
an identity of your own under your own root, instead of by what the ledger's
operator trusts.

With --policy (a C2SP tlog-policy file: witness, group and quorum lines), the
checkpoint must carry the quorum's cosignatures, and the verdict says who
cosigned, and so no later than when the entries were there. Without it, no
cosignature counts.`,
		Example: "  retrace verify forecast-3.bundle --key log.vkey\n  retrace verify forecast-3.bundle --key log.vkey --policy witnesses.policy\n  retrace verify forecast-3.bundle --key log.vkey --trust builder.pub",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			verdict, err := verifyFile(cmd.Context(), args[0], key, policy, trust, &identity)
			var no *verify.FalseError
			if errors.As(err, &no) {
				if a.output == "json" {
					if err := printJSON(cmd.OutOrStdout(), map[string]any{"holds": false, "claim": no.Claim, "reason": no.Err.Error()}); err != nil {
						return cannot(err)
					}
				}
				return isFalse(fmt.Errorf("%s: %w", args[0], err))
			}
			if err != nil {
				return cannot(fmt.Errorf("%s could not be checked: %w", args[0], err))
			}
			return a.printVerdict(cmd, args[0], verdict)
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "the log's public `KEY`: a file (log.vkey or log.pub), or the verifier key itself")
	cmd.Flags().StringVar(&policy, "policy", "", "demand the quorum of witnesses of this policy `FILE`")
	cmd.Flags().StringArrayVar(&trust, "trust", nil, "grade by the public keys in this PEM `FILE`; may be repeated")
	identity.add(cmd)
	cmd.MarkFlagRequired("key")
	return cmd
}

func verifyFile(ctx context.Context, file, key, policy string, trust []string, identity *identityFlags) (*verify.Verdict, error) {
	raw, err := readFileOrStdin(file, verify.MaxBundle)
	if err != nil {
		return nil, err
	}
	b, err := verify.ParseBundle(raw)
	if err != nil {
		return nil, err
	}
	text := []byte(key)
	if read, err := os.ReadFile(key); err == nil {
		text = read
	} else if !strings.Contains(key, "+") {
		return nil, err
	}
	v, err := verify.ParseLogKey(text, b.Origin())
	if err != nil {
		return nil, err
	}
	var opts verify.Options
	if policy != "" {
		if opts.Policy, err = readPolicy(policy); err != nil {
			return nil, err
		}
	}
	for _, name := range trust {
		ks, err := readPublicKeys(name)
		if err != nil {
			return nil, err
		}
		opts.Trust = append(opts.Trust, ks...)
	}
	if identity.given() {
		who, err := identity.read()
		if err != nil {
			return nil, err
		}
		own, err := verify.Trusted(schema.Trust{Identity: who})
		if err != nil {
			return nil, err
		}
		opts.Trust = append(opts.Trust, own)
	}
	if len(trust) > 0 && len(opts.Trust) == 0 {
		return nil, fmt.Errorf("%s holds no public key to grade by", strings.Join(trust, ", "))
	}
	return b.Verify(ctx, v, &opts)
}

func (a *app) printVerdict(cmd *cobra.Command, file string, v *verify.Verdict) error {
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), struct {
			Holds bool `json:"holds"`
			*verify.Verdict
		}{true, v})
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "OK: %s holds for %s\n\n", file, printable(v.Ref))
	fmt.Fprintln(w, "proven")
	for _, p := range v.Proven {
		fmt.Fprintf(w, "  + %s\n", printable(p))
	}
	fmt.Fprintln(w, "not proven")
	for _, p := range v.NotProven {
		fmt.Fprintf(w, "  - %s\n", printable(p))
	}
	fmt.Fprintf(w, "evidence, graded %s\n", v.Grades)
	t := newTable(w, "  ENTRY", "TYPE", "RECORDED", "EVIDENCE", "SIGNED BY")
	for _, e := range v.Entries {
		signers := strings.Join(e.Signers, ", ")
		if signers == "" {
			signers = "no key known here"
		}
		t.row(fmt.Sprintf("  %d", e.Index), shortPredicateType(e.PredicateType), when(e.RecordedAt), string(e.Evidence), signers)
	}
	return t.flush()
}
