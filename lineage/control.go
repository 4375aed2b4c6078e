package lineage

import (
	"context"
	"fmt"
	"slices"

	"github.com/retrace-ledger/retrace/schema"
)

// control handles the entries that decide how others are graded.
func (w *indexer) control(ctx context.Context, log Log, d *decoded, m *meta) error {
	switch {
	case d.facts.PredicateType == schema.GenesisV1 && d.Index == 0:
		var p schema.Genesis
		if err := schema.DecodePredicate(d.statement, true, &p); err != nil {
			return err
		}
		pub, err := w.g.parseKey(schema.Trust{Key: p.ObserverKey})
		if err != nil {
			return fmt.Errorf("observer key of genesis: %w", err)
		}
		w.state.Observer = pub.ID
		m.Signers = w.g.signers(d.Envelope, []schema.PublicKey{pub})
		t := trustEntry{Index: 0, Trust: schema.Trust{Action: "observer", KeyID: pub.ID, Key: p.ObserverKey}}
		w.trust = append(w.trust, t)
		return w.putJSON(key(tagTrust, d.Index), t.Trust)
	case d.facts.PredicateType == schema.TrustV1 && slices.Contains(d.signers, w.state.Observer):
		var p schema.Trust
		if err := schema.DecodePredicate(d.statement, true, &p); err != nil {
			return err
		}
		pub, err := w.g.parseKey(p)
		if err != nil && p.Identity != nil {
			m.Unreadable = err.Error()
			return nil
		}
		if err != nil || pub.ID != p.KeyID {
			m.Unreadable = fmt.Sprintf("key does not have the ID %s stated beside it", p.KeyID)
			return nil
		}
		if p.Action == "rotate" && !w.rotates(d, p, pub) {
			m.Unreadable = fmt.Sprintf("the rotation to %s is not signed by that key, or is of another time or in the place of another key", p.KeyID)
			return nil
		}
		t := trustEntry{Index: d.Index, Trust: p}
		w.trust = append(w.trust, t)
		if p.Action == "rotate" && !slices.Contains(m.Signers, p.KeyID) {
			m.Signers = append(slices.Clone(m.Signers), p.KeyID) // by which its signature was not looked for yet
		}
		if p.Action == "rotate" && p.Role == schema.RoleObserver {
			w.state.Observer = p.KeyID
		}
		if err := w.putJSON(key(tagTrust, d.Index), t.Trust); err != nil {
			return err
		}
		return w.recheck(ctx, log, d.Index, pub)
	case d.facts.PredicateType == schema.ErasureV1 && slices.Contains(d.signers, w.state.Observer):
		return w.erasure(d)
	case d.facts.PredicateType == schema.RetractionV1:
		return w.retraction(d)
	}
	return nil
}

// rotates says whether the rotation t in d is one: signed by the new key as
// well, in the place of the observer in force, from when it was recorded. That
// the log keys signed theirs was for the ledger to check, and is for whoever
// verifies.
func (w *indexer) rotates(d *decoded, t schema.Trust, pub schema.PublicKey) bool {
	return t.NotBefore.Equal(d.Header.RecordedAt) &&
		(t.Role != schema.RoleObserver || t.Replaces == w.state.Observer) &&
		len(w.g.signers(d.Envelope, []schema.PublicKey{pub})) > 0
}

// recheck looks at the signatures that could not be checked before pub was
// known.
func (w *indexer) recheck(ctx context.Context, log Log, trust int64, pub schema.PublicKey) error {
	if slices.ContainsFunc(w.g.keys, func(k schema.PublicKey) bool { return k.ID == pub.ID }) {
		return nil
	}
	var unknown []int64
	if err := scan(w.txn, key(tagUnknown), func(k, _ []byte) error {
		unknown = append(unknown, entryAt(k, 1))
		return nil
	}); err != nil {
		return err
	}
	for _, index := range unknown {
		if index >= trust {
			break
		}
		e, err := log.Entry(ctx, index)
		if err != nil {
			return err
		}
		if e.State != schema.Present {
			continue
		}
		if ids := w.g.signers(e.Envelope, []schema.PublicKey{pub}); len(ids) > 0 {
			if err := w.putJSON(key(tagVerified, index, trust), ids); err != nil {
				return err
			}
			w.rechecked = append(w.rechecked, index)
		}
	}
	return nil
}
