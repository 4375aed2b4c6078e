package lineage

import (
	"fmt"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/schema"
)

// Retraction is an entry that withdraws another. It marks and never removes: what
// was withdrawn stays in answers.
type Retraction struct {
	Entry  int64 // that was withdrawn
	By     int64 // the entry that says so
	Reason string
	At     time.Time // when it was recorded
}

// retraction is one that was followed, whoever signed it.
type retraction struct {
	by int64
	schema.Retraction
}

// retraction takes note of an entry that withdraws one before it.
func (w *indexer) retraction(d *decoded) error {
	r := retraction{by: d.Index}
	if err := schema.DecodePredicate(d.statement, true, &r.Retraction); err != nil {
		return err
	}
	if r.Index >= d.Index {
		return nil // nobody can withdraw what is not there yet
	}
	w.retractions = append(w.retractions, r)
	return w.putJSON(key(tagRetraction, d.Index), r.Retraction)
}

// retractions are those that were followed, by the entry that they withdraw, in the
// ledger's order.
type retractions map[int64][]retraction

func (all retractions) learn(list ...retraction) {
	for _, r := range list {
		all[r.Index] = append(all[r.Index], r)
	}
}

// loadRetractions reads those that the index holds.
func loadRetractions(txn *badger.Txn) (retractions, error) {
	all := retractions{}
	err := scan(txn, key(tagRetraction), func(k, v []byte) error {
		r := retraction{by: entryAt(k, 1)}
		if err := json.Unmarshal(v, &r.Retraction); err != nil {
			return fmt.Errorf("reading retraction %d of the lineage index: %w", r.by, err)
		}
		all.learn(r)
		return nil
	})
	return all, err
}

// Retraction says whether the entry at index was withdrawn, and by which entry
// first. That counts where both are of one namespace, and the one that withdraws is
// signed by a signer of the other or by who is trusted for it there.
func (v *View) Retraction(index int64) (Retraction, bool, error) {
	v.g.mu.RLock()
	list := v.g.retractions[index]
	v.g.mu.RUnlock()
	for _, r := range list {
		if r.by >= v.size {
			continue
		}
		by, err := v.Entry(r.by)
		if err != nil {
			return Retraction{}, false, err
		}
		of, err := v.Entry(index)
		if err != nil {
			return Retraction{}, false, err
		}
		own := slices.ContainsFunc(by.Signers, func(id string) bool { return slices.Contains(of.Signers, id) })
		if by.Namespace == of.Namespace && (own || by.Evidence.Trusted()) {
			return Retraction{Entry: index, By: r.by, Reason: r.Reason, At: by.RecordedAt}, true, nil
		}
	}
	return Retraction{}, false, nil
}

// retracted are those of entries that were withdrawn.
func (v *View) retracted(entries ...int64) (out []Retraction, err error) {
	for _, index := range entries {
		r, ok, err := v.Retraction(index)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, r)
		}
	}
	return out, nil
}

// Attestations are the entries in which people vouch for k, in the ledger's order.
// Claims by keys that nobody trusts, and what was retracted, are among them.
func (v *View) Attestations(k schema.Key) ([]EntryInfo, error) {
	about, err := v.About(k)
	return slices.DeleteFunc(about, func(e EntryInfo) bool { return e.PredicateType != schema.AttestationV1 }), err
}
