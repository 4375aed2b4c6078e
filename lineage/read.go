package lineage

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/schema"
)

// At is what an answer speaks for: the entries below Size, and names as they
// were at Time. The zero value is everything followed, now.
type At struct {
	Size int64
	Time time.Time
}

// ErrNotFound marks a reference that nothing below the size answers to.
var ErrNotFound = errors.New("not found")

// AheadError says that an answer was asked for as of a size that the index has
// not reached.
type AheadError struct{ Size, Have int64 }

func (e *AheadError) Error() string {
	return fmt.Sprintf("cannot answer as of %d entries: the lineage index has followed %d", e.Size, e.Have)
}

// View is the graph as of one size: every answer of one View speaks for the
// same entries, however the log grows meanwhile.
type View struct {
	g     *Graph
	turn  int64 // which index of g it is of
	cache *cache
	size  int64
	time  time.Time
	trust *schema.TrustHistory
}

// View returns the graph as at says. A size beyond what was followed is an
// error: the caller can Wait for it.
func (g *Graph) View(at At) (*View, error) {
	turn, err := g.turn.now()
	if err != nil {
		return nil, err
	}
	g.mu.RLock()
	have, cache := g.state.Size, g.cache
	g.mu.RUnlock()
	if at.Size == 0 {
		at.Size = have
	}
	if at.Size < 0 || at.Size > have {
		return nil, &AheadError{Size: at.Size, Have: have}
	}
	return &View{g: g, turn: turn, cache: cache, size: at.Size, time: at.Time, trust: g.trustAt(at.Size)}, nil
}

// Size is the ledger size that the view speaks for.
func (v *View) Size() int64 { return v.size }

// Time is the instant at which the view reads names; zero for the newest.
func (v *View) Time() time.Time { return v.time }

// Node implements schema.Graph.
func (v *View) Node(_ context.Context, k schema.Key, d schema.Direction) (*schema.Node, error) {
	nodes := v.cache.nodes(d)
	if n, ok := nodes.Get(k); ok {
		return n, nil
	}
	return fill(v.g, nodes, k, func() (*schema.Node, error) { return v.loadNode(k, d) })
}

func (v *View) loadNode(k schema.Key, d schema.Direction) (*schema.Node, error) {
	n := new(schema.Node)
	step, relations := saysMade, tagUp
	if d == schema.Downstream {
		step, relations = saysUsed, tagDown
	}
	err := v.read(func(txn *badger.Txn) error {
		id, ok, err := idOf(txn, k)
		if err != nil || !ok {
			return err
		}
		list := &n.Made
		related := &n.Up
		if d == schema.Downstream {
			list, related = &n.Used, &n.Down
		}
		if err := scanPages(txn, id, func(entry int64, what byte) {
			if what&step != 0 {
				*list = append(*list, entry)
			}
		}); err != nil {
			return err
		}
		return scan(txn, key(byte(relations), id), func(key, value []byte) error {
			r := schema.EntryRelation{Entry: entryAt(key, afterID)}
			if err := json.Unmarshal(value, &r.Relation); err != nil {
				return fmt.Errorf("reading a relation of %s in the lineage index: %w", k, err)
			}
			*related = append(*related, r)
			return nil
		})
	})
	return n, err
}

// scanKeys is scan for keys without values.
func scanKeys(txn *badger.Txn, prefix []byte, fn func(k []byte)) error {
	opts := badger.DefaultIteratorOptions
	opts.Prefix = prefix
	opts.PrefetchValues = false
	it := txn.NewIterator(opts)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		fn(it.Item().Key())
	}
	return nil
}

// Step implements schema.Graph.
func (v *View) Step(_ context.Context, entry int64) (*schema.Step, error) {
	if s, ok := v.cache.steps.Get(entry); ok && entry < v.size {
		return &s.Step, nil
	}
	s, err := fill(v.g, v.cache.steps, entry, func() (*recordedStep, error) {
		s := new(recordedStep)
		return s, v.read(func(txn *badger.Txn) (err error) {
			if err = getJSON(txn, key(tagStep, entry), &s.Step); err != nil {
				return err
			}
			r, err := readRecord(txn, entry)
			if err == nil {
				s.entry = *r
			}
			return err
		})
	})
	if errors.Is(err, badger.ErrKeyNotFound) || entry >= v.size {
		return nil, fmt.Errorf("entry %d states no step: %w", entry, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading step %d: %w", entry, err)
	}
	return &s.Step, nil
}

// Grade implements schema.Graph.
func (v *View) Grade(_ context.Context, entry int64) (schema.Grade, error) {
	var r *record
	if s, ok := v.cache.steps.Get(entry); ok && entry < v.size {
		r = &s.entry
	} else {
		var err error
		if r, err = v.record(entry); err != nil {
			return schema.Grade{}, err
		}
	}
	evidence := v.trust.Grade(schema.Header{RecordedAt: r.RecordedAt, Namespace: r.Namespace}, r.PredicateType, v.signers(r))
	return schema.Grade{Evidence: evidence, Namespace: r.Namespace}, nil
}

// EntryInfo is what the graph knows of an entry without reading its body.
type EntryInfo struct {
	Index         int64
	PredicateType string
	Namespace     string
	RecordedAt    time.Time
	At            time.Time // effective: the source's time where it states one
	Source        string
	Submitter     string
	Signers       []string // IDs of keys whose signature verified
	Evidence      schema.Evidence
	Summary       string
	Run           string
	State         schema.State
	Unreadable    string
	Blind         bool // of coverage: nothing could be read in the interval that ended at At
}

// Entry returns what is known of the entry at index.
func (v *View) Entry(index int64) (EntryInfo, error) {
	r, err := v.record(index)
	if err != nil {
		return EntryInfo{}, err
	}
	return v.info(index, r), nil
}

// record is what the index holds of the entry at index.
func (v *View) record(index int64) (*record, error) {
	if index < 0 || index >= v.size {
		return nil, fmt.Errorf("entry %d: the ledger has %d entries: %w", index, v.size, ErrNotFound)
	}
	if r, ok := v.cache.entries.Get(index); ok {
		return r, nil
	}
	return fill(v.g, v.cache.entries, index, func() (r *record, err error) {
		err = v.read(func(txn *badger.Txn) error {
			r, err = readRecord(txn, index)
			return err
		})
		return r, err
	})
}

func (v *View) entry(txn *badger.Txn, index int64) (EntryInfo, error) {
	r, ok := v.cache.entries.Get(index)
	if !ok {
		var err error
		if r, err = readRecord(txn, index); err != nil {
			return EntryInfo{}, err
		}
	}
	return v.info(index, r), nil
}

// record is what the index holds of an entry itself.
type record struct {
	meta
	later []verified
}

// verified are signers that could only be checked once their key was known.
type verified struct {
	trust int64 // entry that made it known
	ids   []string
}

func readRecord(txn *badger.Txn, index int64) (*record, error) {
	r := new(record)
	if err := getJSON(txn, key(tagEntry, index), &r.meta); err != nil {
		return nil, fmt.Errorf("reading entry %d of the lineage index: %w", index, err)
	}
	err := scan(txn, key(tagVerified, index), func(k, raw []byte) error {
		l := verified{trust: entryAt(k, afterID)}
		r.later = append(r.later, l)
		return json.Unmarshal(raw, &r.later[len(r.later)-1].ids)
	})
	if err != nil {
		return nil, fmt.Errorf("reading signers of entry %d: %w", index, err)
	}
	return r, nil
}

// signers are those whose keys are known below the view's size.
func (v *View) signers(r *record) []string {
	ids := r.Signers
	for _, l := range r.later {
		if l.trust < v.size {
			ids = append(ids[:len(ids):len(ids)], l.ids...)
		}
	}
	return ids
}

// info is the record as the view sees it.
func (v *View) info(index int64, r *record) EntryInfo {
	m, signers := &r.meta, v.signers(r)
	header := schema.Header{RecordedAt: m.RecordedAt, Namespace: m.Namespace}
	return EntryInfo{
		Index: index, PredicateType: m.PredicateType, Namespace: m.Namespace, RecordedAt: m.RecordedAt, At: m.At,
		Source: m.Source, Submitter: m.Submitter, Signers: signers, Evidence: v.trust.Grade(header, m.PredicateType, signers),
		Summary: m.Summary, Run: m.Run, State: m.State, Unreadable: m.Unreadable, Blind: m.Blind,
	}
}

// Filter selects entries. Empty fields select all.
type Filter struct {
	PredicateType string
	Namespace     string
	Since         time.Time // recorded at or after
	Until         time.Time // recorded before
	By            time.Time // had happened by then (EntryInfo.At)
	Newest        bool      // in what order: newest first
}

func (f Filter) takes(e EntryInfo) bool {
	return (f.PredicateType == "" || f.PredicateType == e.PredicateType) &&
		(f.Namespace == "" || f.Namespace == e.Namespace) &&
		!e.RecordedAt.Before(f.Since) && (f.Until.IsZero() || e.RecordedAt.Before(f.Until)) && (f.By.IsZero() || !e.At.After(f.By))
}

// Entries yields the entries that filter takes, from index from on, oldest
// first; with filter.Newest from index from down, newest first. recordedAt never
// decreases, so that Since and Until are found by bisection.
func (v *View) Entries(ctx context.Context, from int64, filter Filter) iter.Seq2[EntryInfo, error] {
	return func(yield func(EntryInfo, error) bool) {
		start, end, err := v.recorded(filter)
		if err != nil {
			yield(EntryInfo{}, err)
			return
		}
		if filter.Newest {
			end = min(end, max(from, -1)+1)
		} else {
			start = max(start, from)
		}
		for index, err := range v.indexes(start, end, filter) {
			var e EntryInfo
			if err == nil {
				e, err = v.Entry(index)
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(EntryInfo{}, err)
				return
			}
			if filter.takes(e) && !yield(e, nil) {
				return
			}
		}
	}
}

// CountEntries is how many entries filter takes.
func (v *View) CountEntries(ctx context.Context, filter Filter) (int64, error) {
	if filter.Namespace != "" || !filter.By.IsZero() {
		var n int64
		for _, err := range v.Entries(ctx, 0, filter) {
			if err != nil {
				return 0, err
			}
			n++
		}
		return n, nil
	}
	start, end, err := v.recorded(filter)
	if err != nil || filter.PredicateType == "" {
		return max(0, end-start), err
	}
	var n int64
	for _, err := range v.indexes(start, end, filter) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// recorded is the range of the entries that were recorded when filter says.
func (v *View) recorded(filter Filter) (start, end int64, err error) {
	if start, err = v.firstSince(filter.Since); err != nil {
		return 0, 0, err
	}
	if filter.Until.IsZero() {
		return start, v.size, nil
	}
	end, err = v.firstSince(filter.Until)
	return start, end, err
}

// Trusts says whether the key was trusted to sign what e states.
func (v *View) Trusts(e EntryInfo, keyID string) bool {
	header := schema.Header{RecordedAt: e.RecordedAt, Namespace: e.Namespace}
	return v.trust.Grade(header, e.PredicateType, []string{keyID}) != schema.Claimed
}

// indexes yields the entries from start until before end, or only those of the
// filter's predicate type, in its order.
func (v *View) indexes(start, end int64, filter Filter) iter.Seq2[int64, error] {
	return func(yield func(int64, error) bool) {
		if filter.PredicateType == "" {
			for i := range max(0, end-start) {
				at := start + i
				if filter.Newest {
					at = end - 1 - i
				}
				if !yield(at, nil) {
					return
				}
			}
			return
		}
		var found []int64
		err := v.read(func(txn *badger.Txn) error {
			prefix := key(tagType, filter.PredicateType)
			return scanKeys(txn, prefix, func(k []byte) {
				if i := entryAt(k, len(prefix)); len(k) == len(prefix)+8 && i >= start && i < end {
					found = append(found, i)
				}
			})
		})
		if err != nil {
			yield(0, fmt.Errorf("reading the lineage index: %w", err))
			return
		}
		if filter.Newest {
			slices.Reverse(found)
		}
		for _, i := range found {
			if !yield(i, nil) {
				return
			}
		}
	}
}

// firstSince is the first entry recorded at or after t.
func (v *View) firstSince(t time.Time) (int64, error) {
	if t.IsZero() {
		return 0, nil
	}
	low, high := int64(0), v.size
	for low < high {
		mid := (low + high) / 2
		e, err := v.Entry(mid)
		if err != nil {
			return 0, err
		}
		next := mid // an entry without a body is as old as the one after it
		for e.State != schema.Present && next+1 < high {
			next++
			if e, err = v.Entry(next); err != nil {
				return 0, err
			}
		}
		if e.State == schema.Present && e.RecordedAt.Before(t) {
			low = next + 1
		} else {
			high = mid
		}
	}
	return low, nil
}

// Resource describes k; ErrNotFound if no entry below the size mentions it.
func (v *View) Resource(k schema.Key) (schema.Resource, error) {
	ms, ok := v.cache.resources.Get(k)
	if !ok {
		var err error
		if ms, err = fill(v.g, v.cache.resources, k, func() (mentions, error) { return v.mentions(k) }); err != nil {
			return schema.Resource{}, err
		}
	}
	r := ms.below(v.size)
	if r.Key == "" {
		return r, fmt.Errorf("%s: %w", k, ErrNotFound)
	}
	return r, nil
}

func (v *View) mentions(k schema.Key) (ms mentions, err error) {
	err = v.read(func(txn *badger.Txn) error {
		id, ok, err := idOf(txn, k)
		if err != nil || !ok {
			return err
		}
		ms, err = readMentions(txn, id, k)
		return err
	})
	return ms, err
}

// Pointed is a name that pointed at a resource, with the entry that says so.
type Pointed struct {
	schema.NameFact
	Entry    int64
	Evidence schema.Evidence
}

// pointed grades a name fact.
func (v *View) pointed(txn *badger.Txn, n schema.NameFact, entry int64) (Pointed, error) {
	e, err := v.entry(txn, entry)
	return Pointed{n, entry, e.Evidence}, err
}

// NamesOf are the names that ever pointed at k, in the ledger's order.
func (v *View) NamesOf(k schema.Key) ([]Pointed, error) {
	var out []Pointed
	err := v.read(func(txn *badger.Txn) error {
		id, ok, err := idOf(txn, k)
		if err != nil || !ok {
			return err
		}
		return scan(txn, key(tagPointer, id), func(at, name []byte) error {
			entry := entryAt(at, afterID)
			if entry >= v.size {
				return nil
			}
			seq := at[len(at)-4:]
			var n schema.NameFact
			full := append(key(tagName, string(name), entry), seq...)
			if err := getJSON(txn, full, &n); err != nil {
				return fmt.Errorf("reading name %s of entry %d: %w", name, entry, err)
			}
			p, err := v.pointed(txn, n, entry)
			out = append(out, p)
			return err
		})
	})
	return out, err
}

// History is what a name pointed at, by effective time and then in the
// ledger's order.
func (v *View) History(name string) ([]Pointed, error) {
	var out []Pointed
	err := v.read(func(txn *badger.Txn) error {
		prefix := key(tagName, name)
		return scan(txn, prefix, func(at, raw []byte) error {
			entry := entryAt(at, len(prefix))
			if len(at) != len(prefix)+12 || entry >= v.size {
				return nil
			}
			var n schema.NameFact
			if err := json.Unmarshal(raw, &n); err != nil {
				return fmt.Errorf("reading name %s: %w", name, err)
			}
			p, err := v.pointed(txn, n, entry)
			out = append(out, p)
			return err
		})
	})
	slices.SortStableFunc(out, func(a, b Pointed) int { return a.At.Compare(b.At) })
	return out, err
}

// Name is what name pointed at at the view's time. ErrNotFound before its
// first sighting, which is "unknown", and when it had been deleted. Claims
// decide only where nobody who is vouched for ever named it: otherwise anybody
// who can hand in a statement could move it for everybody.
func (v *View) Name(name string) (Pointed, error) {
	history, err := v.History(name)
	if err != nil {
		return Pointed{}, err
	}
	history = vouched(history)
	var last Pointed
	for _, p := range history {
		if v.time.IsZero() || !p.At.After(v.time) {
			last = p
		}
	}
	switch {
	case last.Name == "" && len(history) > 0:
		return last, fmt.Errorf("%s: unknown at %s, before it was first seen at %s: %w", name, v.time.Format(time.RFC3339), history[0].At.Format(time.RFC3339), ErrNotFound)
	case last.Name == "":
		return last, fmt.Errorf("%s: %w", name, ErrNotFound)
	case last.Deleted:
		return last, fmt.Errorf("%s: deleted, says entry %d: %w", name, last.Entry, ErrNotFound)
	}
	return last, nil
}

// vouched leaves out the claims among namings if there is anything better.
func vouched(namings []Pointed) []Pointed {
	trusted := func(p Pointed) bool { return p.Evidence.Trusted() }
	if !slices.ContainsFunc(namings, trusted) {
		return namings
	}
	return slices.DeleteFunc(namings, func(p Pointed) bool { return !trusted(p) })
}

// Names yields every name that begins with prefix, once, in order.
func (v *View) Names(prefix string) ([]string, error) {
	var out []string
	err := v.read(func(txn *badger.Txn) error {
		start := key(tagName, prefix)
		return scanKeys(txn, start[:len(start)-1], func(k []byte) {
			// tag NAME 0 ENTRY SEQ
			if len(k) < 14 || entryAt(k, len(k)-12) >= v.size {
				return
			}
			name := string(k[1 : len(k)-13])
			if len(out) == 0 || out[len(out)-1] != name {
				out = append(out, name)
			}
		})
	})
	return out, err
}

// RunEntries are the entries that state a step with this run ID.
func (v *View) RunEntries(run string) ([]int64, error) {
	var out []int64
	err := v.read(func(txn *badger.Txn) error {
		prefix := key(tagRun, run)
		return scanKeys(txn, prefix, func(k []byte) {
			if e := entryAt(k, len(prefix)); len(k) == len(prefix)+8 && e < v.size {
				out = append(out, e)
			}
		})
	})
	return out, err
}

// About are the entries whose statement has k as a subject.
func (v *View) About(k schema.Key) ([]EntryInfo, error) {
	var out []EntryInfo
	err := v.read(func(txn *badger.Txn) error {
		id, ok, err := idOf(txn, k)
		if err != nil || !ok {
			return err
		}
		var entries []int64
		if err := scanPages(txn, id, func(entry int64, what byte) {
			if what&saysAbout != 0 {
				entries = append(entries, entry)
			}
		}); err != nil {
			return err
		}
		for _, index := range entries {
			if index >= v.size {
				break
			}
			e, err := v.entry(txn, index)
			if err != nil {
				return err
			}
			out = append(out, e)
		}
		return nil
	})
	return out, err
}
