package lineage

import (
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/retrace-ledger/retrace/schema"
)

// cache keeps what was decoded: the walk of a warm graph touches no store.
// What an entry changes is dropped when it is followed.
type cache struct {
	nodes     *lru.Cache[nodeKey, *schema.Node]
	steps     *lru.Cache[int64, *schema.Step]
	entries   *lru.Cache[int64, *record]
	resources *lru.Cache[schema.Key, mentions]
}

type nodeKey struct {
	key schema.Key
	dir schema.Direction
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
		nodes: newLRU[nodeKey, *schema.Node](cachedNodes), steps: newLRU[int64, *schema.Step](cachedSteps),
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

func (c *cache) drop(k schema.Key) {
	c.nodes.Remove(nodeKey{k, schema.Upstream})
	c.nodes.Remove(nodeKey{k, schema.Downstream})
	c.resources.Remove(k)
}

// cached returns what c holds for k, or what load reads, which is kept if the
// index did not move on meanwhile: it may lack what it moved on to.
func cached[K comparable, V any](g *Graph, c *lru.Cache[K, V], k K, load func() (V, error)) (V, error) {
	if v, ok := c.Get(k); ok {
		return v, nil
	}
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
