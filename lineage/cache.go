package lineage

import (
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/retrace-ledger/retrace/schema"
)

// cache keeps what was decoded: the walk of a warm graph touches no store.
// What an entry changes is dropped when it is followed.
type cache struct {
	up, down  *lru.Cache[schema.Key, *schema.Node]
	steps     *lru.Cache[int64, *schema.Step]
	entries   *lru.Cache[int64, *record]
	resources *lru.Cache[schema.Key, mentions]
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
		up: newLRU[schema.Key, *schema.Node](cachedNodes), down: newLRU[schema.Key, *schema.Node](cachedNodes), steps: newLRU[int64, *schema.Step](cachedSteps),
		entries: newLRU[int64, *record](cachedEntries), resources: newLRU[schema.Key, mentions](cachedResources),
	}
}

func newLRU[K comparable, V any](size int) *lru.Cache[K, V] {
	c, err := lru.New[K, V](size)
	if err != nil {
		panic(err) // only for a size below one
	}
	return c
}

// nodes are those that a walk in direction d reads.
func (c *cache) nodes(d schema.Direction) *lru.Cache[schema.Key, *schema.Node] {
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
func fill[K comparable, V any](g *Graph, c *lru.Cache[K, V], k K, load func() (V, error)) (V, error) {
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
