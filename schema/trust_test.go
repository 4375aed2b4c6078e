package schema

import (
	"testing"
	"time"
)

// TestGrade follows a key through its life: trusted in a place, for a purpose
// and a time, revoked, trusted again.
func TestGrade(t *testing.T) {
	day := func(d int) time.Time { return time.Date(2026, 1, d, 0, 0, 0, 0, time.UTC) }
	trust := func(id string, notBefore, notAfter time.Time) Trust {
		return Trust{Action: "trust", KeyID: id, Key: "pem " + id, NotBefore: notBefore, NotAfter: notAfter}
	}
	scoped := trust("scoped", time.Time{}, time.Time{})
	scoped.Namespaces, scoped.PredicateTypes = []string{"team-a"}, []string{ProvenanceV1}
	h := NewTrustHistory("observer")
	for _, e := range []Trust{
		trust("always", time.Time{}, time.Time{}),
		trust("window", day(10), day(20)),
		scoped,
		trust("revoked", time.Time{}, time.Time{}),
		{Action: "revoke", KeyID: "revoked", Key: "pem revoked", NotAfter: day(10)},
		trust("again", time.Time{}, time.Time{}),
		{Action: "revoke", KeyID: "again", Key: "pem again", NotAfter: day(5)},
		trust("again", day(15), time.Time{}),
		{Action: "revoke", KeyID: "observer", Key: "pem observer", NotAfter: day(25)},
		{Action: "revoke", KeyID: "early", Key: "pem early", NotAfter: day(1)},
	} {
		h.Apply(e)
	}
	for _, tt := range []struct {
		signers   string
		day       int
		namespace string
		want      Evidence
	}{
		{"always", 1, "x", Attested},
		{"nobody", 1, "x", Claimed},
		{"", 1, "x", Claimed},
		{"window", 9, "x", Claimed},
		{"window", 10, "x", Attested},
		{"window", 19, "x", Attested},
		{"window", 20, "x", Claimed},
		{"scoped", 1, "team-a", Attested},
		{"scoped", 1, "team-b", Claimed},
		{"revoked", 9, "x", Attested},
		{"revoked", 10, "x", Claimed},
		{"again", 4, "x", Attested},
		{"again", 5, "x", Claimed},
		{"again", 15, "x", Attested},
		{"observer", 24, "x", Observed},
		{"observer", 25, "x", Claimed},
		{"early", 1, "x", Claimed},
	} {
		var signers []string
		if tt.signers != "" {
			signers = []string{tt.signers}
		}
		header := Header{RecordedAt: day(tt.day), Namespace: tt.namespace}
		if got := h.Grade(header, ProvenanceV1, signers); got != tt.want {
			t.Errorf("signed by %q on day %d in %s: %s, want %s", tt.signers, tt.day, tt.namespace, got, tt.want)
		}
	}
	if got := h.Grade(Header{RecordedAt: day(1), Namespace: "team-a"}, VSAv1, []string{"scoped"}); got != Claimed {
		t.Errorf("a key trusted for provenance signs a verdict: %s, want %s", got, Claimed)
	}
	if got := h.Grade(Header{RecordedAt: day(1)}, ProvenanceV1, []string{"nobody", "observer", "always"}); got != Attested {
		t.Errorf("signed by several: %s, want the strongest, %s", got, Attested)
	}
	if got := new(TrustHistory).Grade(Header{}, ProvenanceV1, []string{""}); got != Claimed {
		t.Errorf("a history that trusts nobody says %s", got)
	}
	if pems := h.Keys(); len(pems) != 7 || pems["always"] != "pem always" {
		t.Errorf("Keys() = %v", pems)
	}
}
