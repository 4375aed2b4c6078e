package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/retrace-ledger/retrace/keys"
	ledgerbench "github.com/retrace-ledger/retrace/ledger/bench"
)

// appends is what was measured of appending.
type appends struct {
	Contestants []contestant      `json:"contestants"`
	Figures     []figure          `json:"figures"`
	Skipped     map[string]string `json:"skipped,omitempty"` // why, by name
}

// figure is what one contestant did with one number of callers.
type figure struct {
	Callers   int     `json:"callers"`
	Name      string  `json:"name"`
	PerSecond spread  `json:"perSecond"`
	P50Ms     float64 `json:"p50Ms"`
	P99Ms     float64 `json:"p99Ms"`
	Times     spread  `json:"times"` // as fast is retrace, in the same round
}

// spread is the median of the rounds, and the ends.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(v []float64) spread {
	v = slices.Sorted(slices.Values(v))
	return spread{v[len(v)/2], v[0], v[len(v)-1]}
}

const (
	retraceName = "retrace"
	rawName     = "raw Badger"
)

// ours are the two that are not peers.
func ours() []contestant {
	return []contestant{
		{
			Name: retraceName, Durable: true, Provable: true, Signed: true,
			How: "one transaction and one signed checkpoint for a group, both on disk; a key for the digest",
		}, {
			Name: rawName, Durable: true,
			How: "the same keys, bytes and batches from one goroutine, and one 4 KiB fdatasync a batch; no queue, hash or signature",
		},
	}
}

// measureAppends lets all contestants append the same envelopes, round by
// round.
func measureAppends(ctx context.Context, dir string, opt options) (*appends, error) {
	a := &appends{Contestants: ours(), Skipped: map[string]string{}}
	var in []contestant
	for _, c := range contestants() {
		switch {
		case !strings.Contains(strings.ToLower(c.Name), strings.ToLower(opt.peers)):
		case c.slow && !opt.slow:
			a.Skipped[c.Name] = c.How + ": with -slow only"
		default:
			in = append(in, c)
		}
	}
	for _, callers := range opt.callers {
		f, err := a.race(ctx, filepath.Join(dir, fmt.Sprint(callers)), callers, in, opt)
		if err != nil {
			return nil, fmt.Errorf("%d callers: %w", callers, err)
		}
		a.Figures = append(a.Figures, f...)
	}
	a.Contestants = append(a.Contestants, in...)
	return a, nil
}

// racer is a contestant that is open, and what it did.
type racer struct {
	contestant
	peer      peer // nil for retrace and raw Badger
	perSecond []float64
	times     []float64
	each      []time.Duration
}

func (a *appends) race(ctx context.Context, dir string, callers int, in []contestant, opt options) (_ []figure, err error) {
	key, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	// PostgreSQL refuses to run as root, so that another user has to reach a
	// folder below this one.
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	contest, err := ledgerbench.NewContest(dir, key)
	if err != nil {
		return nil, err
	}
	racers := []*racer{}
	defer func() {
		err = errors.Join(err, contest.Close())
		for _, r := range racers {
			if r.peer != nil {
				err = errors.Join(err, r.peer.Close())
			}
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	for _, c := range ours() {
		racers = append(racers, &racer{contestant: c})
	}
	for i, c := range in {
		if a.Skipped[c.Name] != "" {
			continue
		}
		at := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(at, 0o700); err != nil {
			return nil, err
		}
		p, err := c.open(ctx, at, callers)
		if why := skipped(err); why != "" {
			a.Skipped[c.Name] = why
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
		racers = append(racers, &racer{contestant: c, peer: p})
	}
	n := cmp.Or(opt.entries, min(max(512, 128*callers), 16384))
	for round := range opt.rounds + 1 {
		if err := raceRound(ctx, contest, racers, callers, n, opt.box, round > 0); err != nil {
			return nil, err
		}
	}
	figures := make([]figure, len(racers))
	for i, r := range racers {
		figures[i] = figure{Callers: callers, Name: r.Name, PerSecond: spreadOf(r.perSecond), Times: spreadOf(r.times)}
		figures[i].P50Ms, figures[i].P99Ms = quantile(r.each, 0.5), quantile(r.each, 0.99)
	}
	return figures, nil
}

// raceRound gives each of racers, of which the first two are retrace and the
// bare store, a turn with the same n envelopes.
func raceRound(ctx context.Context, contest *ledgerbench.Contest, racers []*racer, callers, n int, box time.Duration, counts bool) error {
	envs, err := ledgerbench.Envelopes(n)
	if err != nil {
		return err
	}
	var commits []int
	var our float64
	for i, r := range racers {
		runtime.GC() // nobody pays for what another left
		var turn ledgerbench.Turn
		done := n
		switch i {
		case 0:
			turn, commits, err = contest.Append(ctx, callers, slices.Collect(slices.Chunk(envs, 1)))
		case 1:
			turn, err = contest.Raw(envs, commits)
		default:
			turn, done, err = callFor(n, callers, box, func(i int) error { return r.peer.Append(ctx, envs[i].Raw) })
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.Name, err)
		}
		rate := float64(done) / turn.Took.Seconds()
		if i == 0 {
			our = rate
		}
		if counts {
			r.perSecond, r.times, r.each = append(r.perSecond, rate), append(r.times, our/rate), append(r.each, turn.Each...)
		}
	}
	return nil
}

// callFor calls do for the numbers below n from so many callers at once until
// box is over, and waits for the answers. It returns how many there were.
func callFor(n, callers int, box time.Duration, do func(i int) error) (ledgerbench.Turn, int, error) {
	each := make([]time.Duration, n)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	began := time.Now()
	for range callers {
		wg.Go(func() {
			for time.Since(began) < box {
				i := int(next.Add(1) - 1)
				if i >= n {
					return
				}
				start := time.Now()
				if err := do(i); err != nil {
					failed.Store(&err)
					return
				}
				each[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	if err := failed.Load(); err != nil {
		return ledgerbench.Turn{}, 0, *err
	}
	// Numbers are taken in order and each that was taken was answered.
	done := min(int(next.Load()), n)
	return ledgerbench.Turn{Took: took, Each: each[:done]}, done, nil
}

// quantile is in milliseconds; 0 if nothing was timed.
func quantile(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return float64(d[int(q*float64(len(d)-1))]) / float64(time.Millisecond)
}
