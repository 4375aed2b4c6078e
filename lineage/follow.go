package lineage

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Follow brings the index up to the log's size and returns. It follows each
// entry once, in order; what it has followed is kept when it is interrupted.
//
// When it meets an erasure of what it has indexed, the index is built anew from
// the log while the old one is read, and takes its place: see [ErrRebuilt].
func (g *Graph) Follow(ctx context.Context, log Log) error {
	g.followMu.Lock()
	defer g.followMu.Unlock()
	if _, err := g.turn.now(); err != nil {
		return err
	}
	err := g.follow(ctx, log)
	if errors.Is(err, errStale) {
		return g.rebuild(ctx, log)
	}
	return err
}

func (g *Graph) follow(ctx context.Context, log Log) error {
	stop := make(chan struct{})
	ready := g.decodeAhead(readAhead(ctx, log, g.Size(), stop), stop)
	defer func() {
		close(stop)
		for range ready { // until those who work ahead have ended
		}
	}()
	for s := range ready {
		if err := g.apply(ctx, log, s); err != nil {
			return err
		}
		if s.err != nil {
			return s.err
		}
	}
	return nil
}

// apply indexes a stretch of entries. A trust entry changes how later
// signatures are checked, so that each ends a transaction.
func (g *Graph) apply(ctx context.Context, log Log, s stretch) error {
	for docs := s.docs; len(docs) > 0; {
		n := 1 + slices.IndexFunc(docs, func(d decoded) bool { return d.mayBeTrust() })
		if n == 0 {
			n = len(docs)
		}
		s.keys = g.checkAgain(docs, s.keys)
		if err := g.commit(ctx, log, docs[:n]); err != nil {
			g.known = newKnown() // of what is not in the index
			return err
		}
		docs = docs[n:]
	}
	return nil
}

// commit indexes entries, whole or not at all.
func (g *Graph) commit(ctx context.Context, log Log, docs []decoded) error {
	w := g.newIndexer()
	defer w.discard()
	for i := range docs {
		if err := w.entry(ctx, log, &docs[i]); err != nil {
			return fmt.Errorf("indexing entry %d: %w", docs[i].Index, err)
		}
	}
	if err := w.putJSON(key(tagState), w.state); err != nil {
		return err
	}
	if err := w.txn.Commit(); err != nil {
		return fmt.Errorf("writing the lineage index: %w", err)
	}
	return g.advance(w)
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
