package lineage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/schema"
)

// ErrRebuilt says that an entry was erased while something was being answered,
// so that the index was built anew. Asked again, the question is answered
// without what the entry stated.
var ErrRebuilt = errors.New("an entry was erased while this was being answered; ask again")

// errStale says that the index holds what a body stated that is erased now.
var errStale = errors.New("an entry that the index followed was erased")

// Hole is where an entry was erased that mentioned a resource.
type Hole struct {
	Entry  int64  // that was erased
	By     int64  // the entry that says so
	Reason string // as that entry gives it
	Asked  string // who asked for it, in its words
}

// erasure is an erasure that the observer signed.
type erasure struct {
	By int64
	schema.Erasure
}

// holes are the erasures that were followed. It is guarded by Graph.mu.
type holes struct {
	list     []erasure             // in the ledger's order
	about    map[schema.Key][]Hole // by resource, in the ledger's order
	bodiless []int64               // entries without a body, ascending
}

func (h *holes) learn(e erasure) {
	h.list = append(h.list, e)
	if h.about == nil {
		h.about = map[schema.Key][]Hole{}
	}
	for _, k := range e.Resources {
		h.about[k] = append(h.about[k], e.hole())
	}
}

func (e erasure) hole() Hole { return Hole{e.Index, e.By, e.Reason, e.Erasure.By} }

// load reads the erasures that the index holds.
func (h *holes) load(txn *badger.Txn) error {
	err := scan(txn, key(tagErasure), func(k, v []byte) error {
		e := erasure{By: entryAt(k, 1)}
		if err := json.Unmarshal(v, &e.Erasure); err != nil {
			return fmt.Errorf("reading erasure %d of the lineage index: %w", e.By, err)
		}
		h.learn(e)
		return nil
	})
	if err != nil {
		return err
	}
	return scanKeys(txn, key(tagBodiless), func(k []byte) { h.bodiless = append(h.bodiless, entryAt(k, 1)) })
}

// Holes are the erased entries that mentioned k, as the erasures below the
// view's size say. What they stated of k is in no answer.
func (v *View) Holes(k schema.Key) []Hole {
	v.g.mu.RLock()
	defer v.g.mu.RUnlock()
	return slices.DeleteFunc(slices.Clone(v.g.holes.about[k]), func(h Hole) bool { return h.By >= v.size })
}

// State is that of a resource: Erased if an entry was erased that mentioned it.
func (v *View) State(k schema.Key) schema.State {
	if len(v.Holes(k)) > 0 {
		return schema.Erased
	}
	return schema.Present
}

// ErasureOf says why the entry at index has no body; false if it has one, or
// no erasure below the view's size says so.
func (v *View) ErasureOf(index int64) (Hole, bool) {
	v.g.mu.RLock()
	defer v.g.mu.RUnlock()
	for _, e := range v.g.holes.list {
		if e.Index == index && e.By < v.size {
			return e.hole(), true
		}
	}
	return Hole{}, false
}

// Bodiless is how many entries below the view's size have no body, since it is
// erased or withheld: an answer lacks what they state.
func (v *View) Bodiless() int {
	v.g.mu.RLock()
	defer v.g.mu.RUnlock()
	gone := v.g.holes.bodiless
	return sort.Search(len(gone), func(i int) bool { return gone[i] >= v.size })
}

// Mentions are the entries below the view's size that mention k, ascending.
func (v *View) Mentions(k schema.Key) ([]int64, error) {
	var out []int64
	err := v.read(func(txn *badger.Txn) error {
		id, ok, err := idOf(txn, k)
		if err != nil || !ok {
			return err
		}
		found := func(entry int64) {
			if entry < v.size {
				out = append(out, entry)
			}
		}
		for _, tag := range []byte{tagMention, tagUp, tagDown, tagPointer} {
			if err := scanKeys(txn, key(tag, id), func(at []byte) { found(entryAt(at, afterID)) }); err != nil {
				return err
			}
		}
		return scanPages(txn, id, func(entry int64, _ byte) { found(entry) })
	})
	slices.Sort(out)
	return slices.Compact(out), err
}

// erasure takes note of an erasure that the observer signed. If the index holds
// what the erased body stated, it is of no use any more.
func (w *indexer) erasure(d *decoded) error {
	e := erasure{By: d.Index}
	if err := schema.DecodePredicate(d.statement, true, &e.Erasure); err != nil {
		return err
	}
	if e.Index >= d.Index {
		return nil // the ledger takes none
	}
	var m meta
	if err := getJSON(w.txn, key(tagEntry, e.Index), &m); err != nil {
		return fmt.Errorf("reading entry %d of the lineage index: %w", e.Index, err)
	}
	if m.State == schema.Present {
		return fmt.Errorf("entry %d: %w", e.Index, errStale)
	}
	w.erasures = append(w.erasures, e)
	return w.putJSON(key(tagErasure, d.Index), e.Erasure)
}

// rebuild builds the index anew beside the one that is read meanwhile, and puts
// it in its place. The caller holds followMu.
func (g *Graph) rebuild(ctx context.Context, log Log) error {
	fresh := freshPath(g.dir)
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	n, err := open(fresh, g.signers, g.parseKey)
	if err == nil {
		err = errors.Join(n.follow(ctx, log), n.Close())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("building the lineage index anew: %w", err), os.RemoveAll(fresh))
	}
	return g.replace(fresh)
}

// freshPath is where an index is built that will take the place of the one in
// dir.
func freshPath(dir string) string { return dir + ".new" }

// replace puts the index in fresh in the place of g's. Whoever reads is waited
// for; whoever comes back with a view of before gets ErrRebuilt.
func (g *Graph) replace(fresh string) (err error) {
	g.turn.begin()
	defer func() { g.turn.end(err) }()
	if err := g.db.Close(); err != nil {
		return fmt.Errorf("closing the lineage index: %w", err)
	}
	if err := os.RemoveAll(g.dir); err != nil {
		return fmt.Errorf("removing the lineage index: %w", err)
	}
	if err := os.Rename(fresh, g.dir); err != nil {
		return fmt.Errorf("putting the new lineage index in its place: %w", err)
	}
	n, err := open(g.dir, g.signers, g.parseKey)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.db, g.state, g.trust, g.keys, g.holes, g.cache, g.known = n.db, n.state, n.trust, n.keys, n.holes, n.cache, n.known
	g.retractions = n.retractions
	close(g.changed)
	g.changed = make(chan struct{})
	return nil
}

// turn counts who reads an index, so that it is not taken away meanwhile. A
// lock would not do: one that reads may come to read again before it is done.
type turn struct {
	mu      sync.Mutex
	idle    sync.Cond // no readers, or no longer turning
	n       int64     // how often the index was replaced
	readers int
	turning bool
	lost    error // why there is no index any more
}

func (t *turn) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n++
	t.turning = true
	for t.readers > 0 {
		t.idle.Wait()
	}
}

func (t *turn) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turning, t.lost = false, err
	t.idle.Broadcast()
}

// now waits until the index is not being replaced, and says which one it is.
func (t *turn) now() (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.turning {
		t.idle.Wait()
	}
	return t.n, t.lost
}

// enter lets somebody read index n; leave is to be called after.
func (t *turn) enter(n int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n != n {
		return ErrRebuilt
	}
	if t.lost != nil {
		return t.lost
	}
	t.readers++
	return nil
}

func (t *turn) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.readers--; t.readers == 0 {
		t.idle.Broadcast()
	}
}

// read calls fn with a snapshot of the index that the view is of.
func (v *View) read(fn func(*badger.Txn) error) error {
	if err := v.g.turn.enter(v.turn); err != nil {
		return err
	}
	defer v.g.turn.leave()
	v.g.reads.Add(1)
	return v.g.db.View(fn)
}
