package lineage

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/go-json-experiment/json"
	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/schema"
)

// followBatch is how many entries go into one transaction of the index.
const followBatch = 256

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
}

// Follow brings the index up to the log's size and returns. It follows each
// entry once, in order; what it has followed is kept when it is interrupted.
//
// When it meets an erasure of what it has indexed, the index is built anew from
// the log while the old one is read, and takes its place: see [ErrRebuilt].
func (g *Graph) Follow(ctx context.Context, log Log) error {
	g.followMu.Lock()
	defer g.followMu.Unlock()
	if _, err := g.turn.now(); err != nil {
		return err
	}
	err := g.follow(ctx, log)
	if errors.Is(err, errStale) {
		return g.rebuild(ctx, log)
	}
	return err
}

func (g *Graph) follow(ctx context.Context, log Log) error {
	var batch []schema.Entry
	next := g.Size()
	for e, err := range log.Entries(ctx, next) {
		if err != nil {
			return fmt.Errorf("following the log at entry %d: %w", next, err)
		}
		next = e.Index + 1
		batch = append(batch, e)
		if len(batch) == followBatch {
			if err := g.apply(ctx, log, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return g.apply(ctx, log, batch)
}

// decoded is an entry with what its statement states.
type decoded struct {
	schema.Entry
	statement schema.Statement
	facts     *schema.Facts
	signers   []string
	problem   string
}

// apply indexes entries, whole or not at all. A trust entry changes how later
// signatures are checked, so entries are taken in runs that end with one.
func (g *Graph) apply(ctx context.Context, log Log, entries []schema.Entry) error {
	for len(entries) > 0 {
		n := 1 + slices.IndexFunc(entries, func(e schema.Entry) bool { return mayBeTrust(e) })
		if n == 0 {
			n = len(entries)
		}
		if err := g.applyRun(ctx, log, entries[:n]); err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

func mayBeTrust(e schema.Entry) bool {
	if e.State != schema.Present {
		return false
	}
	s, err := e.Envelope.Statement()
	return err == nil && (s.PredicateType == schema.TrustV1 || s.PredicateType == schema.GenesisV1)
}

func (g *Graph) applyRun(ctx context.Context, log Log, entries []schema.Entry) error {
	docs, err := g.decode(ctx, entries)
	if err != nil {
		return err
	}
	w := g.newIndexer()
	defer w.discard()
	for i := range docs {
		if err := w.entry(ctx, log, &docs[i]); err != nil {
			return fmt.Errorf("indexing entry %d: %w", docs[i].Index, err)
		}
	}
	if err := w.putJSON(key(tagState), w.state); err != nil {
		return err
	}
	if err := w.txn.Commit(); err != nil {
		return fmt.Errorf("writing the lineage index: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range w.touched {
		g.cache.drop(k)
	}
	for _, entry := range w.rechecked {
		g.cache.entries.Remove(entry)
		g.cache.steps.Remove(entry)
	}
	g.state = w.state
	for _, e := range w.erasures {
		g.holes.learn(e)
	}
	g.holes.bodiless = append(g.holes.bodiless, w.bodiless...)
	for _, t := range w.trust {
		if err := g.learn(t); err != nil {
			return err
		}
	}
	close(g.changed)
	g.changed = make(chan struct{})
	return nil
}

// decode parses entries and checks their signatures, on all cores.
func (g *Graph) decode(ctx context.Context, entries []schema.Entry) ([]decoded, error) {
	docs := make([]decoded, len(entries))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for part := range slices.Chunk(slices.Collect(indexes(len(entries))), 32) {
		group.Go(func() error {
			for _, i := range part {
				if err := ctx.Err(); err != nil {
					return err
				}
				docs[i] = g.decodeOne(entries[i])
			}
			return nil
		})
	}
	return docs, group.Wait()
}

func indexes(n int) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

// decodeOne never fails: what the ledger holds but this program cannot read is
// shown as such and states nothing.
func (g *Graph) decodeOne(e schema.Entry) decoded {
	d := decoded{Entry: e, facts: &schema.Facts{}}
	if e.State != schema.Present {
		return d
	}
	var err error
	if d.statement, err = e.Envelope.Statement(); err == nil {
		var facts *schema.Facts
		if facts, err = d.statement.Facts(); err == nil {
			d.facts = facts
		}
	}
	if err != nil {
		d.problem = err.Error()
		d.facts.PredicateType = d.statement.PredicateType
	}
	d.signers = g.signers(e.Envelope, g.keys)
	return d
}

// indexer writes the keys of entries into one transaction. It looks things up
// in the index as it was before, and in its own maps: iterating over a
// transaction with many pending writes would sort them each time.
type indexer struct {
	g         *Graph
	txn       *badger.Txn
	before    *badger.Txn
	state     state
	fresh     map[schema.Key]nodeID          // ids used, new or not
	merged    map[schema.Key]schema.Resource // descriptions so far
	located   map[string]located             // what is at a URI
	touched   []schema.Key
	rechecked []int64
	trust     []trustEntry
	erasures  []erasure
	bodiless  []int64
}

func (g *Graph) newIndexer() *indexer {
	return &indexer{
		g: g, txn: g.db.NewTransaction(true), before: g.db.NewTransaction(false), state: g.state,
		fresh: map[schema.Key]nodeID{}, merged: map[schema.Key]schema.Resource{}, located: map[string]located{},
	}
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
		Signers: d.signers, Summary: d.facts.Summary, State: d.State, Unreadable: d.problem,
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

// control handles the entries that decide how others are graded.
func (w *indexer) control(ctx context.Context, log Log, d *decoded, m *meta) error {
	switch {
	case d.facts.PredicateType == schema.GenesisV1 && d.Index == 0:
		var p schema.Genesis
		if err := schema.DecodePredicate(d.statement, true, &p); err != nil {
			return err
		}
		pub, err := w.g.parseKey([]byte(p.ObserverKey))
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
		pub, err := w.g.parseKey([]byte(p.Key))
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

func (w *indexer) facts(d *decoded) error {
	f, index := d.facts, d.Index
	for _, r := range f.Resources {
		if err := w.resource(index, r); err != nil {
			return err
		}
	}
	for _, k := range f.Subjects {
		id, err := w.id(k)
		if err != nil {
			return err
		}
		if err := w.put(key(tagAbout, id, index), nil); err != nil {
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
	seq := 0
	note := func(tag byte, k schema.Key, v any, parts ...any) {
		if err != nil {
			return
		}
		var id nodeID
		if id, err = w.id(k); err != nil {
			return
		}
		w.touched = append(w.touched, k)
		at := key(tag, append([]any{id, index}, parts...)...)
		if v == nil {
			err = w.put(at, nil)
			return
		}
		err = w.putJSON(at, v)
	}
	f.Visit(
		func(k schema.Key) { note(tagMade, k, nil) },
		func(k schema.Key) { note(tagUsed, k, nil) },
		func(r schema.Relation) {
			note(tagUp, r.From, r, seq)
			note(tagDown, r.To, r, seq)
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

// id is the dense id of k, given on its first mention.
func (w *indexer) id(k schema.Key) (nodeID, error) {
	if id, ok := w.fresh[k]; ok {
		return id, nil
	}
	id, ok, err := idOf(w.before, k)
	if err != nil {
		return 0, err
	}
	if !ok || id >= w.state.Nodes { // the latter was left by an interrupted Follow
		id = w.state.Nodes
		w.state.Nodes++
		if err := w.put(key(tagKey, k), binary.BigEndian.AppendUint64(nil, uint64(id))); err != nil {
			return 0, err
		}
	}
	w.fresh[k] = id
	return id, nil
}

// resource notes what the entry adds to the description of a resource:
// nothing, mostly, so that what many entries mention stays cheap to describe.
func (w *indexer) resource(index int64, r schema.Resource) error {
	id, err := w.id(r.Key)
	if err != nil {
		return err
	}
	have, ok := w.merged[r.Key]
	if !ok {
		mentions, err := readMentions(w.before, id, r.Key)
		if err != nil {
			return err
		}
		have = mentions.below(index)
	}
	now, added := merge(have, r)
	w.merged[r.Key] = now
	if !added {
		return nil
	}
	w.touched = append(w.touched, r.Key)
	return w.putJSON(key(tagMention, id, index), r)
}

// merge adds to have what r says and have left open.
func merge(have, r schema.Resource) (schema.Resource, bool) {
	added := have.Key == ""
	if added {
		have = schema.Resource{Key: r.Key, Size: -1}
	}
	fill := func(dst *string, v string) {
		if *dst == "" && v != "" {
			*dst, added = v, true
		}
	}
	fill(&have.Kind, r.Kind)
	fill(&have.Name, r.Name)
	fill(&have.URI, r.URI)
	fill(&have.MediaType, r.MediaType)
	fill(&have.Content, r.Content)
	if have.Content != "store" && r.Content == "store" {
		have.Content, added = "store", true
	}
	if have.Kind != "model" && r.Kind == "model" {
		have.Kind, added = "model", true
	}
	if have.Size < 0 && r.Size >= 0 {
		have.Size, added = r.Size, true
	}
	for alg, h := range r.Digests {
		if _, ok := have.Digests[alg]; !ok {
			digests := schema.DigestSet{alg: h}
			for a, x := range have.Digests {
				digests[a] = x
			}
			have.Digests, added = digests, true
		}
	}
	return have, added
}

// mentions is what entries add to the description of a resource, in their
// order.
type mentions []mention

type mention struct {
	entry int64
	schema.Resource
}

// below is the description that the entries below size give.
func (ms mentions) below(size int64) schema.Resource {
	if len(ms) == 1 && ms[0].entry < size {
		return ms[0].Resource
	}
	r := schema.Resource{Size: -1}
	for _, m := range ms {
		if m.entry < size {
			r, _ = merge(r, m.Resource)
		}
	}
	return r
}

func readMentions(txn *badger.Txn, id nodeID, k schema.Key) (mentions, error) {
	var ms mentions
	err := scan(txn, key(tagMention, id), func(at, v []byte) error {
		m := mention{entry: entryAt(at, afterID)}
		if err := json.Unmarshal(v, &m.Resource); err != nil {
			return fmt.Errorf("reading a description of %s in the lineage index: %w", k, err)
		}
		if m.Key != k {
			return fmt.Errorf("the lineage index describes %s under the id of %s", m.Key, k)
		}
		ms = append(ms, m)
		return nil
	})
	return ms, err
}
