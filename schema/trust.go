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

// Better says whether e is stronger than o.
func (e Evidence) Better(o Evidence) bool {
	strength := map[Evidence]int{Attested: 2, Observed: 1}
	return strength[e] > strength[o]
}

// TrustHistory is what the trust entries below some size say. The zero value
// trusts nobody. It is a pure function of genesis and of the trust entries
// applied in order, so that every holder of those entries grades alike.
type TrustHistory struct {
	observers []observer // oldest first; the first from genesis
	keys      map[string][]Trust
}

// observer is a key that signs what the ledger observes, from when on.
type observer struct {
	id   string
	from time.Time // zero for the one that genesis names
}

// NewTrustHistory returns the history that starts with the ledger's observer
// key.
func NewTrustHistory(observerKeyID string) *TrustHistory {
	h := &TrustHistory{keys: map[string][]Trust{}}
	if observerKeyID != "" {
		h.observers = []observer{{id: observerKeyID}}
	}
	return h
}

// Apply adds the next trust entry. A statement counts once: the same one in a
// later entry is a copy that anybody can hand in, and would undo a revocation.
// A rotation counts if it replaces the observer that is in force; that the
// keys signed it is for the caller to check.
func (h *TrustHistory) Apply(t Trust) {
	same := func(o Trust) bool { return reflect.DeepEqual(o, t) }
	if slices.ContainsFunc(h.keys[t.KeyID], same) {
		return
	}
	h.keys[t.KeyID] = append(h.keys[t.KeyID], t)
	if t.Action == "rotate" && t.Role == RoleObserver && t.Replaces == h.Observer() && t.Replaces != "" {
		h.observers = append(h.observers, observer{t.KeyID, t.NotBefore})
	}
}

// Observer is the key ID of the ledger's own observer: the one in force at the
// end of the history.
func (h *TrustHistory) Observer() string {
	if len(h.observers) == 0 {
		return ""
	}
	return h.observers[len(h.observers)-1].id
}

// observes says whether id is the observer for what was recorded at a time.
func (h *TrustHistory) observes(id string, at time.Time) bool {
	for i, o := range slices.Backward(h.observers) {
		if i == 0 || !at.Before(o.from) {
			return o.id == id
		}
	}
	return false
}

// Keys returns the PEM of every key that a trust entry names, by key ID; of an
// identity "".
func (h *TrustHistory) Keys() map[string]string {
	pems := make(map[string]string, len(h.keys))
	for id, ts := range h.keys {
		pems[id] = ts[len(ts)-1].Key
	}
	return pems
}

// Grade says how we know what an entry states, given the IDs of the keys whose
// signatures on its envelope verified. What an observer signs is observed
// while it is in force; a rotation entry, which both sign, is the first of the
// new one's time.
func (h *TrustHistory) Grade(header Header, predicateType string, signers []string) Evidence {
	grade := Claimed
	for _, id := range signers {
		switch own := h.observes(id, header.RecordedAt); {
		case !own && h.trusts(id, header, predicateType):
			return Attested
		case own && !h.revoked(id, header.RecordedAt):
			grade = Observed
		}
	}
	return grade
}

// trusts follows the entries about one key: trust adds up, and a revocation
// ends all trust stated before it for what was recorded from its NotAfter on.
func (h *TrustHistory) trusts(id string, header Header, predicateType string) bool {
	ok := false
	for _, t := range h.keys[id] {
		if t.Action == "rotate" || t.Action == "recognize" {
			continue // says whose key it is, not that it is trusted
		}
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
