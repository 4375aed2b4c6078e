package witness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/verify"
)

// A Log is what witnesses are asked about. *ledger.Ledger is one.
type Log interface {
	Origin() string
	Checkpoint() []byte
	Wait(ctx context.Context, size int64) error
	ProveConsistency(ctx context.Context, old, new int64) ([]tlog.Hash, error)
	Cosigned() []byte
	Cosign(ctx context.Context, signed []byte) error
	Confront(ctx context.Context, signed []byte) error
}

// Options changes how witnesses are asked. The zero value is right.
type Options struct {
	Client   *http.Client  // one with a time limit of 10 s if nil
	Interval time.Duration // between two checkpoints that are offered; a second if 0
	// Alarm is told of a claim that the log forked or was rolled back, which
	// nobody signed: it stops nothing.
	Alarm func(witness string, err error)
	// Failed is told that a witness did not cosign, and when it is asked again.
	Failed func(witness string, err error, again time.Duration)
}

// Times of a feeder.
const (
	requestTimeout = 10 * time.Second
	maxBackoff     = 2 * time.Minute
	// keepRounds is how many checkpoints wait for the rest of their quorum.
	keepRounds = 64
)

// Feeder offers a log's newest checkpoint to the witnesses of a policy and
// keeps it once the quorum cosigned it.
type Feeder struct {
	log    Log
	key    note.Verifier
	policy *verify.Policy
	opt    Options

	mu      sync.Mutex
	rounds  []*round // oldest first
	next    chan struct{}
	done    int64     // size of the newest checkpoint that met the quorum
	since   time.Time // the oldest round that the quorum has not covered began
	members []*member
}

// round is one checkpoint that all witnesses are offered: those that were
// offered different ones would never make a quorum.
type round struct {
	verify.Checkpoint
	began time.Time
	lines []byte // verified cosignatures
}

// member is a witness and how it stands. The status and signed are guarded by
// the feeder's mu; seen belongs to the witness's own goroutine.
type member struct {
	verify.Witness
	seen   int64 // size that the witness last recorded, as far as is known
	signed int64 // newest size that it cosigned for this feeder
	MemberStatus
}

// MemberStatus says how one witness stands.
type MemberStatus struct {
	Name     string
	URL      string
	Size     int64     // newest size that it cosigned
	At       time.Time // when it last did; zero if never
	Err      error     // why it did not at the last try; nil if it did
	Requests int64     // that it was sent
	Failures int64     // of them, without a cosignature
	Alarms   int64     // claims that the log forked or was rolled back
}

// Status says how far the witnesses are.
type Status struct {
	Size    int64         // of the newest checkpoint that the quorum cosigned; 0 if none
	Behind  time.Duration // how long there has been a newer one without its quorum; 0 if there is none
	Members []MemberStatus
}

// New returns a feeder of log, whose key is given. Only witnesses with a URL
// are asked; the policy must name one at least.
func New(log Log, key note.Verifier, policy *verify.Policy, opt *Options) (*Feeder, error) {
	f := &Feeder{log: log, key: key, policy: policy, next: make(chan struct{})}
	if opt != nil {
		f.opt = *opt
	}
	if f.opt.Client == nil {
		f.opt.Client = &http.Client{Timeout: requestTimeout}
	}
	if f.opt.Interval == 0 {
		f.opt.Interval = time.Second
	}
	if f.opt.Alarm == nil {
		f.opt.Alarm = func(string, error) {}
	}
	if f.opt.Failed == nil {
		f.opt.Failed = func(string, error, time.Duration) {}
	}
	for _, w := range policy.Witnesses {
		if w.URL != "" {
			f.members = append(f.members, &member{Witness: w, MemberStatus: MemberStatus{Name: w.Name, URL: w.URL}})
		}
	}
	if len(f.members) == 0 {
		return nil, errors.New("the policy names no witness with a URL to ask")
	}
	return f, f.resume()
}

// resume learns from the cosigned checkpoint that the log kept what its
// witnesses saw last. A witness that saw more says so.
func (f *Feeder) resume() error {
	signed := f.log.Cosigned()
	if signed == nil {
		return nil
	}
	cp, err := verify.OpenCheckpoint(signed, f.key)
	if err != nil {
		return fmt.Errorf("reading the cosigned checkpoint: %w", err)
	}
	found, err := f.policy.Check(cp, f.key)
	if err != nil {
		return nil // cosigned under another policy; it is replaced by the next
	}
	f.done = cp.Size
	for _, m := range f.members {
		for _, c := range found {
			if c.Witness == m.Witness.Name {
				m.seen, m.Size, m.At = cp.Size, cp.Size, c.Time
			}
		}
	}
	return nil
}

// Run asks the witnesses until ctx ends. Witnesses that fail are asked again,
// later and later; nothing else waits for them. The error is what the log's
// Confront returned, if a witness held evidence against it, or says that the
// log ended.
func (f *Feeder) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.begin(ctx) })
	for _, m := range f.members {
		group.Go(func() error { return f.feed(ctx, m) })
	}
	return group.Wait()
}

// begin begins a round when the log has grown, at most one an interval. The
// first is at the size it has, which tells a log that was rolled back.
func (f *Feeder) begin(ctx context.Context) error {
	for size := int64(1); ; {
		if err := f.log.Wait(ctx, size); err != nil {
			return err
		}
		cp, err := verify.OpenCheckpoint(f.log.Checkpoint(), f.key)
		if err != nil {
			return fmt.Errorf("reading the newest checkpoint: %w", err)
		}
		f.add(&round{Checkpoint: cp, began: time.Now()})
		size = cp.Size + 1
		if err := sleep(ctx, f.opt.Interval); err != nil {
			return err
		}
	}
}

func (f *Feeder) add(r *round) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Size > f.done && f.since.IsZero() {
		f.since = r.began
	}
	f.rounds = append(f.rounds, r)
	if len(f.rounds) > keepRounds {
		f.rounds = f.rounds[1:]
	}
	close(f.next)
	f.next = make(chan struct{})
}

// newest is the round to offer m, if it did not sign it yet, and a channel
// that is closed when there is a newer one.
func (f *Feeder) newest(m *member) (*round, chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.rounds); n > 0 && f.rounds[n-1].Size > m.signed {
		return f.rounds[n-1], nil
	}
	return nil, f.next
}

// feed offers m each round, one request at a time and at most one an interval.
func (f *Feeder) feed(ctx context.Context, m *member) error {
	// A witness that signed the newest checkpoint before Run is asked again all
	// the same: if the log was rolled back since, it knows of a newer one.
	failures := 0
	for {
		r, wait := f.newest(m)
		if r == nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-wait:
			}
			continue
		}
		err := f.offer(ctx, m, r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var stop *stopError
		if errors.As(err, &stop) {
			return stop.err
		}
		pause := f.opt.Interval
		if err == nil {
			failures = 0
		} else {
			failures++
			pause = backoff(f.opt.Interval, failures)
			f.opt.Failed(m.Witness.Name, err, pause)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// stopError carries evidence against the log.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }
func (e *stopError) Unwrap() error { return e.err }

// offer has m cosign r, and keeps what it signs.
func (f *Feeder) offer(ctx context.Context, m *member, r *round) (err error) {
	defer func() { f.report(m, r, err) }()
	old := m.seen
	if old > r.Size {
		// It saw a newer checkpoint of ours than this round's, which was lost
		// on the way; the next round covers it.
		old = r.Size
	}
	lines, err := f.ask(ctx, m, old, r)
	var other *sizeError
	if errors.As(err, &other) && other.size <= r.Size {
		if err := sleep(ctx, f.opt.Interval); err != nil {
			return err
		}
		lines, err = f.ask(ctx, m, other.size, r)
	}
	if errors.As(err, &other) && other.size > r.Size {
		return f.claimed(ctx, m, other.size, err)
	}
	if errors.Is(err, errRoot) {
		return f.claimed(ctx, m, -1, err)
	}
	if err != nil {
		return err
	}
	m.seen = r.Size
	return f.collect(ctx, r, lines)
}

// ask sends one request.
func (f *Feeder) ask(ctx context.Context, m *member, old int64, r *round) ([]byte, error) {
	f.mu.Lock()
	m.Requests++
	f.mu.Unlock()
	proof, err := f.log.ProveConsistency(ctx, old, r.Size)
	if err != nil {
		return nil, err
	}
	return addCheckpoint(ctx, f.opt.Client, m.Witness, old, proof, r.Checkpoint)
}

// report keeps how an offer ended.
func (f *Feeder) report(m *member, r *round, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.Err = err
	if err != nil {
		m.Failures++
		return
	}
	m.signed, m.Size, m.At = r.Size, r.Size, time.Now()
}

// claimed deals with a witness that claims to have seen another log than this
// one, at a size, or -1 if it does not say which. Nobody signed the claim, so it
// is an alarm and stops nothing; the checkpoint that the witness holds, which
// our key signed, does.
func (f *Feeder) claimed(ctx context.Context, m *member, size int64, claim error) error {
	if now, err := verify.OpenCheckpoint(f.log.Checkpoint(), f.key); err == nil && size >= 0 && size <= now.Size {
		m.seen = size // of ours; the next round is larger
		return claim
	}
	f.mu.Lock()
	m.Alarms++
	f.mu.Unlock()
	f.opt.Alarm(m.Witness.Name, claim)
	signed, err := latest(ctx, f.opt.Client, m.Witness, f.log.Origin())
	if err != nil {
		return fmt.Errorf("%w (the checkpoint it saw cannot be had from it: %w)", claim, err)
	}
	var back *ledger.RollbackError
	var fork *ledger.ForkError
	err = f.log.Confront(ctx, signed)
	switch {
	case errors.As(err, &back), errors.As(err, &fork):
		return &stopError{fmt.Errorf("witness %s: %w", m.Witness.Name, err)}
	case err != nil:
		return fmt.Errorf("%w (what it shows as the checkpoint it saw is no evidence: %w)", claim, err)
	}
	return fmt.Errorf("%w (but the checkpoint it shows is one of this ledger)", claim)
}

// collect adds verified cosignatures to a round, and keeps its checkpoint once
// the quorum is met.
func (f *Feeder) collect(ctx context.Context, r *round, lines []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.lines = append(r.lines, lines...)
	if r.Size < f.done {
		return nil
	}
	cosigned := r.Checkpoint
	cosigned.Note = append(append([]byte{}, r.Note...), r.lines...)
	if _, err := f.policy.Check(cosigned, f.key); err != nil {
		return nil // the quorum is not met yet
	}
	if err := f.log.Cosign(ctx, cosigned.Note); err != nil {
		return err
	}
	f.done, f.since = r.Size, time.Time{}
	for len(f.rounds) > 1 && f.rounds[0].Size < r.Size {
		f.rounds = f.rounds[1:]
	}
	if len(f.rounds) > 0 && f.rounds[len(f.rounds)-1].Size > r.Size {
		f.since = time.Now()
		for _, later := range f.rounds {
			if later.Size > r.Size {
				f.since = later.began
				break
			}
		}
	}
	return nil
}

// Status says how far the witnesses are now.
func (f *Feeder) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Status{Size: f.done}
	if !f.since.IsZero() {
		s.Behind = time.Since(f.since)
	}
	for _, m := range f.members {
		s.Members = append(s.Members, m.MemberStatus)
	}
	return s
}

// backoff grows with the failures in a row, up to a limit, and has jitter so
// that logs do not come back to a witness all at once.
func backoff(base time.Duration, failures int) time.Duration {
	d := base << min(failures, 10)
	if base < maxBackoff {
		d = min(d, maxBackoff)
	}
	return max(base, d/2+rand.N(d/2+1))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
