package lineage

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/retrace-ledger/retrace/schema"
)

// Source is what coverage entries of our own watchers say of a source that was
// watched into a namespace.
type Source struct {
	Name      string
	Namespace string
	Until     time.Time // up to when it is spoken for: nothing is known of it afterwards
	Blind     bool      // nothing could be read in the interval that ended then
	Intervals int64     // without sight, in all
	Entry     int64     // that spoke last
}

// Sources are all that were ever watched, by name and namespace, as of the
// view's time. It reads every coverage entry.
func (v *View) Sources(ctx context.Context) ([]Source, error) {
	type place struct{ name, namespace string }
	found := map[place]*Source{}
	for e, err := range v.Entries(ctx, 0, Filter{PredicateType: schema.CoverageV1, By: v.time}) {
		if err != nil {
			return nil, err
		}
		if e.State != schema.Present || !e.Evidence.Trusted() {
			continue
		}
		at := place{e.Source, e.Namespace}
		s := found[at]
		if s == nil {
			s = &Source{Name: e.Source, Namespace: e.Namespace}
			found[at] = s
		}
		s.Until, s.Blind, s.Entry = e.At, e.Blind, e.Index
		if e.Blind {
			s.Intervals++
		}
	}
	var out []Source
	for _, s := range found {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Source) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Namespace, b.Namespace))
	})
	return out, nil
}

// Resources yields every resource that the entries mention and that is of a kind,
// or all if kind is empty, by key from the one behind after on; with backward, down
// from the one before it. An empty after is the end that the order begins at.
func (v *View) Resources(ctx context.Context, after schema.Key, kind string, backward bool) iter.Seq2[schema.Resource, error] {
	return func(yield func(schema.Resource, error) bool) {
		place := key(tagKey, after)
		switch {
		case after == "" && backward:
			place = []byte{tagKey, 0xff}
		case after == "":
			place = []byte{tagKey}
		}
		err := v.read(func(txn *badger.Txn) error {
			it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tagKey}, Reverse: backward})
			defer it.Close()
			for it.Seek(place); it.Valid(); it.Next() {
				if err := ctx.Err(); err != nil {
					return err
				}
				k := it.Item().Key()
				if bytes.Equal(k, place) {
					continue
				}
				r, err := v.Resource(schema.Key(k[1 : len(k)-1]))
				if errors.Is(err, ErrNotFound) || err == nil && kind != "" && r.Kind != kind {
					continue // mentioned later than the size, or another
				}
				if err != nil || !yield(r, nil) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			yield(schema.Resource{}, err)
		}
	}
}
