package lineage

import (
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/schema"
)

// resource notes what the entry adds to the description of a resource:
// nothing, mostly, so that what many entries mention stays cheap to describe.
func (w *indexer) resource(index int64, r schema.Resource) error {
	n, err := w.node(r.Key)
	if err != nil {
		return err
	}
	if n.have == nil {
		mentions, err := readMentions(w.before, n.id, r.Key)
		if err != nil {
			return err
		}
		have := mentions.below(index)
		n.have = &have
	}
	merged, added := merge(*n.have, r)
	if *n.have = merged; !added {
		return nil
	}
	w.touched = append(w.touched, r.Key)
	return w.putJSON(key(tagMention, n.id, index), r)
}

// merge adds to have what r says and have left open.
func merge(have, r schema.Resource) (schema.Resource, bool) {
	if have.Key == "" {
		return r, true
	}
	added := false
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
	// A policy that was Retain and is Delete now counts as that.
	if have.Content == schema.ContentVolume && r.Content == schema.ContentVolumeObject {
		have.Content, added = r.Content, true
	}
	if durable(r.Durability) > durable(have.Durability) {
		have.Durability, added = r.Durability, true
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

// durable orders durabilities: of several snapshots of the same bytes, the one
// that survives most counts.
func durable(class string) int {
	return slices.Index([]string{schema.SameDisk, schema.OtherDisk, schema.Remote}, class)
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
