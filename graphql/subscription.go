package graphql

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/retrace-ledger/retrace/lineage"
)

// Subscription is the root of subscriptions.
func (r *root) Subscription() *subscription { return &subscription{r.api} }

// subscription resolves Subscription.
type subscription struct{ *API }

// Entries gives entries in order, each when the one before was taken: nothing is
// kept for a reader who lags but its place.
func (s *subscription) Entries(ctx context.Context, args struct{ After *Long }) (<-chan *entry, error) {
	next := s.graph.Size()
	if args.After != nil {
		if *args.After < -1 || int64(*args.After) >= next {
			return nil, badInput("after", "%d is not the index of an entry, of which there are %d; -1 begins with the first", *args.After, next)
		}
		next = int64(*args.After) + 1
	}
	out := make(chan *entry)
	go func() {
		defer close(out)
		for s.graph.Wait(ctx, next+1) == nil {
			// Each entry is a request of its own.
			who := askerOf(ctx)
			who.nodes.Store(0)
			v, err := s.graph.View(lineage.At{})
			if err != nil {
				s.failed(ctx, next, err)
				return
			}
			in := &answer{API: s.API, View: v}
			for info, err := range v.Entries(ctx, next, lineage.Filter{}) {
				if err != nil {
					s.failed(ctx, next, err)
					return
				}
				select {
				case out <- in.entryOf(ctx, info):
					next = info.Index + 1
				case <-ctx.Done():
					return
				}
				who.nodes.Store(0)
			}
		}
	}()
	return out, nil
}

// failed notes why a subscription ends: its reader is told that it does, and goes
// on from its place.
func (s *subscription) failed(ctx context.Context, next int64, err error) {
	if ctx.Err() == nil {
		s.opt.Logger.ErrorContext(ctx, "a subscription to entries ends", "next", next, "err", err)
	}
}

// looks is how often a restoration is looked at.
const looks = 200 * time.Millisecond

// Restoration gives the state of a restoration whenever it changes, until it has
// ended.
func (s *subscription) Restoration(ctx context.Context, args struct{ ID ID }) (<-chan *restoration, error) {
	if s.opt.Restores == nil {
		return nil, errNoRestores
	}
	now, err := s.opt.Restores.Restoration(ctx, string(args.ID))
	if errors.Is(err, ErrNoRestoration) {
		return nil, &Error{Code: CodeNotFound, Field: "id", Message: fmt.Sprintf("there is no restoration %s", clip(string(args.ID)))}
	}
	if err != nil {
		return nil, err
	}
	out := make(chan *restoration)
	go func() {
		defer close(out)
		for {
			select {
			case out <- &restoration{now}:
			case <-ctx.Done():
				return
			}
			for last := now; now.State == last.State && now.Done == last.Done; {
				if last.State != Running {
					return
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(looks):
				}
				if now, err = s.opt.Restores.Restoration(ctx, string(args.ID)); err != nil {
					return
				}
			}
		}
	}()
	return out, nil
}
