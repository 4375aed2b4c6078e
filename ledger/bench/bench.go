package bench

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/ledger/internal/disk"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// Result is what was measured with one number of callers.
type Result struct {
	Callers      int     `json:"callers"`
	PerSecond    float64 `json:"perSecond"`    // entries durable and provable, their statements checked beforehand
	RawPerSecond float64 `json:"rawPerSecond"` // entries that raw commits returned for
	Ratio        float64 `json:"ratio"`        // of the two, median over the rounds
	P50Ms        float64 `json:"p50Ms"`        // of one Append
	P99Ms        float64 `json:"p99Ms"`
	// Checking is how many entries a second Append takes when each call also
	// decodes its statement, compares its signature with the observer key and
	// verifies it by its producer's, both with crypto/ed25519. CheckingRatio is
	// that of raw, CheckingShare that of PerSecond.
	Checking      float64 `json:"checkingPerSecond"`
	CheckingRatio float64 `json:"checkingRatio"`
	CheckingShare float64 `json:"checkingShare"`
}

// Rounds is how often both sides take turns for each result.
const Rounds = 5

// Append appends entries envelopes of about 1.7 KB in each round, one a call,
// from each number of callers, to a ledger in a new directory under dir: once
// with the statements checked before the clock starts, and once with everything
// that ledger.Append does and the producer's signature verified. In between it commits the same number of entries in
// the same batches to a bare store beside it, with the checkpoint file's
// fdatasync. What it made under dir is removed.
func Append(ctx context.Context, dir string, callers []int, entries int) ([]Result, error) {
	dir, err := os.MkdirTemp(dir, "bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var results []Result
	for _, n := range callers {
		r, err := measure(ctx, filepath.Join(dir, fmt.Sprint(n)), n, entries)
		if err != nil {
			return nil, fmt.Errorf("measuring appends by %d callers: %w", n, err)
		}
		results = append(results, r)
	}
	return results, nil
}

func measure(ctx context.Context, dir string, callers, entries int) (_ Result, err error) {
	l, err := newLedger(filepath.Join(dir, "ledger"))
	if err != nil {
		return Result{}, err
	}
	defer l.Close()
	raw, err := newRaw(filepath.Join(dir, "raw"))
	if err != nil {
		return Result{}, err
	}
	defer raw.close()
	producer, err := keys.Generate()
	if err != nil {
		return Result{}, err
	}
	known := []schema.PublicKey{{ID: producer.ID(), Key: producer.Public()}}
	var perSecond, rawPerSecond, ratios, checking, checkingRatios, checkingShares []float64
	var latencies []time.Duration
	for round := range Rounds + 1 {
		hot, err := prepare(l, producer, entries)
		if err != nil {
			return Result{}, err
		}
		whole, err := envelopes(producer, entries)
		if err != nil {
			return Result{}, err
		}
		runtime.GC() // of what making the envelopes left
		a, err := appendAll(entries, callers, func(i int) (schema.Receipt, error) { return l.AppendChecked(ctx, hot[i].checked) })
		if err != nil {
			return Result{}, err
		}
		r, err := raw.run(hot, a.batches)
		if err != nil {
			return Result{}, err
		}
		c, err := appendAll(entries, callers, func(i int) (schema.Receipt, error) {
			if len(verify.Signers(whole[i], known)) == 0 {
				return schema.Receipt{}, errors.New("the signature of an envelope does not verify")
			}
			return l.Append(ctx, batchOf(whole[i]))
		})
		if err != nil {
			return Result{}, err
		}
		if round == 0 {
			continue // all sides warm up
		}
		n := float64(entries)
		perSecond = append(perSecond, n/a.took.Seconds())
		rawPerSecond = append(rawPerSecond, n/r.Seconds())
		checking = append(checking, n/c.took.Seconds())
		ratios = append(ratios, r.Seconds()/a.took.Seconds())
		checkingRatios = append(checkingRatios, r.Seconds()/c.took.Seconds())
		checkingShares = append(checkingShares, a.took.Seconds()/c.took.Seconds())
		latencies = append(latencies, a.each...)
	}
	slices.Sort(latencies)
	ms := func(q float64) float64 {
		return float64(latencies[int(q*float64(len(latencies)-1))]) / float64(time.Millisecond)
	}
	return Result{
		Callers: callers, PerSecond: median(perSecond), RawPerSecond: median(rawPerSecond),
		Ratio: median(ratios), P50Ms: ms(0.5), P99Ms: ms(0.99),
		Checking: median(checking), CheckingRatio: median(checkingRatios), CheckingShare: median(checkingShares),
	}, nil
}

func median(s []float64) float64 {
	slices.Sort(s)
	return s[len(s)/2]
}

// newLedger makes a ledger with new keys and opens it.
func newLedger(dir string) (*ledger.Ledger, error) {
	key, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	signer, _, err := create(dir, key)
	if err != nil {
		return nil, err
	}
	return ledger.Open(dir, signer, nil)
}

// create makes a ledger whose observer and log have the same key and returns
// those of its log.
func create(dir string, key *keys.Private) (note.Signer, note.Verifier, error) {
	const origin = "retrace.example/bench"
	signer, err := key.NoteSigner(origin)
	if err != nil {
		return nil, nil, err
	}
	vkey, err := key.VKey(origin)
	if err != nil {
		return nil, nil, err
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, nil, err
	}
	observer, err := key.PublicPEM()
	if err != nil {
		return nil, nil, err
	}
	subject := schema.BytesKey([]byte(vkey))
	s, err := schema.NewStatement(schema.GenesisV1,
		schema.Genesis{Format: 1, Origin: origin, LogKey: vkey, ObserverKey: observer},
		schema.Descriptor{Digest: schema.DigestSet{subject.Algorithm(): subject.Hex()}})
	if err != nil {
		return nil, nil, err
	}
	genesis, err := key.SignStatement(s)
	if err != nil {
		return nil, nil, err
	}
	return signer, verifier, ledger.Create(dir, signer, genesis)
}

// prepared is an envelope that the ledger has checked.
type prepared struct {
	schema.Envelope
	checked *ledger.Checked
}

func prepare(l *ledger.Ledger, producer *keys.Private, n int) ([]prepared, error) {
	envs, err := envelopes(producer, n)
	if err != nil {
		return nil, err
	}
	out := make([]prepared, n)
	for i, env := range envs {
		checked, err := l.Check(batchOf(env))
		if err != nil {
			return nil, err
		}
		out[i] = prepared{env, checked}
	}
	return out, nil
}

func batchOf(env schema.Envelope) schema.Batch {
	return schema.Batch{Source: "bench", Envelopes: []schema.Envelope{env}}
}

// envelopes makes n different envelopes of about 1.7 KB, each signed by
// producer.
func envelopes(producer *keys.Private, n int) ([]schema.Envelope, error) {
	out := make([]schema.Envelope, n)
	fresh := make([]byte, 32*7)
	for i := range out {
		if _, err := rand.Read(fresh); err != nil {
			return nil, err
		}
		var digests []any
		for j := range 7 {
			digests = append(digests, hex.EncodeToString(fresh[j*32:(j+1)*32]))
		}
		payload := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://slsa.dev/provenance/v1","subject":[{"name":"model.bin","digest":{"sha256":"%s"}}],"predicate":{"buildDefinition":{"buildType":"https://example.com/step/v1","externalParameters":{"learningRate":"0.001","epochs":"20","seed":"%s"},"resolvedDependencies":[{"uri":"git+https://example.com/team/repository","digest":{"sha256":"%s"}},{"uri":"oci://registry.example.com/train","digest":{"sha256":"%s"}},{"uri":"s3://bucket/data/part-0","digest":{"sha256":"%s"}},{"uri":"s3://bucket/data/part-1","digest":{"sha256":"%s"}}]},"runDetails":{"builder":{"id":"https://example.com/builder"},"metadata":{"invocationId":"%s","startedOn":"2026-01-02T03:04:05Z","finishedOn":"2026-01-02T03:14:05Z"}}}}`, digests...)
		env, err := producer.SignPayload(schema.PayloadType, payload)
		if err != nil {
			return nil, err
		}
		out[i] = env
	}
	return out, nil
}

// appended is what a round of appends took.
type appended struct {
	took    time.Duration
	each    []time.Duration
	batches []int // entries of each commit
}

// appendAll calls do for each of n numbers from so many callers at once.
func appendAll(n, callers int, do func(i int) (schema.Receipt, error)) (appended, error) {
	a := appended{each: make([]time.Duration, n)}
	sizes := make([]int64, n)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	began := time.Now()
	for range callers {
		wg.Go(func() {
			for i := int(next.Add(1) - 1); i < n; i = int(next.Add(1) - 1) {
				start := time.Now()
				r, err := do(i)
				if err != nil {
					failed.Store(&err)
					return
				}
				a.each[i], sizes[i] = time.Since(start), r.Size
			}
		})
	}
	wg.Wait()
	a.took = time.Since(began)
	if err := failed.Load(); err != nil {
		return a, *err
	}
	slices.Sort(sizes)
	for i, size := range sizes {
		if i == 0 || size != sizes[i-1] {
			a.batches = append(a.batches, 0)
		}
		a.batches[len(a.batches)-1]++
	}
	return a, nil
}

// raw is the store without a ledger: what Append cannot be faster than.
type raw struct {
	engine engine.Engine
	slots  *os.File
	size   int
}

func newRaw(dir string) (*raw, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(make([]byte, 8192)); err != nil {
		return nil, err
	}
	store := filepath.Join(dir, "store")
	if err := os.Mkdir(store, 0o700); err != nil {
		return nil, err
	}
	e, err := engine.OpenBadger(store)
	if err != nil {
		return nil, err
	}
	return &raw{engine: e, slots: f}, nil
}

func (r *raw) close() {
	r.engine.Close()
	r.slots.Close()
}

// run commits the envelopes in the given batches, each followed by one
// fdatasync of 4 KiB. What is committed is made before the clock starts.
func (r *raw) run(envs []prepared, batches []int) (time.Duration, error) {
	var commits [][]engine.Put
	for _, n := range batches {
		puts, err := r.puts(envs[:n])
		if err != nil {
			return 0, err
		}
		commits = append(commits, puts)
		envs = envs[n:]
	}
	slot := make([]byte, 4096)
	began := time.Now()
	for i, puts := range commits {
		if err := r.engine.Commit(puts); err != nil {
			return 0, err
		}
		if _, err := r.slots.WriteAt(slot, int64(i%2)*4096); err != nil {
			return 0, err
		}
		if err := disk.SyncData(r.slots); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// puts are the keys and values of one commit of a ledger, of the same number
// and lengths: segments of at most 256 entries, one random key for each entry,
// tile and bundle for each 256 entries, the state.
func (r *raw) puts(envs []prepared) ([]engine.Put, error) {
	const overhead = 32 + 4 + 32 + 4 + 90 // commitment, length, salt, length, header
	var puts []engine.Put
	key := func(prefix string, n int) []byte {
		return binary.BigEndian.AppendUint64([]byte(prefix), uint64(n))
	}
	for len(envs) > 0 {
		n := min(len(envs), 256)
		first := r.size
		var segment []byte
		for _, env := range envs[:n] {
			segment = append(segment, make([]byte, overhead)...)
			segment = append(segment, env.Raw...)
			id := make([]byte, 32)
			if _, err := rand.Read(id); err != nil {
				return nil, err
			}
			puts = append(puts, engine.Put{Key: append([]byte("d/"), id...), Value: key("", r.size)})
			r.size++
			if r.size%256 == 0 {
				puts = append(puts,
					engine.Put{Key: key("t/\x00", r.size/256), Value: make([]byte, 8192)},
					engine.Put{Key: key("e/", r.size/256), Value: make([]byte, 8704)})
			}
		}
		puts = append(puts, engine.Put{Key: key("b/", first), Value: segment})
		envs = envs[n:]
	}
	return append(puts, engine.Put{Key: []byte("s"), Value: make([]byte, 250)}), nil
}
