package lineage

import (
	"encoding/binary"
	"fmt"

	"github.com/retrace-ledger/retrace/schema"
)

// known is what the one who follows keeps in mind from one transaction to the
// next: an entry mostly mentions what those shortly before it mentioned. It is
// forgotten whenever a transaction was not committed.
type known struct {
	nodes   *recent[schema.Key, *node]
	located *recent[string, located]
}

// Sizes of known, in items of about half a KiB.
const (
	knownNodes   = 1 << 16
	knownLocated = 1 << 13
)

func newKnown() known {
	return known{nodes: newRecent[schema.Key, *node](knownNodes), located: newRecent[string, located](knownLocated)}
}

// node is what has to be known of a resource to index what an entry says of it.
type node struct {
	id   nodeID
	have *schema.Resource // its description so far; nil if it was not looked up
	page *page            // the last of it; nil if it was not looked up
}

// node is the one of k, which gets its dense id on its first mention.
func (w *indexer) node(k schema.Key) (*node, error) {
	if n, ok := w.nodes[k]; ok {
		return n, nil
	}
	n, ok := w.g.known.nodes.Get(k)
	if !ok && w.previous != nil {
		n, ok = w.previous.nodes[k]
	}
	if !ok {
		var err error
		if n, err = w.lookUp(k); err != nil {
			return nil, err
		}
	}
	w.g.known.nodes.Add(k, n)
	w.nodes[k] = n
	return n, nil
}

// lookUp finds the id of k in the index, or gives it the next one.
func (w *indexer) lookUp(k schema.Key) (*node, error) {
	id, ok, err := idOf(w.before, k)
	if err != nil {
		return nil, fmt.Errorf("looking for %s in the lineage index: %w", k, err)
	}
	if ok && id < w.state.Nodes { // others were left by an interrupted Follow
		return &node{id: id}, nil
	}
	id = w.state.Nodes
	w.state.Nodes++
	n := &node{id: id, have: &schema.Resource{Size: -1}, page: new(page)}
	return n, w.put(key(tagKey, k), binary.BigEndian.AppendUint64(nil, uint64(id)))
}

// id is the dense id of k.
func (w *indexer) id(k schema.Key) (nodeID, error) {
	n, err := w.node(k)
	if err != nil {
		return 0, err
	}
	return n.id, nil
}
