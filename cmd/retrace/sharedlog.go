package main

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// idleClose is how long a sharedLog that nobody uses keeps the ledger.
const idleClose = 500 * time.Millisecond

// sharedLog is the ledger of a watch that goes on for days: it is opened when
// there is something to look up or append and let go when it was idle for a
// moment, so that other commands get their turn. Where a server holds the
// ledger, it is the server's.
type sharedLog struct {
	dir string

	mu   sync.Mutex
	log  ingest.Log // nil while let go
	shut func() error
	idle *time.Timer
	err  error // of letting go
}

// Append implements ingest.Log.
func (s *sharedLog) Append(ctx context.Context, b schema.Batch) (r schema.Receipt, err error) {
	err = s.use(ctx, func(l ingest.Log) error {
		r, err = l.Append(ctx, b)
		return err
	})
	return r, err
}

// Cursor implements ingest.Log.
func (s *sharedLog) Cursor(ctx context.Context, namespace, source string) (at string, err error) {
	err = s.use(ctx, func(l ingest.Log) error {
		at, err = l.Cursor(ctx, namespace, source)
		return err
	})
	return at, err
}

// maxPage is how many entries are read before others get their turn.
const maxPage = 256

// Entries implements ingest.Entries, page by page.
func (s *sharedLog) Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error] {
	return func(yield func(schema.Entry, error) bool) {
		for {
			page, err := s.page(ctx, from)
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
			}
			if err != nil {
				yield(schema.Entry{}, err)
				return
			}
			if len(page) < maxPage {
				return
			}
			from += int64(len(page))
		}
	}
}

func (s *sharedLog) page(ctx context.Context, from int64) ([]schema.Entry, error) {
	var page []schema.Entry
	err := s.use(ctx, func(l ingest.Log) error {
		log, ok := l.(ingest.Entries)
		if c, remote := l.(*client.Client); remote {
			behind, err := c.Ledger(ctx)
			if err != nil {
				return err
			}
			log, ok = behind, true
		}
		if !ok {
			return errors.New("this ledger cannot be read while it is watched")
		}
		for e, err := range log.Entries(ctx, from) {
			if err != nil {
				return err
			}
			if page = append(page, e); len(page) == maxPage {
				break
			}
		}
		return nil
	})
	return page, err
}

func (s *sharedLog) use(ctx context.Context, fn func(ingest.Log) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle != nil {
		s.idle.Stop()
	}
	if s.log == nil {
		if err := s.open(ctx); err != nil {
			return err
		}
	}
	defer func() { s.idle = time.AfterFunc(idleClose, s.letGo) }()
	return fn(s.log)
}

func (s *sharedLog) open(ctx context.Context) error {
	c, running, err := discover(ctx, s.dir)
	if err != nil {
		return err
	}
	if running {
		s.log, s.shut = c, func() error { return nil }
		return nil
	}
	l, err := openLedger(ctx, s.dir)
	if err != nil {
		return err
	}
	s.log, s.shut = l, l.Close
	return nil
}

func (s *sharedLog) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log == nil {
		return
	}
	s.err = errors.Join(s.err, s.shut())
	s.log = nil
}

// Close lets go for good.
func (s *sharedLog) Close() error {
	s.mu.Lock()
	if s.idle != nil {
		s.idle.Stop()
	}
	s.mu.Unlock()
	s.letGo()
	return s.err
}

// openToWatch is open for a watch that goes on: the ledger is not held between
// reads. It has no lineage.
func (a *app) openToWatch(ctx context.Context) (_ *book, log ingest.Log, err error) {
	b := &book{}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if a.server != "" {
		c, err := a.client()
		if err != nil {
			return nil, nil, err
		}
		b.store = remoteContent{c.Content()}
		b.observer, err = agentKey()
		return b, c, err
	}
	if b.dir, err = a.findDir(); err != nil {
		return nil, nil, err
	}
	if err := b.loadObserver(b.dir); err != nil {
		return nil, nil, err
	}
	shared := &sharedLog{dir: b.dir}
	b.close = append(b.close, shared.Close)
	return b, shared, b.openStore(ctx, b.dir)
}
