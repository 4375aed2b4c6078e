package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

func (a *app) keysCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "keys",
		Short:   "List the keys of the ledger and those it trusts",
		Long:    "List the keys of the ledger and those it trusts. Every change of trust is an entry:\nanswers as of an earlier size are graded by what was trusted then.",
		Example: "  retrace keys\n  retrace keys create ada.key\n  retrace keys trust builder.pub --name ci --type https://slsa.dev/provenance/v1\n  retrace keys revoke builder.pub --since '2h ago' --reason 'laptop stolen'\n  retrace keys rotate log",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
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
			return a.listKeys(cmd, b, v)
		},
	}
	cmd.AddCommand(a.createKeyCmd(), a.trustCmd(), a.revokeCmd(), a.rotateCmd())
	return cmd
}

// createKeyCmd makes a key for a person, who signs what they vouch for.
func (a *app) createKeyCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "create FILE",
		Short:   "Make a private key of your own (Ed25519, readable by you alone), and FILE.pub beside it",
		Example: "  retrace keys create ada.key\n  retrace keys trust ada.key.pub --name ada --type " + schema.AttestationV1,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := keys.Generate()
			if err != nil {
				return err
			}
			public, err := k.PublicPEM()
			if err != nil {
				return err
			}
			if err := k.Create(args[0]); err != nil {
				return cannot(err)
			}
			if err := os.WriteFile(args[0]+".pub", []byte(public), 0o644); err != nil {
				return cannot(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s\n", k.ID())
			fmt.Fprintf(cmd.ErrOrStderr(), "retrace: keep %s to yourself; %s.pub is for whoever shall trust it\n", args[0], args[0])
			return nil
		},
	}
}

type trustJSON struct {
	Entry int64 `json:"entry"`
	schema.Trust
}

// ownKeyJSON is one of the ledger's own keys, past or in force.
type ownKeyJSON struct {
	Entry int64  `json:"entry"` // that names it
	KeyID string `json:"keyID"`
	VKey  string `json:"vkey,omitempty"`  // of a log key
	Until int64  `json:"until,omitempty"` // the entry that put another in its place
}

func (a *app) listKeys(cmd *cobra.Command, b *book, v *lineage.View) error {
	trusted, err := readTrust(cmd.Context(), b, v)
	if err != nil {
		return err
	}
	logs, observers := ownKeys(trusted.chain.Logs()), ownKeys(trusted.chain.Observers())
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), struct {
			Origin    string       `json:"origin"`
			LogKey    string       `json:"logKey"`   // in force
			Observer  string       `json:"observer"` // in force
			LogKeys   []ownKeyJSON `json:"logKeys"`
			Observers []ownKeyJSON `json:"observers"`
			Trust     []trustJSON  `json:"trust"`
		}{trusted.chain.Origin(), logs[len(logs)-1].VKey, observers[len(observers)-1].KeyID, logs, observers, trusted.entries})
	}
	t := newTable(cmd.OutOrStdout(), "ENTRY", "ROLE", "KEY", "NAME", "FROM", "UNTIL", "FOR")
	for _, own := range []struct {
		role string
		keys []ownKeyJSON
	}{{schema.RoleLog, logs}, {schema.RoleObserver, observers}} {
		for _, k := range own.keys {
			note, id := "", k.KeyID
			if k.Until > 0 {
				note = fmt.Sprintf("until entry %d", k.Until)
			}
			if k.VKey != "" {
				id = k.VKey
			}
			t.row(fmt.Sprint(k.Entry), own.role, id, note)
		}
	}
	for _, k := range trusted.entries {
		name, scope := k.Name, trustScope(k.Trust)
		if k.Action != "trust" {
			name, scope = k.Reason, ""
		}
		if k.Action == "recognize" {
			scope = "nothing: its signatures are shown"
		}
		if k.Action == "rotate" {
			scope = "the " + k.Role + " key"
		}
		t.row(fmt.Sprint(k.Entry), k.Action, k.KeyID, name, when(k.NotBefore), when(k.NotAfter), scope)
	}
	return t.flush()
}

func ownKeys(links []verify.Link) []ownKeyJSON {
	out := make([]ownKeyJSON, len(links))
	for i, l := range links {
		out[i] = ownKeyJSON{Entry: l.Entry, KeyID: l.ID, VKey: l.VKey}
		if i+1 < len(links) {
			out[i].Until = links[i+1].Entry
		}
	}
	return out
}

// trustScope is what a key is trusted for, in words.
func trustScope(t schema.Trust) string {
	what := "everything"
	if len(t.PredicateTypes) > 0 {
		types := make([]string, len(t.PredicateTypes))
		for i, p := range t.PredicateTypes {
			types[i] = shortPredicateType(p)
		}
		what = strings.Join(types, ", ")
	}
	if len(t.Namespaces) > 0 {
		what += " in " + strings.Join(t.Namespaces, ", ")
	}
	return what
}

// trustRecord is what the ledger says of keys: its own, and those it trusts.
type trustRecord struct {
	chain   *verify.Chain
	entries []trustJSON
}

func readTrust(ctx context.Context, b *book, v *lineage.View) (trustRecord, error) {
	r := trustRecord{entries: []trustJSON{}}
	read := func(index int64, into any) (schema.Entry, error) {
		e, err := b.log.Entry(ctx, index)
		if err != nil {
			return e, err
		}
		s, err := e.Envelope.Statement()
		if err != nil {
			return e, err
		}
		return e, schema.DecodePredicate(s, true, into)
	}
	var g schema.Genesis
	if _, err := read(0, &g); err != nil {
		return r, err
	}
	var err error
	if r.chain, err = verify.NewChain(g); err != nil {
		return r, err
	}
	for e, err := range v.Entries(ctx, 0, lineage.Filter{PredicateType: schema.TrustV1}) {
		if err != nil {
			return r, err
		}
		if !slices.Contains(e.Signers, r.chain.Observer().ID) {
			continue // somebody else's wish: no answer heeds it
		}
		t := trustJSON{Entry: e.Index}
		entry, err := read(e.Index, &t.Trust)
		if err != nil {
			return r, err
		}
		if r.chain, err = r.chain.Follow(entry); err != nil {
			return r, err
		}
		r.entries = append(r.entries, t)
	}
	return r, nil
}

// identityFlags say who signs with certificates.
type identityFlags struct {
	root    string // name of a file
	subject string
	issuer  string
}

func (f *identityFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.root, "trusted-root", "", "`FILE` of a Sigstore trusted root: the authorities and logs that are believed")
	cmd.Flags().StringVar(&f.subject, "certificate-identity", "", "whom certificates name, exactly: an e-mail `ADDRESS` or a URI")
	cmd.Flags().StringVar(&f.issuer, "certificate-oidc-issuer", "", "`URL` of the login service that vouches for them")
}

func (f *identityFlags) given() bool { return *f != identityFlags{} }

// read returns the identity that the flags name; the trusted root is checked.
func (f *identityFlags) read() (*schema.Identity, error) {
	if f.root == "" || f.subject == "" || f.issuer == "" {
		return nil, errors.New("--trusted-root, --certificate-identity and --certificate-oidc-issuer go together: a certificate is by somebody, whom a login service vouches for, under authorities that are believed")
	}
	raw, err := readFileOrStdin(f.root, schema.MaxTrustedRoot)
	if err != nil {
		return nil, err
	}
	who := &schema.Identity{Subject: f.subject, Issuer: f.issuer, TrustedRoot: string(raw)}
	if _, err := verify.Trusted(schema.Trust{Identity: who}); err != nil {
		return nil, fmt.Errorf("%s: %w", f.root, err)
	}
	return who, nil
}

func (a *app) trustCmd() *cobra.Command {
	var name, from, until string
	var types, namespaces []string
	var identity identityFlags
	cmd := &cobra.Command{
		Use:   "trust [FILE]",
		Short: "Trust a public key (PEM), or who signs with certificates: what they sign is graded attested",
		Example: "  retrace keys trust builder.pub --name ci\n" +
			"  retrace keys trust --trusted-root trusted_root.json \\\n" +
			"    --certificate-oidc-issuer https://token.actions.githubusercontent.com \\\n" +
			"    --certificate-identity https://github.com/ORG/REPO/.github/workflows/build.yml@refs/heads/main",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t := schema.Trust{Action: "trust", Name: name, Namespaces: namespaces}
			for _, p := range types {
				t.PredicateTypes = append(t.PredicateTypes, fullPredicateType(p))
			}
			var err error
			if t.NotBefore, err = parseTime(from, time.Now()); err != nil {
				return cannot(err)
			}
			if t.NotAfter, err = parseTime(until, time.Now()); err != nil {
				return cannot(err)
			}
			if err := keyOrIdentity(args, &identity); err != nil {
				return cannot(err)
			}
			if !identity.given() {
				return a.writeKeyTrust(cmd, args[0], t)
			}
			who, err := identity.read()
			if err != nil {
				return cannot(err)
			}
			return a.writeTrust(cmd, aboutIdentity(t, who))
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "who holds the key, in `WORDS`")
	cmd.Flags().StringArrayVar(&types, "type", nil, "only for this predicate `TYPE`; may be repeated")
	cmd.Flags().StringArrayVar(&namespaces, "namespace", nil, "only in this `NAMESPACE`; may be repeated")
	cmd.Flags().StringVar(&from, "from", "", "only entries recorded from this `TIME` on")
	cmd.Flags().StringVar(&until, "until", "", "only entries recorded before this `TIME`")
	identity.add(cmd)
	return cmd
}

// keyOrIdentity refuses both and neither.
func keyOrIdentity(args []string, identity *identityFlags) error {
	switch {
	case len(args) == 0 && !identity.given():
		return errors.New("want the FILE of a public key, or --certificate-identity with what goes with it")
	case len(args) > 0 && identity.given():
		return errors.New("a FILE of a public key and --certificate-identity are two things to trust: give one of them")
	}
	return nil
}

func (a *app) revokeCmd() *cobra.Command {
	var since, reason string
	var identity identityFlags
	cmd := &cobra.Command{
		Use:   "revoke [FILE]",
		Short: "No longer trust a public key (PEM) or an identity for what is recorded from now on, or since a TIME",
		Long: "No longer trust a public key (PEM) or an identity for what is recorded from now on, or since a TIME.\n" +
			"An identity is named by --certificate-identity and --certificate-oidc-issuer; without --trusted-root\nit is revoked under every root that it was trusted under.",
		Example: "  retrace keys revoke builder.pub --since '2026-11-03 14:00' --reason 'key was in a log file'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := parseTime(since, time.Now())
			if err != nil {
				return cannot(err)
			}
			if at.IsZero() {
				at = time.Now()
			}
			if err := keyOrIdentity(args, &identity); err != nil {
				return cannot(err)
			}
			t := schema.Trust{Action: "revoke", NotAfter: at, Reason: reason}
			if !identity.given() {
				return a.writeKeyTrust(cmd, args[0], t)
			}
			return a.revokeIdentity(cmd, identity, t)
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "`TIME` from when the key is not trusted (default now)")
	cmd.Flags().StringVar(&reason, "reason", "", "why, in `WORDS`")
	identity.add(cmd)
	return cmd
}

// revokeIdentity revokes an identity under the root that is given, or under
// each that the ledger trusts it under.
func (a *app) revokeIdentity(cmd *cobra.Command, f identityFlags, t schema.Trust) error {
	if f.root != "" {
		who, err := f.read()
		if err != nil {
			return cannot(err)
		}
		return a.writeTrust(cmd, aboutIdentity(t, who))
	}
	b, err := a.open(cmd.Context())
	if err != nil {
		return err
	}
	v, err := b.view(0, "")
	if err != nil {
		return errors.Join(err, b.Close())
	}
	trusted, err := readTrust(cmd.Context(), b, v)
	if err = errors.Join(err, b.Close()); err != nil {
		return err
	}
	var all []schema.Trust
	for _, known := range trusted.entries {
		who := known.Identity
		if known.Action == "revoke" || who == nil || who.Subject != f.subject || who.Issuer != f.issuer {
			continue
		}
		if !slices.ContainsFunc(all, func(r schema.Trust) bool { return r.KeyID == known.KeyID }) {
			all = append(all, aboutIdentity(t, who))
		}
	}
	if len(all) == 0 {
		return cannot(fmt.Errorf("no entry trusts %s by %s; `retrace keys` lists what is trusted", f.subject, f.issuer))
	}
	return a.writeTrust(cmd, all...)
}

// aboutIdentity is t about an identity.
func aboutIdentity(t schema.Trust, who *schema.Identity) schema.Trust {
	t.KeyID, t.Identity = who.ID(), who
	return t
}

// mayTrust refuses to write what no answer would heed: only the ledger's
// observer changes trust, so that an agent cannot trust itself.
func mayTrust(cmd *cobra.Command, b *book) error {
	v, err := b.view(0, "")
	if err != nil {
		return err
	}
	trusted, err := readTrust(cmd.Context(), b, v)
	if err != nil {
		return err
	}
	observer := trusted.chain.Observer()
	if b.observer != nil && b.observer.ID() != observer.ID {
		return cannot(&hinted{
			fmt.Errorf("this agent's key is not the ledger's observer key %s, which alone changes trust", observer.ID),
			"run it where the ledger is; beside a running server it needs no --server",
		})
	}
	return nil
}

// writeKeyTrust records t about each key in a file.
func (a *app) writeKeyTrust(cmd *cobra.Command, file string, t schema.Trust) error {
	ks, err := readPublicKeys(file)
	if err != nil {
		return cannot(err)
	}
	var all []schema.Trust
	for _, k := range ks {
		t.KeyID = k.ID
		if t.Key, err = keys.MarshalPublic(k.Key); err != nil {
			return err
		}
		all = append(all, t)
	}
	return a.writeTrust(cmd, all...)
}

// trustStatement states t about its key or identity.
func trustStatement(t schema.Trust) (schema.Statement, error) {
	subject := schema.Descriptor{Name: "key " + t.KeyID, Digest: schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(t.Key)).Hex()}}
	if t.Identity != nil {
		raw, err := schema.Canonical(t.Identity)
		if err != nil {
			return schema.Statement{}, err
		}
		subject = schema.Descriptor{Name: "identity " + t.Identity.Subject, Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(raw).Hex()}}
	}
	return schema.NewStatement(schema.TrustV1, t, subject)
}

// writeTrust records what is said of keys and identities.
func (a *app) writeTrust(cmd *cobra.Command, all ...schema.Trust) error {
	var statements []schema.Statement
	for _, t := range all {
		t.NotBefore, t.NotAfter = utcOrZero(t.NotBefore), utcOrZero(t.NotAfter)
		s, err := trustStatement(t)
		if err != nil {
			return err
		}
		statements = append(statements, s)
	}
	b, err := a.open(cmd.Context())
	if err != nil {
		return err
	}
	defer b.Close()
	if err := mayTrust(cmd, b); err != nil {
		return err
	}
	r, err := b.record(cmd.Context(), "keys", statements)
	if err != nil {
		return err
	}
	for i, t := range all {
		if r.Entries[i].Duplicate {
			fmt.Fprintf(cmd.OutOrStdout(), "entry %d says so already: nothing was changed, and a revocation since then stands; to trust the key again, say --from when\n", r.Entries[i].Index)
			continue
		}
		fmt.Fprintf(cmd.OutOrStdout(), "entry %d: %s %s\n", r.Entries[i].Index, t.Action, t.KeyID)
	}
	return nil
}

func utcOrZero(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC().Truncate(time.Microsecond)
}

// readPublicKeys reads all public keys in a PEM file.
func readPublicKeys(file string) ([]schema.PublicKey, error) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []schema.PublicKey
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		k, err := keys.ParsePublic(pem.EncodeToMemory(block))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s holds no public key in PEM", file)
	}
	return out, nil
}

// readFileOrStdin reads at most limit bytes of a file, or of standard input
// for "-".
func readFileOrStdin(name string, limit int64) ([]byte, error) {
	f := os.Stdin
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, errors.New(name + " is larger than the limit of " + fmt.Sprint(limit) + " bytes")
	}
	return raw, nil
}
