package schema

import (
	"reflect"
	"slices"
	"time"
)

// Evidence is how we know what an entry states.
type Evidence string

// The grades of evidence, strongest first.
const (
	Attested Evidence = "attested" // signed by a key that was trusted for it
	Observed Evidence = "observed" // signed by the ledger's own observer, which saw it
	Claimed  Evidence = "claimed"  // a label, an unsigned document, or a key that nobody trusts says so
)

// Trusted says whether somebody vouches for what is known so: claims alone
// never decide what a name means or which step a run ID means while there is
// better.
func (e Evidence) Trusted() bool { return e == Attested || e == Observed }

// TrustHistory is what the trust entries below some size say. The zero value
// trusts nobody. It is a pure function of genesis and of the trust entries
// applied in order, so that every holder of those entries grades alike.
type TrustHistory struct {
	observer string // key ID from genesis
	keys     map[string][]Trust
}

// NewTrustHistory returns the history that starts with the ledger's observer
// key.
func NewTrustHistory(observerKeyID string) *TrustHistory {
	return &TrustHistory{observer: observerKeyID, keys: map[string][]Trust{}}
}

// Apply adds the next trust entry. A statement counts once: the same one in a
// later entry is a copy that anybody can hand in, and would undo a revocation.
func (h *TrustHistory) Apply(t Trust) {
	same := func(o Trust) bool { return reflect.DeepEqual(o, t) }
	if !slices.ContainsFunc(h.keys[t.KeyID], same) {
		h.keys[t.KeyID] = append(h.keys[t.KeyID], t)
	}
}

// Observer is the key ID of the ledger's own observer.
func (h *TrustHistory) Observer() string { return h.observer }

// Keys returns the PEM of every key that a trust entry names, by key ID.
func (h *TrustHistory) Keys() map[string]string {
	pems := make(map[string]string, len(h.keys))
	for id, ts := range h.keys {
		pems[id] = ts[len(ts)-1].Key
	}
	return pems
}

// Grade says how we know what an entry states, given the IDs of the keys whose
// signatures on its envelope verified.
func (h *TrustHistory) Grade(header Header, predicateType string, signers []string) Evidence {
	for _, id := range signers {
		if id != h.observer && h.trusts(id, header, predicateType) {
			return Attested
		}
	}
	if h.observer != "" && slices.Contains(signers, h.observer) && !h.revoked(h.observer, header.RecordedAt) {
		return Observed
	}
	return Claimed
}

// trusts follows the entries about one key: trust adds up, and a revocation
// ends all trust stated before it for what was recorded from its NotAfter on.
func (h *TrustHistory) trusts(id string, header Header, predicateType string) bool {
	ok := false
	for _, t := range h.keys[id] {
		if t.Action == "revoke" {
			ok = ok && header.RecordedAt.Before(t.NotAfter)
			continue
		}
		ok = ok || inWindow(header.RecordedAt, t.NotBefore, t.NotAfter) &&
			(len(t.Namespaces) == 0 || slices.Contains(t.Namespaces, header.Namespace)) &&
			(len(t.PredicateTypes) == 0 || slices.Contains(t.PredicateTypes, predicateType))
	}
	return ok
}

func (h *TrustHistory) revoked(id string, at time.Time) bool {
	for _, t := range h.keys[id] {
		if t.Action == "revoke" && !at.Before(t.NotAfter) {
			return true
		}
	}
	return false
}

func inWindow(at, notBefore, notAfter time.Time) bool {
	return !at.Before(notBefore) && (notAfter.IsZero() || at.Before(notAfter))
}
