package lineage

import (
	"sync"

	"github.com/retrace-ledger/retrace/schema"
)

// cache keeps what was decoded: the walk of a warm graph touches no store.
// What an entry changes is dropped when it is followed.
type cache struct {
	up, down  *recent[schema.Key, *schema.Node]
	steps     *recent[int64, *recordedStep]
	entries   *recent[int64, *record]
	resources *recent[schema.Key, mentions]
}

// recordedStep is a step with the entry that states it: a walk asks for both.
type recordedStep struct {
	schema.Step
	entry record
}

// Sizes of the cache, in items. A node of a model's graph takes about 200
// bytes, a resource and an entry about 300, a step about 1 KiB.
const (
	cachedNodes     = 1 << 17
	cachedSteps     = 1 << 16
	cachedEntries   = 1 << 16
	cachedResources = 1 << 16
)

func newCache() *cache {
	return &cache{
		up: newRecent[schema.Key, *schema.Node](cachedNodes), down: newRecent[schema.Key, *schema.Node](cachedNodes),
		steps: newRecent[int64, *recordedStep](cachedSteps), entries: newRecent[int64, *record](cachedEntries),
		resources: newRecent[schema.Key, mentions](cachedResources),
	}
}

// nodes are those that a walk in direction d reads.
func (c *cache) nodes(d schema.Direction) *recent[schema.Key, *schema.Node] {
	if d == schema.Downstream {
		return c.down
	}
	return c.up
}

func (c *cache) drop(k schema.Key) {
	c.up.Remove(k)
	c.down.Remove(k)
	c.resources.Remove(k)
}

// fill returns what load reads, and keeps it if the index did not move on
// meanwhile: it may lack what the index moved on to.
func fill[K comparable, V any](g *Graph, c *recent[K, V], k K, load func() (V, error)) (V, error) {
	before := g.Size()
	v, err := load()
	if err != nil {
		return v, err
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.state.Size == before {
		c.Add(k, v)
	}
	return v, nil
}

// recent keeps what was asked for lately, at most size items in two
// generations: when the younger one is full it becomes the older one, and what
// was not asked for since is forgotten. Unlike with a list in order of use,
// asking again for what is young writes nothing: a walk spends most of its time
// here, and many walk at once.
type recent[K comparable, V any] struct {
	size  int
	mu    sync.RWMutex
	young map[K]V
	old   map[K]V
}

func newRecent[K comparable, V any](size int) *recent[K, V] {
	return &recent[K, V]{size: size, young: map[K]V{}}
}

// Get returns what was added for k, if it is still there.
func (r *recent[K, V]) Get(k K) (V, bool) {
	r.mu.RLock()
	v, ok := r.young[k]
	if ok {
		r.mu.RUnlock()
		return v, true
	}
	v, ok = r.old[k]
	r.mu.RUnlock()
	if ok {
		r.promote(k)
	}
	return v, ok
}

// promote moves k to the young generation, unless it was removed meanwhile.
func (r *recent[K, V]) promote(k K) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.old[k]; ok {
		r.put(k, v)
	}
}

// Add keeps v for k.
func (r *recent[K, V]) Add(k K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(k, v)
}

func (r *recent[K, V]) put(k K, v V) {
	delete(r.old, k)
	if len(r.young) >= r.size/2 {
		r.old, r.young = r.young, make(map[K]V, r.size/2)
	}
	r.young[k] = v
}

// Remove forgets k.
func (r *recent[K, V]) Remove(k K) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.young, k)
	delete(r.old, k)
}
