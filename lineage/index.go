package lineage

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/schema"
)

// maxClockSkew is how far ahead of recordedAt a source's own time may be and
// still count (DESIGN 12.11).
const maxClockSkew = 5 * time.Minute

// meta is what the index knows of an entry itself.
type meta struct {
	PredicateType string       `json:"predicateType"`
	Namespace     string       `json:"namespace"`
	RecordedAt    time.Time    `json:"recordedAt"`
	At            time.Time    `json:"at"` // effective time
	Source        string       `json:"source,omitempty"`
	Submitter     string       `json:"submitter,omitempty"`
	Signers       []string     `json:"signers,omitempty"` // verified
	Summary       string       `json:"summary,omitempty"`
	Run           string       `json:"run,omitempty"`
	State         schema.State `json:"state"`
	Unreadable    string       `json:"unreadable,omitempty"` // why the envelope gave no facts
	Blind         bool         `json:"blind,omitzero"`       // of coverage: of an interval without sight
}

// indexer writes the keys of entries into one transaction. It looks things up
// in what it knows already and in the index as it was before: iterating over a
// transaction with many pending writes would sort them each time.
type indexer struct {
	g           *Graph
	txn         *badger.Txn
	before      *badger.Txn
	previous    *indexer // what it wrote is not in before; nil if there is none
	state       state
	nodes       map[schema.Key]*node // used by this indexer
	located     map[string]located   // what is at a URI
	paged       []*node              // whose pages were added to
	touched     []schema.Key
	rechecked   []int64
	trust       []trustEntry
	erasures    []erasure
	bodiless    []int64
	retractions []retraction
	written     chan error // once it is being committed
}

// newIndexer returns who indexes what comes after what previous has, which may
// be on its way to the store; nil if nothing is.
func (g *Graph) newIndexer(previous *indexer) *indexer {
	w := &indexer{
		g: g, txn: g.db.NewTransaction(true), before: g.db.NewTransaction(false), previous: previous, state: g.state,
		nodes: map[schema.Key]*node{}, located: map[string]located{},
	}
	if previous != nil {
		w.state = previous.state
	}
	return w
}

// discard gives up what was not committed.
func (w *indexer) discard() {
	w.txn.Discard()
	w.before.Discard()
}

// put writes one key. An entry with many files may not fit one transaction of
// Badger: then what is there is committed and a new transaction goes on. State
// is written last, so that what an interruption leaves behind belongs to
// entries that were not followed yet, is seen by no view, and is written again
// with the same keys.
func (w *indexer) put(k, v []byte) error {
	err := w.txn.Set(k, v)
	if !errors.Is(err, badger.ErrTxnTooBig) {
		return err
	}
	if err := w.txn.Commit(); err != nil {
		return fmt.Errorf("writing the lineage index: %w", err)
	}
	w.txn = w.g.db.NewTransaction(true)
	return w.txn.Set(k, v)
}

func (w *indexer) putJSON(k []byte, v any) error {
	raw, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return err
	}
	return w.put(k, raw)
}

func (w *indexer) entry(ctx context.Context, log Log, d *decoded) error {
	m := meta{
		PredicateType: d.facts.PredicateType, Namespace: d.Header.Namespace, RecordedAt: d.Header.RecordedAt,
		At: effective(d.facts.At, d.Header.RecordedAt), Source: d.Header.Source, Submitter: d.Header.Submitter,
		Signers: d.signers, Summary: d.facts.Summary, State: d.State, Unreadable: d.problem, Blind: d.facts.Blind,
	}
	if d.facts.Step != nil {
		m.Run = d.facts.Step.Run
	}
	if len(d.signers) < len(d.Envelope.Signatures) {
		if err := w.put(key(tagUnknown, d.Index), nil); err != nil {
			return err
		}
	}
	if err := w.control(ctx, log, d, &m); err != nil {
		return err
	}
	if err := w.putJSON(key(tagEntry, d.Index), m); err != nil {
		return err
	}
	if d.State != schema.Present {
		w.bodiless = append(w.bodiless, d.Index)
		if err := w.put(key(tagBodiless, d.Index), nil); err != nil {
			return err
		}
	}
	if m.PredicateType != "" {
		if err := w.put(key(tagType, m.PredicateType, d.Index), nil); err != nil {
			return err
		}
	}
	d.signers = m.Signers
	if err := w.facts(d); err != nil {
		return err
	}
	commitment := hex.EncodeToString(d.Commitment[:])
	if d.Index == 0 {
		w.state.Genesis = commitment
	}
	w.state.Size, w.state.Last = d.Index+1, commitment
	return nil
}

// effective is the source's time where it states one that is not in the
// future of the ledger's, else the ledger's.
func effective(at, recordedAt time.Time) time.Time {
	if at.IsZero() || at.After(recordedAt.Add(maxClockSkew)) {
		return recordedAt
	}
	return at.UTC()
}

func (w *indexer) facts(d *decoded) error {
	f, index := d.facts, d.Index
	for _, r := range f.Resources {
		if err := w.resource(index, r); err != nil {
			return err
		}
	}
	for _, k := range f.Subjects {
		if err := w.says(k, index, saysAbout); err != nil {
			return err
		}
	}
	if err := w.locations(index, len(d.signers) > 0, f.Resources); err != nil {
		return err
	}
	if s := f.Step; s != nil {
		if err := w.putJSON(key(tagStep, index), s); err != nil {
			return err
		}
		if s.Run != "" {
			if err := w.put(key(tagRun, s.Run, index), nil); err != nil {
				return err
			}
		}
	}
	if err := w.edges(index, f); err != nil {
		return err
	}
	for seq, n := range f.Names {
		n.At = effective(n.At, d.Header.RecordedAt)
		if err := w.name(index, seq, n); err != nil {
			return err
		}
	}
	return nil
}

func (w *indexer) edges(index int64, f *schema.Facts) (err error) {
	says := func(k schema.Key, what byte) {
		if err == nil {
			w.touched = append(w.touched, k)
			err = w.says(k, index, what)
		}
	}
	seq := 0
	relate := func(tag byte, k schema.Key, r schema.Relation) {
		var id nodeID
		if err == nil {
			w.touched = append(w.touched, k)
			id, err = w.id(k)
		}
		if err == nil {
			err = w.putJSON(key(tag, id, index, seq), r)
		}
	}
	f.Visit(
		func(k schema.Key) { says(k, saysMade) },
		func(k schema.Key) { says(k, saysUsed) },
		func(r schema.Relation) {
			relate(tagUp, r.From, r)
			relate(tagDown, r.To, r)
			seq++
		})
	return err
}

func (w *indexer) name(index int64, seq int, n schema.NameFact) error {
	id, err := w.id(n.Key)
	if err != nil {
		return err
	}
	if err := w.putJSON(key(tagName, n.Name, index, seq), n); err != nil {
		return err
	}
	if len(n.Name) > len(schema.NameModel) && n.Name[:len(schema.NameModel)+1] == schema.NameModel+":" {
		if err := w.put(key(tagModel, index, seq), []byte(n.Name)); err != nil {
			return err
		}
	}
	return w.put(key(tagPointer, id, index, seq), []byte(n.Name))
}
