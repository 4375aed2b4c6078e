package replay

import (
	"fmt"
	"slices"

	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// trust is which keys the entries so far make known, and for what.
type trust struct {
	history  *schema.TrustHistory
	observer string             // PEM of genesis; "" before it
	applied  []schema.Trust     // in order: with the observer, all that history and keys are made of
	keys     []schema.PublicKey // the observer's first
}

func newTrust() trust { return trust{history: schema.NewTrustHistory("")} }

// begin starts the history with the observer of genesis.
func (t *trust) begin(observer schema.PublicKey, pem string) {
	*t = trust{history: schema.NewTrustHistory(observer.ID), observer: pem, keys: []schema.PublicKey{observer}}
}

// isObserver says whether a key ID is the ledger's own observer's. All that
// asks this asks here.
func (t *trust) isObserver(id string) bool {
	return id != "" && id == t.history.Observer()
}

// observed says whether the ledger's observer signed d.
func (t *trust) observed(d *document) bool { return slices.ContainsFunc(d.signers, t.isObserver) }

// apply takes a trust entry that the observer signed; others trust nobody. It
// returns why an entry could not be taken, or "".
func (t *trust) apply(d *document) string {
	if !t.observed(d) {
		return ""
	}
	var p schema.Trust
	if err := schema.DecodePredicate(d.statement, true, &p); err != nil {
		return err.Error()
	}
	if err := t.learn(p); err != nil {
		return err.Error()
	}
	return ""
}

// learn adds what a trust entry states.
func (t *trust) learn(p schema.Trust) error {
	pub, err := verify.Trusted(p)
	if err != nil {
		return err
	}
	if pub.ID != p.KeyID {
		return fmt.Errorf("key does not have the ID %s stated beside it", p.KeyID)
	}
	t.history.Apply(p)
	t.applied = append(t.applied, p)
	if _, known := t.key(pub.ID); !known {
		t.keys = append(t.keys, pub)
	}
	return nil
}

func (t *trust) key(id string) (schema.PublicKey, bool) {
	i := slices.IndexFunc(t.keys, func(k schema.PublicKey) bool { return k.ID == id })
	if i < 0 {
		return schema.PublicKey{}, false
	}
	return t.keys[i], true
}

// check verifies the signatures of d by the known keys. The key ID in a
// signature is a hint where to begin (DSSE v1, protocol.md): a signature is
// whoever's key verifies it.
func (t *trust) check(d *document) {
	for i, sig := range d.Envelope.Signatures {
		one := d.Envelope
		one.Signatures = d.Envelope.Signatures[i : i+1]
		var by []string
		named, known := t.key(sig.KeyID)
		if known {
			by = verify.Signers(one, []schema.PublicKey{named})
		}
		if len(by) == 0 {
			by = verify.Signers(one, t.keys)
			if known {
				d.forged = append(d.forged, sig.KeyID)
			}
		}
		if len(by) > 0 {
			d.verified++
		} else if !known {
			d.unknown++
		}
		for _, id := range by {
			if !slices.Contains(d.signers, id) {
				d.signers = append(d.signers, id)
			}
		}
	}
}
