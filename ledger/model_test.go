package ledger_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

var operations = flag.Int("operations", 300, "how many operations each seed of TestModel does")

// model is what a ledger should be: a slice, a map and a map.
type model struct {
	raws    []string
	leaves  []tlog.Hash
	first   map[string]int64 // by namespace and envelope
	cursors map[string]string
	signed  []schema.Receipt

	full   atomic.Bool  // whether the disk is
	crash  atomic.Value // the step, a string, that the process dies at; a commit may be under way when it is set
	copied string       // the directory as it was then
}

var errCrash = errors.New("the process died here")

// open opens w's ledger so that the model can crash it and fill its disk.
func (m *model) open(t *testing.T, w *ledgertest.World, dir string) {
	t.Helper()
	l, err := ledger.Open(dir, w.Signer, ledger.WithFaults(func(step string) error {
		if step != m.crash.Load() {
			return nil
		}
		m.copied = ledgertest.Copy(t, dir)
		return errCrash
	}, func(string) (uint64, error) {
		if m.full.Load() {
			return 0, nil
		}
		return 1 << 40, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	w.Ledger = l
}

// TestModel does random things to a ledger and to the model of one. What a
// seed does is always the same; -operations says how much.
func TestModel(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			w := ledgertest.New(t)
			m := &model{raws: []string{"genesis"}, first: map[string]int64{}, cursors: map[string]string{}}
			m.leaves = leafHashes(t, w.Ledger)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			m.open(t, w, w.Dir())
			rnd := rand.New(rand.NewPCG(seed, 0))
			done := map[string]int{}
			for i := range *operations {
				what := m.operation(t, w, rnd)
				done[what]++
				if t.Failed() {
					t.Fatalf("seed %d fails at operation %d, %s", seed, i, what)
				}
			}
			m.read(t, w, rand.New(rand.NewPCG(0, 0)))
			t.Logf("seed %d: %v; %d entries", seed, done, w.Size())
		})
	}
}

// operation does one thing, and says what it was.
func (m *model) operation(t *testing.T, w *ledgertest.World, rnd *rand.Rand) string {
	switch n := rnd.IntN(100); {
	case n < 58:
		m.append(t, w, rnd)
		return "append"
	case n < 67:
		m.read(t, w, rnd)
		return "read"
	case n < 77:
		m.prove(t, w, rnd)
		return "prove"
	case n < 79:
		if !ledger.FillSeen(w.Ledger) {
			t.Error("the index of duplicates was not read")
		}
		return "read the index of duplicates"
	case n < 80:
		ledger.DoubtSeen(w.Ledger)
		return "doubt"
	case n < 83:
		m.diskFull(t, w, rnd)
		return "disk full"
	case n < 87:
		m.cancelled(t, w)
		return "cancelled"
	case n < 91:
		m.wait(t, w, rnd)
		return "wait"
	case n < 93:
		m.beyondLimits(t, w, rnd)
		return "beyond limits"
	case n < 95:
		m.readOnly(t, w, rnd)
		return "read-only"
	case n < 97:
		m.die(t, w, rnd)
		return "crash"
	default:
		dir := w.Dir()
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Append(t.Context(), m.fresh(t, rnd)); !errors.Is(err, ledger.ErrClosed) {
			t.Errorf("Append to a closed ledger: %v", err)
		}
		m.open(t, w, dir)
		return "reopen"
	}
}

// fresh is a batch of one envelope that the ledger does not hold, with a
// cursor that no other batch moves.
func (m *model) fresh(t *testing.T, rnd *rand.Rand) schema.Batch {
	return schema.Batch{
		Envelopes: claims(t, fmt.Sprint("fresh ", rnd.Uint64())),
		Cursors:   []schema.Cursor{{Source: fmt.Sprint("fresh ", rnd.Uint64()), To: "read"}},
	}
}

// took puts a batch of fresh that was recorded into the model.
func (m *model) took(b schema.Batch, leaf tlog.Hash) {
	m.first[schema.DefaultNamespace+"/"+string(b.Envelopes[0].Raw)] = int64(len(m.raws))
	m.raws = append(m.raws, string(b.Envelopes[0].Raw))
	m.leaves = append(m.leaves, leaf)
	m.cursors[schema.DefaultNamespace+"/"+b.Cursors[0].Source] = b.Cursors[0].To
}

// nothing checks that a batch which was refused left nothing.
func (m *model) nothing(t *testing.T, w *ledgertest.World, b schema.Batch) {
	t.Helper()
	m.size(t, w)
	if at, err := w.Cursor(context.Background(), "", b.Cursors[0].Source); at != "" || err != nil {
		t.Errorf("the cursor of a batch that was refused is %q (%v)", at, err)
	}
}

// diskFull appends while the disk is full.
func (m *model) diskFull(t *testing.T, w *ledgertest.World, rnd *rand.Rand) {
	b := m.fresh(t, rnd)
	m.full.Store(true)
	_, err := w.Append(context.Background(), b)
	m.full.Store(false)
	if !errors.Is(err, ledger.ErrDiskFull) {
		t.Errorf("Append on a full disk: %v", err)
	}
	m.nothing(t, w, b)
}

// cancelled calls everything that takes a context with one that has ended.
func (m *model) cancelled(t *testing.T, w *ledgertest.World) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b := schema.Batch{Envelopes: claims(t, "cancelled"), Cursors: []schema.Cursor{{Source: "cancelled", To: "read"}}}
	_, err := w.Append(ctx, b)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Append with an ended context: %v", err)
	}
	if err := w.Wait(ctx, w.Size()+1); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait with an ended context: %v", err)
	}
	for _, err := range w.Entries(ctx, 0) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Entries with an ended context: %v", err)
		}
	}
	m.nothing(t, w, b)
}

// wait waits for the entry that is appended meanwhile.
func (m *model) wait(t *testing.T, w *ledgertest.World, rnd *rand.Rand) {
	waited := make(chan error, 1)
	size := w.Size() + 1
	go func() { waited <- w.Wait(context.Background(), size) }()
	b := m.fresh(t, rnd)
	r := mustAppend(t, w.Ledger, b)
	if err := <-waited; err != nil {
		t.Errorf("Wait: %v", err)
	}
	m.took(b, r.Entries[0].LeafHash)
	m.signed = append(m.signed, r)
	m.size(t, w)
}

// beyondLimits appends as much as one batch can hold, or one more.
func (m *model) beyondLimits(t *testing.T, w *ledgertest.World, rnd *rand.Rand) {
	b := schema.Batch{Cursors: []schema.Cursor{{Source: fmt.Sprint("limit ", rnd.Uint64()), To: "read"}}}
	n := schema.MaxBatchEnvelopes + rnd.IntN(2)
	same := claims(t, fmt.Sprint("limit ", rnd.Uint64()))[0]
	for range n {
		b.Envelopes = append(b.Envelopes, same)
	}
	r, err := w.Append(context.Background(), b)
	var limit *ledger.LimitError
	if n > schema.MaxBatchEnvelopes {
		if !errors.As(err, &limit) {
			t.Errorf("a batch of %d envelopes: %v", n, err)
		}
		m.nothing(t, w, b)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range r.Entries {
		if e.Index != int64(len(m.raws)) || e.Duplicate != (i > 0) {
			t.Fatalf("the same envelope, for the %d. time: %+v", i, e)
		}
	}
	m.took(b, r.Entries[0].LeafHash)
	m.size(t, w)
}

// readOnly closes the ledger and reads it without the private key.
func (m *model) readOnly(t *testing.T, w *ledgertest.World, rnd *rand.Rand) {
	dir := w.Dir()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	ro, err := ledger.OpenReadOnly(dir, w.Verifier, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Ledger = ro
	m.size(t, w)
	m.read(t, w, rnd)
	m.prove(t, w, rnd)
	if _, err := ro.Append(context.Background(), m.fresh(t, rnd)); !errors.Is(err, ledger.ErrReadOnly) {
		t.Errorf("Append to a ledger that is open read-only: %v", err)
	}
	if err := ro.Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t, w, dir)
}

// die lets the process die at a random step of a commit: the ledger goes on
// with what the disk held at that moment. Whether the commit is there depends
// on the step, and on nothing else.
func (m *model) die(t *testing.T, w *ledgertest.World, rnd *rand.Rand) {
	b := m.fresh(t, rnd)
	step := ledger.Steps[rnd.IntN(len(ledger.Steps))]
	m.crash.Store(step)
	_, err := w.Append(context.Background(), b)
	if !errors.Is(err, errCrash) || !errors.Is(err, ledger.ErrStopped) {
		t.Fatalf("Append in a process that dies: %v", err)
	}
	kept := step == ledger.StepCommitted || step == ledger.StepSigned
	m.crash.Store("")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t, w, m.copied)
	if !kept {
		m.nothing(t, w, b)
		return
	}
	e, err := w.Entry(context.Background(), int64(len(m.raws)))
	if err != nil {
		t.Fatal(err)
	}
	m.took(b, tlog.RecordHash(e.Commitment[:]))
	m.size(t, w)
}

// append appends a random batch, some of it known and some of it with a cursor
// that is right or wrong.
func (m *model) append(t *testing.T, w *ledgertest.World, rnd *rand.Rand) {
	b := schema.Batch{Namespace: []string{"", "one", "two"}[rnd.IntN(3)]}
	ns := b.Namespace
	if ns == "" {
		ns = schema.DefaultNamespace
	}
	for range rnd.IntN(1 << rnd.IntN(10)) {
		b.Envelopes = append(b.Envelopes, ledgertest.Claim(t, fmt.Sprint(rnd.IntN(3000))))
	}
	source := fmt.Sprint("source ", rnd.IntN(3))
	refused := false
	if rnd.IntN(2) == 0 || len(b.Envelopes) == 0 {
		from := m.cursors[ns+"/"+source]
		if rnd.IntN(4) == 0 {
			from += "!"
			refused = true
		}
		b.Cursors = []schema.Cursor{{Source: source, From: from, To: fmt.Sprint(rnd.Uint32())}}
	}
	r, err := w.Append(context.Background(), b)
	var cursor *ledger.CursorError
	if refused {
		if !errors.As(err, &cursor) {
			t.Fatalf("a batch with a wrong cursor: %v", err)
		}
		m.size(t, w)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, env := range b.Envelopes {
		id := ns + "/" + string(env.Raw)
		want, known := m.first[id]
		if !known {
			want = int64(len(m.raws))
			m.first[id] = want
			m.raws = append(m.raws, string(env.Raw))
			m.leaves = append(m.leaves, r.Entries[i].LeafHash)
		}
		got := r.Entries[i]
		if got.Index != want || got.Duplicate != known || got.LeafHash != m.leaves[want] {
			t.Fatalf("envelope %d is recorded as %+v, want index %d, duplicate %v", i, got, want, known)
		}
	}
	for _, c := range b.Cursors {
		m.cursors[ns+"/"+c.Source] = c.To
	}
	m.signed = append(m.signed, r)
	m.size(t, w)
}

func (m *model) size(t *testing.T, w *ledgertest.World) {
	t.Helper()
	if got := w.Size(); got != int64(len(m.raws)) {
		t.Fatalf("size %d, want %d", got, len(m.raws))
	}
}

// read reads everything from a random index on.
func (m *model) read(t *testing.T, w *ledgertest.World, rnd *rand.Rand) {
	next := rnd.Int64N(int64(len(m.raws)))
	for e, err := range w.Entries(context.Background(), next) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Index != next || next > 0 && string(e.Envelope.Raw) != m.raws[next] || tlog.RecordHash(e.Commitment[:]) != m.leaves[next] {
			t.Fatalf("entry %d comes as number %d with other bytes", next, e.Index)
		}
		next++
	}
	if next != int64(len(m.raws)) {
		t.Fatalf("Entries ended at %d of %d", next, len(m.raws))
	}
	for key, want := range m.cursors {
		var ns, source string
		for i := range key {
			if key[i] == '/' {
				ns, source = key[:i], key[i+1:]
				break
			}
		}
		if got, err := w.Cursor(context.Background(), ns, source); err != nil || got != want {
			t.Fatalf("cursor %s is %q (%v), want %q", key, got, err, want)
		}
	}
}

// prove proves a random entry, and that a checkpoint handed out before is
// still a beginning of the log.
func (m *model) prove(t *testing.T, w *ledgertest.World, rnd *rand.Rand) {
	ctx := context.Background()
	index := rnd.Int64N(int64(len(m.raws)))
	e, err := w.Entry(ctx, index)
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.Proof(ctx, index)
	if err != nil {
		t.Fatal(err)
	}
	now, err := p.Verify(e.Commitment, w.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	size := index + 1 + rnd.Int64N(now.Size-index)
	hashes, err := w.ProveInclusion(ctx, index, size)
	if err != nil {
		t.Fatal(err)
	}
	root := m.root(size)
	if err := tlog.CheckRecord(hashes, size, root, index, m.leaves[index]); err != nil {
		t.Fatalf("proof of entry %d in size %d: %v", index, size, err)
	}
	old := 1 + rnd.Int64N(size)
	hashes, err = w.ProveConsistency(ctx, old, size)
	if err != nil {
		t.Fatal(err)
	}
	if err := tlog.CheckTree(hashes, size, root, old, m.root(old)); err != nil {
		t.Fatalf("proof from size %d to %d: %v", old, size, err)
	}
	if len(m.signed) == 0 {
		return
	}
	extends(t, w, w.Ledger, m.signed[rnd.IntN(len(m.signed))].Checkpoint, now.Note)
}

// root is what the root of a size should be, by the definition of RFC 6962,
// section 2.1.
func (m *model) root(size int64) tlog.Hash {
	var hash func(leaves []tlog.Hash) tlog.Hash
	hash = func(leaves []tlog.Hash) tlog.Hash {
		if len(leaves) == 1 {
			return leaves[0]
		}
		k := 1
		for 2*k < len(leaves) {
			k *= 2
		}
		return tlog.NodeHash(hash(leaves[:k]), hash(leaves[k:]))
	}
	return hash(m.leaves[:size])
}
