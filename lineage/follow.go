package lineage

import (
	"context"
	"errors"
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

func (g *Graph) follow(ctx context.Context, log Log) (err error) {
	stop := make(chan struct{})
	ready := g.decodeAhead(readAhead(ctx, log, g.Size(), stop), stop)
	w := g.newIndexer(nil)
	defer func() {
		close(stop)
		for range ready { // until those who work ahead have ended
		}
		w.discard()
		if settled := w.settlePrevious(); settled != nil {
			err = errors.Join(err, settled)
		}
		if err != nil {
			g.known = newKnown() // of what is not in the index
		}
	}()
	for s := range ready {
		if w, err = g.apply(ctx, log, w, s); err != nil {
			return err
		}
		if s.err != nil {
			return s.err
		}
	}
	return nil
}

// apply indexes a stretch of entries with w, which holds nothing yet, and
// returns who indexes what comes next. An entry that decides how others are
// read looks at all that was indexed before and is looked at by all that comes
// after it, so that it ends a transaction which overlaps with no other.
func (g *Graph) apply(ctx context.Context, log Log, w *indexer, s stretch) (_ *indexer, err error) {
	for docs := s.docs; len(docs) > 0; {
		n := 1 + slices.IndexFunc(docs, func(d decoded) bool { return d.mayDecide() })
		decides := n > 0
		if !decides {
			n = len(docs)
		}
		if decides {
			if w, err = w.settle(); err != nil {
				return w, err
			}
		}
		s.keys = g.checkAgain(docs, s.keys)
		if w, err = w.commit(ctx, log, docs[:n]); err != nil {
			return w, err
		}
		if decides {
			if w, err = w.settle(); err != nil {
				return w, err
			}
		}
		docs = docs[n:]
	}
	return w, nil
}
