package lineage

import (
	"context"
	"fmt"
)

// commit indexes entries, whole or not at all, and returns who indexes what
// comes next. The store writes them meanwhile; one transaction at a time is on
// its way there.
func (w *indexer) commit(ctx context.Context, log Log, docs []decoded) (*indexer, error) {
	for i := range docs {
		if err := w.entry(ctx, log, &docs[i]); err != nil {
			return w, fmt.Errorf("indexing entry %d: %w", docs[i].Index, err)
		}
	}
	if err := w.putPages(); err != nil {
		return w, err
	}
	if err := w.putJSON(key(tagState), w.state); err != nil {
		return w, err
	}
	if err := w.settlePrevious(); err != nil {
		return w, err
	}
	next := w.g.newIndexer(w) // before the commit: Badger lets no transaction begin while one is written
	w.written = make(chan error, 1)
	go func() { w.written <- w.txn.Commit() }()
	return next, nil
}

// settle gives up what w holds, waits for what is on its way to the store, and
// returns an indexer that finds all of that there.
func (w *indexer) settle() (*indexer, error) {
	w.discard()
	if err := w.settlePrevious(); err != nil {
		return w, err
	}
	return w.g.newIndexer(nil), nil
}

// settlePrevious waits until the transaction before is in the store, and lets
// readers see it.
func (w *indexer) settlePrevious() error {
	p := w.previous
	if p == nil {
		return nil
	}
	w.previous = nil
	defer p.discard()
	if err := <-p.written; err != nil {
		return fmt.Errorf("writing the lineage index: %w", err)
	}
	return w.g.advance(p)
}

// advance lets readers see what w has written.
func (g *Graph) advance(w *indexer) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range w.touched {
		g.cache.drop(k)
	}
	for _, entry := range w.rechecked {
		g.cache.entries.Remove(entry)
		g.cache.steps.Remove(entry)
	}
	g.state = w.state
	for _, e := range w.erasures {
		g.holes.learn(e)
	}
	g.retractions.learn(w.retractions...)
	g.holes.bodiless = append(g.holes.bodiless, w.bodiless...)
	for _, t := range w.trust {
		if err := g.learn(t); err != nil {
			return err
		}
	}
	close(g.changed)
	g.changed = make(chan struct{})
	return nil
}
