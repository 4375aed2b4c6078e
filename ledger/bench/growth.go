package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/internal/disk"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// Growth is what was measured with a ledger of one size, from empty to full,
// closed, opened, asked and read again.
type Growth struct {
	Entries   int64     `json:"entries"`
	Tenths    []float64 `json:"tenths"`        // appends a second in each tenth of the entries
	PerSecond float64   `json:"perSecond"`     // over all of them
	Flat      float64   `json:"lastOverFirst"` // the last tenth's rate over the first's
	TookS     float64   `json:"tookS"`         // with making and checking what is appended

	IdleBytes     int64 `json:"idleBytes"`     // anonymous memory, loaded and idle
	DiskBytes     int64 `json:"diskBytes"`     // that the closed ledger takes
	EnvelopeBytes int64 `json:"envelopeBytes"` // that were appended

	OpenColdMs float64 `json:"openColdMs"` // the first time, its files read from the disk
	OpenMs     float64 `json:"openMs"`     // again

	ProveColdUs float64 `json:"proveColdUs"` // one inclusion proof, its tile not in memory
	ProveUs     float64 `json:"proveUs"`     // warm
	VerifyUs    float64 `json:"verifyUs"`    // that it leads to the root
	CheckUs     float64 `json:"checkUs"`     // the same, and the checkpoint's signature
	ProofBytes  int     `json:"proofBytes"`  // of the longest one's hashes
	ProofText   int     `json:"proofText"`   // of the longest one as text, with its checkpoint

	FsckPerSecond float64 `json:"fsckPerSecond"` // entries read again and compared
}

// DiskGoal is how many bytes the ledger may take: 1.15 times the envelopes and
// 60 bytes for each key of an index, of which an entry has one.
func (g Growth) DiskGoal() int64 { return g.EnvelopeBytes*115/100 + 60*g.Entries }

// IdleGoal is how much memory the ledger may have when idle: 150 MB, and 50 MB
// for each million entries.
func (g Growth) IdleGoal() int64 { return 150e6 + 50*g.Entries }

// How a ledger is loaded: from as many callers as there are at most in
// Append's measurements, so many envelopes at once in memory.
const (
	growCallers = 1024
	growChunk   = 16384
	minGrowth   = 1000
)

// proofSamples is how many different entries are proved. Their tiles fit in
// the ledger's cache.
const proofSamples = 256

// Grow fills a new ledger under dir with so many entries of about 1.7 KB and
// measures it. Only the appends themselves are on the clock that gives rates;
// the envelopes are made and checked between them, a few thousand at a time.
// What it made under dir is removed. It calls report, if it is not nil, with
// how many entries are appended.
func Grow(ctx context.Context, dir string, entries int64, report func(done int64)) (g Growth, err error) {
	if entries < minGrowth {
		return g, fmt.Errorf("measuring growth to %d entries: want at least %d", entries, minGrowth)
	}
	scratch, err := os.MkdirTemp(dir, "growth-")
	if err != nil {
		return g, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	dir = filepath.Join(scratch, "ledger")
	key, err := keys.Generate()
	if err != nil {
		return g, err
	}
	signer, verifier, err := create(dir, key)
	if err != nil {
		return g, err
	}
	g.Entries = entries
	if err := g.fill(ctx, dir, signer, report); err != nil {
		return g, fmt.Errorf("filling a ledger with %d entries: %w", entries, err)
	}
	if g.DiskBytes, err = disk.Used(dir); err != nil {
		return g, err
	}
	if err := g.ask(ctx, dir, signer, verifier); err != nil {
		return g, fmt.Errorf("asking a ledger of %d entries: %w", entries, err)
	}
	began := time.Now()
	for f, err := range ledger.Fsck(ctx, dir, verifier, nil) {
		if err != nil {
			return g, err
		}
		return g, fmt.Errorf("fsck of a ledger of %d entries: %s: %s", entries, f.Where, f.Problem)
	}
	g.FsckPerSecond = float64(entries) / time.Since(began).Seconds()
	return g, nil
}

// fill appends the entries and leaves the ledger closed.
func (g *Growth) fill(ctx context.Context, dir string, signer note.Signer, report func(int64)) (err error) {
	producer, err := keys.Generate()
	if err != nil {
		return err
	}
	l, err := ledger.Open(dir, signer, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	const tenths = 10
	began := time.Now()
	var all time.Duration
	var done int64
	for tenth := range int64(tenths) {
		upTo := g.Entries * (tenth + 1) / tenths
		size := upTo - done
		var took time.Duration
		for done < upTo {
			t, n, err := g.appendChunk(ctx, l, producer, int(min(growChunk, upTo-done)))
			if err != nil {
				return err
			}
			took += t
			done += n
			if report != nil {
				report(done)
			}
		}
		all += took
		g.Tenths = append(g.Tenths, float64(size)/took.Seconds())
	}
	g.TookS = time.Since(began).Seconds()
	g.PerSecond = float64(g.Entries) / all.Seconds()
	g.Flat = g.Tenths[tenths-1] / g.Tenths[0]
	g.IdleBytes, err = idleMemory()
	return err
}

func (g *Growth) appendChunk(ctx context.Context, l *ledger.Ledger, producer *keys.Private, n int) (time.Duration, int64, error) {
	hot, err := prepare(l, producer, n)
	if err != nil {
		return 0, 0, err
	}
	for _, p := range hot {
		g.EnvelopeBytes += int64(len(p.Raw))
	}
	a, err := appendAll(n, growCallers, func(i int) (schema.Receipt, error) { return l.AppendChecked(ctx, hot[i].checked) })
	return a.took, int64(n), err
}

// ask opens the ledger twice and measures proofs.
func (g *Growth) ask(ctx context.Context, dir string, signer note.Signer, verifier note.Verifier) (err error) {
	if _, err := disk.Forget(dir); err != nil {
		return err
	}
	began := time.Now()
	l, err := ledger.Open(dir, signer, nil)
	if err != nil {
		return err
	}
	g.OpenColdMs = ms(time.Since(began))
	if err := l.Close(); err != nil {
		return err
	}
	began = time.Now()
	if l, err = ledger.Open(dir, signer, nil); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	g.OpenMs = ms(time.Since(began))
	return g.prove(ctx, l, verifier)
}

// prove proves a sample of the entries, each once with its tile out of memory
// and then all in turn.
func (g *Growth) prove(ctx context.Context, l *ledger.Ledger, verifier note.Verifier) error {
	rnd := rand.New(rand.NewPCG(1, uint64(g.Entries)))
	samples := make([]schema.Entry, proofSamples)
	var cold, made, verified, checked []time.Duration
	for i := range samples {
		index := rnd.Int64N(g.Entries)
		began := time.Now()
		p, err := l.Proof(ctx, index)
		cold = append(cold, time.Since(began))
		if err != nil {
			return err
		}
		if samples[i], err = l.Entry(ctx, index); err != nil {
			return err
		}
		g.ProofBytes = max(g.ProofBytes, len(p.Hashes)*tlog.HashSize)
		g.ProofText = max(g.ProofText, len(p.Marshal()))
	}
	signed, err := verify.OpenCheckpoint(l.Checkpoint(), verifier)
	if err != nil {
		return err
	}
	const rounds = 10
	proofs := make([]verify.Proof, len(samples))
	for i := range rounds * len(samples) {
		i %= len(samples)
		began := time.Now()
		proofs[i], err = l.Proof(ctx, samples[i].Index)
		made = append(made, time.Since(began))
		if err != nil {
			return err
		}
	}
	for i := range rounds * len(samples) {
		i %= len(samples)
		e, p := samples[i], proofs[i]
		t0 := time.Now()
		err := tlog.CheckRecord(p.Hashes, signed.Size, signed.Root, e.Index, tlog.RecordHash(e.Commitment[:]))
		t1 := time.Now()
		if err != nil {
			return err
		}
		_, err = p.Verify(e.Commitment, verifier)
		t2 := time.Now()
		if err != nil {
			return err
		}
		verified, checked = append(verified, t1.Sub(t0)), append(checked, t2.Sub(t1))
	}
	g.ProveColdUs, g.ProveUs, g.VerifyUs, g.CheckUs = us(middle(cold)), us(middle(made)), us(middle(verified)), us(middle(checked))
	return nil
}

func middle(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// idleMemory is the anonymous memory of the process once garbage has been
// collected and given back, as it is some minutes after the load.
func idleMemory() (int64, error) {
	runtime.GC() // some of it goes only after finalizers ran
	debug.FreeOSMemory()
	return anonymous()
}
