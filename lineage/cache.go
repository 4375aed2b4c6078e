package lineage

import (
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/retrace-ledger/retrace/schema"
)

// cache keeps decoded nodes and steps: the walk of a warm graph touches no
// store. Nodes that an entry changes are dropped when it is followed.
type cache struct {
	nodes *lru.Cache[nodeKey, *schema.Node]
	steps *lru.Cache[int64, *schema.Step]
}

type nodeKey struct {
	key schema.Key
	dir schema.Direction
}

// Sizes of the cache, in items. A node of a model's graph takes about 200
// bytes, a step about 2 KiB.
const (
	cachedNodes = 1 << 18
	cachedSteps = 1 << 15
)

func newCache() *cache {
	nodes, err := lru.New[nodeKey, *schema.Node](cachedNodes)
	if err != nil {
		panic(err) // only for a size below one
	}
	steps, err := lru.New[int64, *schema.Step](cachedSteps)
	if err != nil {
		panic(err)
	}
	return &cache{nodes, steps}
}

func (c *cache) drop(k schema.Key) {
	c.nodes.Remove(nodeKey{k, schema.Upstream})
	c.nodes.Remove(nodeKey{k, schema.Downstream})
}
