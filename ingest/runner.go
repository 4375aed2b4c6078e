package ingest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// A Signer signs what retrace observes. *keys.Private is one.
type Signer interface {
	SignStatement(s schema.Statement) (schema.Envelope, error)
}

// Options changes how a source is read. The zero value is right.
type Options struct {
	Namespace string // of the entries; schema.DefaultNamespace if empty
	Submitter string // who hands the entries in: the ID of the signer's key

	// Interval is how long Watch waits between reads; a minute if 0.
	Interval time.Duration
	// BatchSize is how many facts are appended at once, where cursors allow;
	// 512 if 0.
	BatchSize int

	Progress func(Progress)                      // called after each append, and when caught up
	Skipped  func(Skip)                          // called for each object left out, once
	Failed   func(err error, wait time.Duration) // Watch could not read and tries again after wait
	Now      func() time.Time                    // time.Now if nil
}

// Progress is how far one read has come.
type Progress struct {
	Done       int // facts and skipped objects read and safe in the log
	Total      int // estimate of Done at the end; 0 if unknown
	Recorded   int // facts that are new entries
	Duplicates int // facts that the log had already
	Skipped    int // objects left out
}

// A ConflictError says that a batch was refused because somebody else moved
// the cursor of the source: two readers read it, and the other one won.
// Nothing of the batch was recorded.
type ConflictError struct {
	Source string
	Want   string // the cursor that this reader read from
	Have   string // the cursor that the log held when it was asked afterwards
	Err    error  // what the log said
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("another reader of %s moved its cursor; stop one of the two: %v", e.Source, e.Err)
}

// Unwrap returns what the log said.
func (e *ConflictError) Unwrap() error { return e.Err }

// A BusyError says that a source asks to be left alone for a while, such as by
// HTTP's status 429 with Retry-After. Watch does so, for up to an hour.
type BusyError struct {
	Wait time.Duration
	Err  error // what it said
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%v: it asks to wait %s", e.Err, e.Wait.Round(time.Second))
}

// Unwrap returns what the source said.
func (e *BusyError) Unwrap() error { return e.Err }

// Runner reads one source into a log. But for Wake it is for one goroutine at a
// time.
type Runner struct {
	source Source
	name   string
	log    Log
	signer Signer
	opts   Options

	blind    string    // why the source could not be read; "" when it could
	seen     time.Time // when it was last read to the end by this runner
	watching bool
	refused  map[schema.Refusal]bool // what was recorded as such already
	woken    chan struct{}

	mu     sync.Mutex
	status Status
}

// Status is how a source is doing, for people and metrics.
type Status struct {
	Source    string    // canonical name
	Namespace string    // of its entries
	Seen      time.Time // when it was last read to its end
	Reading   bool
	Err       error     // why the last read failed; nil if it did not
	Again     time.Time // after a failure: when it is tried again
	Reads     int       // to the end
	Failures  int
	Progress  // of all reads by this runner, without Total
}

// Status says how the source is doing. It may be called at any time.
func (r *Runner) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

func (r *Runner) note(change func(*Status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.status)
}

// NewRunner returns a runner that reads source, whose canonical name is name,
// and appends to log what it says, signed by signer. opts may be nil.
func NewRunner(source Source, name string, log Log, signer Signer, opts *Options) *Runner {
	r := &Runner{source: source, name: name, log: log, signer: signer, woken: make(chan struct{}, 1)}
	if opts != nil {
		r.opts = *opts
	}
	if r.opts.Namespace == "" {
		r.opts.Namespace = schema.DefaultNamespace
	}
	if r.opts.Interval <= 0 {
		r.opts.Interval = time.Minute
	}
	if r.opts.BatchSize <= 0 {
		r.opts.BatchSize = 512
	}
	if r.opts.Now == nil {
		r.opts.Now = time.Now
	}
	r.status.Source, r.status.Namespace = name, r.opts.Namespace
	return r
}

// Once reads the source from where the log says it was left until it is caught
// up. Each fact is recorded exactly once, whatever happened in between: the
// cursor moves in the append that holds what was read. When Once returns an
// error, what Progress counts as done is recorded, and the next Once goes on
// from there.
func (r *Runner) Once(ctx context.Context) (Progress, error) {
	r.note(func(s *Status) { s.Reading, s.Again = true, time.Time{} })
	p, err := r.once(ctx)
	r.note(func(s *Status) {
		s.Reading = false
		if ctx.Err() != nil {
			return
		}
		s.Err = err
		if err != nil {
			s.Failures++
			return
		}
		s.Reads++
		s.Seen = r.seen
	})
	return p, err
}

func (r *Runner) once(ctx context.Context) (Progress, error) {
	b, err := r.begin(ctx)
	if err != nil {
		return Progress{}, err
	}
	if err := r.read(ctx, b); err != nil {
		if ctx.Err() == nil {
			r.blind = err.Error()
		}
		return b.progress, err
	}
	r.blind, r.seen = "", r.opts.Now()
	return b.progress, nil
}

// begin prepares a read from the stored cursors.
func (r *Runner) begin(ctx context.Context) (*batcher, error) {
	cursor, err := r.log.Cursor(ctx, r.opts.Namespace, r.name)
	if err != nil {
		return nil, fmt.Errorf("looking up how far %s was read: %w", r.name, err)
	}
	stored, err := r.log.Cursor(ctx, r.opts.Namespace, coverageSource(r.name))
	if err != nil {
		return nil, fmt.Errorf("looking up the coverage of %s: %w", r.name, err)
	}
	covered, err := parseCovered(stored)
	if err != nil {
		return nil, fmt.Errorf("reading the coverage of %s: %w", r.name, err)
	}
	return &batcher{r: r, from: cursor, to: cursor, coveredFrom: stored, covered: covered, started: r.opts.Now()}, nil
}

func (r *Runner) read(ctx context.Context, b *batcher) error {
	for event, err := range r.source.Observe(ctx, b.from) {
		if err != nil {
			err = fmt.Errorf("reading %s: %w", r.name, err)
			if ctx.Err() != nil {
				return err
			}
			return errors.Join(err, b.flush(ctx)) // events before an error stand
		}
		if err := b.add(ctx, event); err != nil {
			return err
		}
	}
	// A kind that ends early without an error must not pass for caught up.
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.finish(ctx)
}

// Watch reads the source again and again until ctx is done, and returns the
// context's error then. A read that fails is tried again after a wait that
// doubles up to five minutes; when it succeeds, the interval without sight is
// recorded. A conflict with another reader ends it with a *ConflictError.
func (r *Runner) Watch(ctx context.Context) error {
	r.watching = true
	for failures := 0; ; {
		_, err := r.Once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if conflict := (*ConflictError)(nil); errors.As(err, &conflict) {
			return err
		}
		if err == nil {
			failures = 0
			err = r.wait(ctx)
		} else {
			failures++
			wait, woken := backoff(failures), r.woken
			if busy := (*BusyError)(nil); errors.As(err, &busy) && busy.Wait > 0 {
				// Nobody's call makes it less busy.
				wait, woken = max(wait, min(busy.Wait, maxBusy)), nil
			}
			r.note(func(s *Status) { s.Again = r.opts.Now().Add(wait) })
			if r.opts.Failed != nil {
				r.opts.Failed(err, wait)
			}
			err = r.rest(ctx, wait, woken)
		}
		if err != nil {
			return err
		}
	}
}

// Wake has Watch look at the source at once, also where it waits after a failure,
// or once more if it is reading.
func (r *Runner) Wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// wait returns nil when it is time to look again.
func (r *Runner) wait(ctx context.Context) error {
	interval := jitter(r.opts.Interval, 0.1)
	w, ok := r.source.(Waiter)
	if !ok {
		return r.rest(ctx, interval, r.woken)
	}
	cursor, err := r.log.Cursor(ctx, r.opts.Namespace, r.name)
	if err != nil {
		return r.rest(ctx, interval, r.woken)
	}
	started := time.Now()
	var waiting sync.WaitGroup
	defer waiting.Wait()
	bounded, cancel := context.WithTimeout(ctx, interval)
	defer cancel()
	told := make(chan error, 1)
	waiting.Go(func() { told <- w.Wait(bounded, cursor) })
	select {
	case <-r.woken:
	case err := <-told:
		if err != nil {
			return r.rest(ctx, interval-time.Since(started), r.woken)
		}
	}
	return ctx.Err()
}

// rest returns nil when d is over or woken has something.
func (r *Runner) rest(ctx context.Context, d time.Duration, woken <-chan struct{}) error {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-woken:
	case <-timer.C:
	}
	return nil
}

const (
	firstBackoff = time.Second
	maxBackoff   = 5 * time.Minute
	maxBusy      = time.Hour // however long a source asks to be left alone
)

// backoff is how long to wait after so many failures in a row. The jitter
// keeps many watchers of one server from coming back all at once.
func backoff(failures int) time.Duration {
	d := maxBackoff
	if shift := failures - 1; shift < 10 {
		d = min(maxBackoff, firstBackoff<<shift)
	}
	return jitter(d, 0.5)
}

// jitter is d, less up to the given part of it.
func jitter(d time.Duration, part float64) time.Duration {
	return d - time.Duration(rand.Float64()*part*float64(d))
}
