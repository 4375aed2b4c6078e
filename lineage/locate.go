package lineage

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/retrace-ledger/retrace/schema"
)

// locations notes what the entry says is at each URI that it names, where that
// is not what the entry before said: a location has a history, as a name has.
// A claim never stands in for what somebody vouches for.
func (w *indexer) locations(index int64, signed bool, resources []schema.Resource) error {
	at := map[string][]schema.Key{}
	for _, r := range resources {
		if r.URI != "" && !strings.ContainsRune(r.URI, 0) && !isAlias(r, resources) {
			at[r.URI] = append(at[r.URI], r.Key)
		}
	}
	for _, uri := range slices.Sorted(maps.Keys(at)) {
		slices.Sort(at[uri])
		last, err := w.lastLocated(uri, index)
		if err != nil {
			return err
		}
		if slices.Equal(last.keys, at[uri]) && (last.signed || !signed) {
			continue
		}
		w.nowLocated(uri, located{entry: index, keys: at[uri], signed: signed})
		for _, k := range at[uri] {
			if err := w.put(key(tagURI, uri, index, k), nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// isAlias says whether r is another digest of a resource that is there too.
func isAlias(r schema.Resource, all []schema.Resource) bool {
	if len(r.Digests) != 1 {
		return false
	}
	return slices.ContainsFunc(all, func(o schema.Resource) bool {
		return o.Key != r.Key && len(o.Digests) > 1 && o.URI == r.URI && o.Digests[r.Key.Algorithm()] == r.Key.Hex()
	})
}

// located is what an entry says is at a URI.
type located struct {
	entry  int64
	keys   []schema.Key
	signed bool // by a key that was known then
}

// lastLocated is what the last entry before the one at index says is at uri.
func (w *indexer) lastLocated(uri string, index int64) (last located, err error) {
	last, ok := w.located[uri]
	if ok {
		return last, nil
	}
	last, ok = w.g.known.located.Get(uri)
	if !ok && w.previous != nil {
		last, ok = w.previous.located[uri]
	}
	if !ok {
		last = lastLocated(w.before, uri, index)
		if len(last.keys) > 0 {
			r, err := readRecord(w.before, last.entry)
			if err != nil {
				return last, err
			}
			last.signed = len(r.Signers) > 0
		}
	}
	w.nowLocated(uri, last)
	return last, nil
}

// nowLocated keeps in mind what is at uri.
func (w *indexer) nowLocated(uri string, l located) {
	w.located[uri] = l
	w.g.known.located.Add(uri, l)
}

// lastLocated is what the last entry below size says is at uri.
func lastLocated(txn *badger.Txn, uri string, size int64) located {
	prefix := key(tagURI, uri)
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, Reverse: true})
	defer it.Close()
	var last located
	for it.Seek(key(tagURI, uri, size)); it.Valid(); it.Next() {
		entry, k := splitLocated(it.Item().Key(), len(prefix))
		if len(last.keys) > 0 && entry != last.entry {
			break
		}
		last.entry, last.keys = entry, append(last.keys, k)
	}
	slices.Sort(last.keys)
	return last
}

// splitLocated takes apart what stands behind the URI: entry, key and a zero
// byte.
func splitLocated(k []byte, offset int) (int64, schema.Key) {
	return entryAt(k, offset), schema.Key(k[offset+8 : len(k)-1])
}

// at returns what was at uri at the view's time: what the entry says that
// comes last by effective time and then in the ledger's order. Claims count
// only where there is nothing better, as with names.
func (v *View) at(uri string) ([]schema.Key, error) {
	var best located
	var bestTime time.Time
	vouched := false
	err := v.read(func(txn *badger.Txn) error {
		prefix := key(tagURI, uri)
		var all []located
		if err := scanKeys(txn, prefix, func(k []byte) {
			entry, rk := splitLocated(k, len(prefix))
			if entry >= v.size {
				return
			}
			if n := len(all); n > 0 && all[n-1].entry == entry {
				all[n-1].keys = append(all[n-1].keys, rk)
				return
			}
			all = append(all, located{entry: entry, keys: []schema.Key{rk}})
		}); err != nil {
			return err
		}
		for _, l := range all {
			e, err := v.entry(txn, l.entry)
			if err != nil {
				return err
			}
			if e.Evidence.Trusted() && !vouched {
				best, bestTime, vouched = located{}, time.Time{}, true
			}
			if e.Evidence.Trusted() == vouched && (v.time.IsZero() || !e.At.After(v.time)) && !e.At.Before(bestTime) {
				best, bestTime = l, e.At
			}
		}
		return nil
	})
	return best.keys, err
}
