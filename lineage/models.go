package lineage

import (
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/dgraph-io/badger/v4"

	"github.com/retrace-ledger/retrace/schema"
)

// Models yields the versions of models whose naming filter takes, in the
// ledger's order from the naming at entry from on; with filter.Newest from it
// down, newest first. A version that was moved is yielded once for each place it
// pointed at; with filter.By, once, where it pointed then. An empty name selects
// all models.
func (v *View) Models(ctx context.Context, from int64, name string, filter Filter) iter.Seq2[ModelVersion, error] {
	return func(yield func(ModelVersion, error) bool) {
		start, end, err := v.recorded(filter)
		if err != nil {
			yield(ModelVersion{}, err)
			return
		}
		then := *v
		then.time = filter.By
		first := key(tagModel, max(from, start))
		if filter.Newest {
			end = min(end, max(from, -1)+1)
			first = key(tagModel, end) // no naming is before all of its entry
		}
		err = v.read(func(txn *badger.Txn) error {
			it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tagModel}, PrefetchSize: 100, PrefetchValues: true, Reverse: filter.Newest})
			defer it.Close()
			for it.Seek(first); it.Valid(); it.Next() {
				if err := ctx.Err(); err != nil {
					return err
				}
				k := it.Item().KeyCopy(nil)
				full, err := it.Item().ValueCopy(nil)
				if err != nil {
					return err
				}
				entry := entryAt(k, 1)
				if entry < start || entry >= end {
					return nil
				}
				m, ok, err := v.modelAt(txn, string(full), entry, k[len(k)-4:])
				if err != nil {
					return err
				}
				if !ok || (name != "" && m.Name != name) || (filter.Namespace != "" && m.namespace != filter.Namespace) {
					continue
				}
				if !filter.By.IsZero() {
					p, err := then.Name(string(full))
					if errors.Is(err, ErrNotFound) || err == nil && p.Entry != entry {
						continue // not named yet, or moved by then
					}
					if err != nil {
						return err
					}
				}
				if !yield(m.ModelVersion, nil) {
					return nil
				}
			}
			return nil
		})
		if err != nil {
			yield(ModelVersion{}, err)
		}
	}
}

// CountModels is how many versions Models yields from the beginning.
func (v *View) CountModels(ctx context.Context, name string, filter Filter) (int64, error) {
	var n int64
	if name != "" || filter.Namespace != "" || !filter.By.IsZero() {
		for _, err := range v.Models(ctx, 0, name, filter) {
			if err != nil {
				return 0, err
			}
			n++
		}
		return n, nil
	}
	start, end, err := v.recorded(filter)
	if err != nil {
		return 0, err
	}
	err = v.read(func(txn *badger.Txn) error {
		return scanKeys(txn, []byte{tagModel}, func(k []byte) {
			if entry := entryAt(k, 1); entry >= start && entry < end {
				n++
			}
		})
	})
	return n, err
}

type modelInNamespace struct {
	ModelVersion
	namespace string
}

func (v *View) modelAt(txn *badger.Txn, full string, entry int64, seq []byte) (modelInNamespace, bool, error) {
	info, err := v.entry(txn, entry)
	if err != nil {
		return modelInNamespace{}, false, err
	}
	var n schema.NameFact
	if err := getJSON(txn, append(key(tagName, full, entry), seq...), &n); err != nil {
		return modelInNamespace{}, false, err
	}
	name, version, ok := strings.Cut(strings.TrimPrefix(full, schema.NameModel+":"), "@")
	return modelInNamespace{
		ModelVersion: ModelVersion{Name: name, Version: version, Pointed: Pointed{n, entry, info.Evidence}, RecordedAt: info.RecordedAt, Evidence: info.Evidence},
		namespace:    info.Namespace,
	}, ok, nil
}
