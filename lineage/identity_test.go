package lineage_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
	"github.com/retrace-ledger/retrace/verify/sigstore/sigstoretest"
)

// TestIdentities trusts, recognizes and revokes who signs with certificates:
// grades follow, as of each size, and a bundle proves them offline.
func TestIdentities(t *testing.T) {
	const builder, login = "https://git.example.com/ml/trainer/.github/workflows/build.yml@refs/heads/main", "https://token.example.com"
	sigstore, elsewhere := sigstoretest.New(t), sigstoretest.New(t)
	who := sigstore.Identity(builder, login)
	log := lineagetest.New(t)
	add := func(s *sigstoretest.Sigstore, subject string, statement schema.Statement, namespace string) int64 {
		payload, err := statement.Encode()
		if err != nil {
			t.Fatal(err)
		}
		env, err := schema.ParseEnvelope(s.Bundle("0.3", subject, login, payload))
		if err != nil {
			t.Fatal(err)
		}
		return log.AddEnvelope(env, namespace)
	}
	early := add(sigstore, builder, run(t, "e", "e", "in"), "team-a")
	recognized := log.Add(lineagetest.TrustIdentity(t, who, func(p *schema.Trust) { p.Action = "recognize" }))
	trusted := log.Add(lineagetest.TrustIdentity(t, who, func(p *schema.Trust) {
		p.Namespaces, p.PredicateTypes = []string{"team-a"}, []string{schema.ProvenanceV1}
	}))
	late := add(sigstore, builder, run(t, "l", "l", "in"), "team-a")
	namespace := add(sigstore, builder, run(t, "n", "n", "in"), "team-b")
	predicate := add(sigstore, builder, lineagetest.Model(t, "m", "1", "", file("e")), "team-a")
	somebody := add(sigstore, "mallory@example.com", run(t, "s", "s", "in"), "team-a")
	root := add(elsewhere, builder, run(t, "r", "r", "in"), "team-a")
	broken := log.Add(lineagetest.TrustIdentity(t, &schema.Identity{Subject: builder, Issuer: login, TrustedRoot: "{}"}, nil))
	revoked := log.Add(lineagetest.TrustIdentity(t, who, func(p *schema.Trust) {
		p.Action, p.NotAfter = "revoke", lineagetest.RecordedAt(late)
	}))
	g := log.Graph(t)
	for _, c := range []struct {
		size, entry int64
		want        schema.Evidence
		signed      bool
	}{
		{recognized, early, schema.Claimed, false},
		{recognized + 1, early, schema.Claimed, true},
		{trusted + 1, early, schema.Attested, true},
		{revoked, late, schema.Attested, true},
		{revoked, namespace, schema.Claimed, true},
		{revoked, predicate, schema.Claimed, true},
		{revoked, somebody, schema.Claimed, false},
		{revoked, root, schema.Claimed, false},
		{revoked + 1, late, schema.Claimed, true},
		{revoked + 1, early, schema.Attested, true},
	} {
		v := at(t, g, lineage.At{Size: c.size})
		if got := grade(t, v, c.entry); got != c.want {
			t.Errorf("as of %d entries, entry %d is %s, want %s", c.size, c.entry, got, c.want)
		}
		e, err := v.Entry(c.entry)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(e.Signers, who.ID()) != c.signed {
			t.Errorf("as of %d entries, entry %d is signed by %v, want the identity: %v", c.size, c.entry, e.Signers, c.signed)
		}
	}
	if e, err := at(t, g, lineage.At{}).Entry(broken); err != nil || !strings.Contains(e.Unreadable, "trusted root") {
		t.Errorf("a root that cannot be read is unreadable: %q, %v", e.Unreadable, err)
	}
	for size, want := range map[int64]schema.Evidence{recognized + 1: schema.Claimed, trusted + 1: schema.Attested} {
		v := at(t, g, lineage.At{Size: size})
		l := answer(t, v, ref("e"), lineage.LineageOptions{})
		b, err := verify.Build(t.Context(), log, verify.Claim{Ref: string(l.Ref.Start.Key), Root: l.Ref.Start.Key, Entry: -1, Direction: schema.Upstream, Size: size, Edges: l.Edges}, l.Entries...)
		if err != nil {
			t.Fatal(err)
		}
		verdict, err := b.Verify(t.Context(), log.Verifier(), nil)
		if err != nil {
			t.Fatalf("as of %d entries: %v", size, err)
		}
		i := slices.IndexFunc(verdict.Entries, func(e verify.VerdictEntry) bool { return e.Index == early })
		if e := verdict.Entries[i]; e.Evidence != want || !slices.Equal(e.Signers, []string{who.ID()}) {
			t.Errorf("as of %d entries, offline: %s, signed by %v; want %s", size, e.Evidence, e.Signers, want)
		}
	}
}
