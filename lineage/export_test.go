package lineage

import (
	"context"
	"errors"

	"github.com/dgraph-io/badger/v4"
	"github.com/go-json-experiment/json"
)

var errTorn = errors.New("torn")

// Tear follows the entry at index, and fails before the transaction that would
// make it seen: what is left is what a process leaves that is killed there. It
// returns nil if one transaction held it all, so that nothing is left.
func (g *Graph) Tear(ctx context.Context, log Log, index int64) error {
	g.followMu.Lock()
	defer g.followMu.Unlock()
	e, err := log.Entry(ctx, index)
	if err != nil {
		return err
	}
	docs := []decoded{g.decodeOne(e, g.knownKeys())}
	w := g.newIndexer(nil)
	defer func() {
		w.discard()
		g.known = newKnown()
	}()
	first := w.txn
	if err := w.entry(ctx, log, &docs[0]); err != nil {
		return err
	}
	if err := w.putPages(); err != nil {
		return err
	}
	if w.txn == first {
		return nil
	}
	return errTorn
}

// SetVersion makes the index one of another version.
func (g *Graph) SetVersion(version int) error {
	return g.db.Update(func(txn *badger.Txn) error {
		raw, err := json.Marshal(state{Version: version, Size: g.state.Size})
		if err != nil {
			return err
		}
		return txn.Set(key(tagState), raw)
	})
}

// IndexVersion is the version of the indexes that are made.
const IndexVersion = indexVersion
