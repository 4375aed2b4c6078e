package ledger_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

func TestMain(m *testing.M) {
	if runChild() {
		return
	}
	// Badger ends in the middle of opening a store that was damaged on purpose,
	// and leaves behind what it had begun. A ledger that nobody closed shows all
	// the same: its committer waits.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/dgraph-io/badger/v4/y.(*WaterMark).process"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/badger/v4.(*DB).doWrites"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/badger/v4.(*DB).flushMemtable"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/badger/v4.(*DB).updateSize"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/badger/v4.(*DB).monitorCache"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/badger/v4.(*levelsController).runCompactor"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/badger/v4.(*vlogThreshold).listenForValueThresholdUpdate"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/badger/v4.(*valueLog).waitOnGC"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/badger/v4.(*publisher).listenForUpdates"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/ristretto/v2.(*Cache[...]).processItems"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/ristretto/v2.(*defaultPolicy[...]).processItems"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/ristretto/v2/z.(*AllocatorPool).freeupAllocators"))
}

// writers is how many append at once in the process that is killed.
const writers = 6

// crashChild appends until it is killed, and prints what was acknowledged
// after Append returned. RETRACE_TEST_CHILD_PAUSE is "STEP N": at that step of
// commit N it says so and stays there.
func crashChild(dir string, key note.Signer) error {
	var out sync.Mutex
	l, err := ledger.Open(dir, key, ledger.WithStep(pauseAt(os.Getenv("RETRACE_TEST_CHILD_PAUSE"), &out)))
	if err != nil {
		return err
	}
	fmt.Println("open")
	failed := make(chan error)
	for g := range writers {
		go func() { failed <- crashWriter(l, g, &out) }()
	}
	return <-failed
}

func pauseAt(pause string, out *sync.Mutex) func(string) error {
	step, n, _ := strings.Cut(pause, " ")
	left, _ := strconv.Atoi(n)
	return func(at string) error {
		if at != step {
			return nil
		}
		if left--; left == 0 {
			out.Lock()
			fmt.Println("at", step)
			select {}
		}
		return nil
	}
}

// crashWriter appends batches of a few entries, each with a cursor that counts
// them.
func crashWriter(l *ledger.Ledger, g int, out *sync.Mutex) error {
	ctx := context.Background()
	source := fmt.Sprint("writer ", g)
	at, err := l.Cursor(ctx, "", source)
	if err != nil {
		return err
	}
	for {
		n, _ := strconv.Atoi(at)
		b, err := writerBatch(g, n, crashBatch(g, n), 0)
		if err != nil {
			return err
		}
		r, err := l.Append(ctx, b)
		if err != nil {
			return err
		}
		at = b.Cursors[0].To
		out.Lock()
		for _, e := range r.Entries {
			fmt.Printf("ack %d %x %s\n", e.Index, e.LeafHash, base64.StdEncoding.EncodeToString(r.Checkpoint))
		}
		out.Unlock()
	}
}

// crashBatch is how many entries batch n of writer g has.
func crashBatch(g, n int) int { return 1 + (n*7+g*3)%12 }

// acked is one entry that a process said it had recorded.
type acked struct {
	index      int64
	leaf       tlog.Hash
	checkpoint []byte
}

// TestKill kills a process that appends, a hundred times: half of the times
// where it stands between the first write of a commit and its answer, the
// other half at any moment. Whatever was acknowledged must be there.
//
// It does not test a loss of power: what the process wrote stays in the page
// cache. That is what the fsync before each answer is for.
func TestKill(t *testing.T) {
	const kills, atLeast = 100, 30
	if testing.Short() {
		t.Skip("a hundred processes")
	}
	t.Parallel()
	w, dir := childWorld(t)
	// Of five paused processes, four stand between first write and answer.
	pauses := []string{ledger.StepCommitted, ledger.StepSigned, ledger.StepCommit, ledger.StepSigned, ledger.StepCommitted}
	rnd := rand.New(rand.NewPCG(5, 6))
	var all []acked
	between := 0
	for i := range kills {
		pause := ""
		if i%2 == 0 {
			pause = fmt.Sprintf("%s %d", pauses[i/2%len(pauses)], 1+rnd.IntN(12))
		}
		acks, at := killOne(t, dir, pause, rnd.IntN(60))
		if at == ledger.StepCommitted || at == ledger.StepSigned {
			between++
		}
		all = append(all, acks...)
		afterKill(t, w, dir, acks, all)
	}
	if between < atLeast {
		t.Errorf("%d of %d kills were between first write and answer; want at least %d", between, kills, atLeast)
	}
	t.Logf("%d kills, %d of them between first write and answer; %d entries were acknowledged", kills, between, len(all))
	if len(all) < kills {
		t.Errorf("%d entries were acknowledged in all: nothing was tested", len(all))
	}
	ledgertest.Check(t, dir, w.Verifier)
}

// killOne runs one process and kills it when it pauses, or after so many
// acknowledgements if it is not to pause. It returns what was acknowledged and
// where the process paused.
func killOne(t *testing.T, dir, pause string, acks int) (out []acked, at string) {
	t.Helper()
	cmd := childCommand("kill", dir)
	cmd.Env = append(cmd.Env, "RETRACE_TEST_CHILD_PAUSE="+pause)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	killed := false
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "ack":
			out = append(out, parseAck(t, rest))
		case "at":
			at = rest
		}
		if at != "" || pause == "" && len(out) >= acks {
			killed = true
			cmd.Process.Kill() // what is in the pipe was acknowledged, so go on reading
		}
	}
	cmd.Wait()
	if !killed {
		t.Fatal("the process ended by itself")
	}
	return out, at
}

func parseAck(t *testing.T, line string) acked {
	t.Helper()
	var a acked
	var leaf, checkpoint string
	if _, err := fmt.Sscanf(line, "%d %s %s", &a.index, &leaf, &checkpoint); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	hash, err := hex.DecodeString(leaf)
	if err != nil {
		t.Fatal(err)
	}
	a.leaf = tlog.Hash(hash)
	if a.checkpoint, err = base64.StdEncoding.DecodeString(checkpoint); err != nil {
		t.Fatal(err)
	}
	return a
}

// afterKill opens the ledger and looks for everything that was acknowledged by
// the process that was killed, and for some of what was before.
func afterKill(t *testing.T, w *ledgertest.World, dir string, acks, all []acked) {
	t.Helper()
	ctx := context.Background()
	l, err := ledger.Open(dir, w.Signer, nil)
	if err != nil {
		t.Fatalf("after a kill: %v", err)
	}
	defer l.Close()
	for i := 0; i < len(all); i += 1 + len(all)/50 {
		acks = append(acks, all[i])
	}
	for _, a := range acks {
		e, err := l.Entry(ctx, a.index)
		if err != nil {
			t.Fatalf("entry %d was acknowledged: %v", a.index, err)
		}
		if tlog.RecordHash(e.Commitment[:]) != a.leaf {
			t.Fatalf("entry %d is not the one that was acknowledged", a.index)
		}
		p, err := l.Proof(ctx, a.index)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Verify(e.Commitment, w.Verifier); err != nil {
			t.Fatal(err)
		}
		extends(t, w, l, a.checkpoint, l.Checkpoint())
	}
	wholeBatches(t, l, writers, crashBatch)
}

// wholeBatches checks that each writer's cursor stands exactly behind its
// entries: no batch is there in part.
func wholeBatches(t *testing.T, l *ledger.Ledger, writers int, size func(g, n int) int) {
	t.Helper()
	count := map[string]int{}
	for e, err := range l.Entries(context.Background(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		count[e.Header.Source]++
	}
	for g := range writers {
		source := fmt.Sprint("writer ", g)
		at, err := l.Cursor(context.Background(), "", source)
		if err != nil {
			t.Fatal(err)
		}
		batches, _ := strconv.Atoi(at)
		want := 0
		for n := range batches {
			want += size(g, n)
		}
		if count[source] != want {
			t.Fatalf("%s has %d entries, and its cursor %q stands behind %d", source, count[source], at, want)
		}
	}
}

// TestSteps copies the ledger between any two steps of a commit and opens each
// copy.
func TestSteps(t *testing.T) {
	w := filled(t, 250, 250)
	w.Close()
	type copied struct{ step, dir string }
	var copies []copied
	var armed atomic.Bool
	l, err := ledger.Open(w.Dir(), w.Signer, ledger.WithStep(func(step string) error {
		if armed.Load() {
			copies = append(copies, copied{step, ledgertest.Copy(t, w.Dir())})
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	w.Ledger = l
	acknowledged := mustAppend(t, l, batch(claims(t, "acknowledged")...))
	armed.Store(true)
	mustAppend(t, l, schema.Batch{
		Envelopes: claims(t, "a", "b", "c", "d", "e", "f", "g"), // fills a tile
		Cursors:   []schema.Cursor{{Source: "s", To: "moved"}},
	})
	armed.Store(false)
	if len(copies) != len(ledger.Steps) {
		t.Fatalf("a commit has %d steps, want %d", len(copies), len(ledger.Steps))
	}
	for i, c := range copies {
		want, cursor := int64(251), ""
		if c.step == ledger.StepCommitted || c.step == ledger.StepSigned {
			want, cursor = 258, "moved"
		}
		if c.step != ledger.Steps[i] {
			t.Errorf("step %d is %q, want %q", i, c.step, ledger.Steps[i])
		}
		l, err := ledger.Open(c.dir, w.Signer, nil)
		if err != nil {
			t.Errorf("after step %q: %v", c.step, err)
			continue
		}
		at, err := l.Cursor(context.Background(), "", "s")
		if l.Size() != want || at != cursor || err != nil {
			t.Errorf("after step %q: size %d and cursor %q (%v), want %d and %q", c.step, l.Size(), at, err, want, cursor)
		}
		extends(t, w, l, acknowledged.Checkpoint, l.Checkpoint())
		mustAppend(t, l, batch(claims(t, "a", "b", "later")...))
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		ledgertest.Check(t, c.dir, w.Verifier)
	}
}

// TestFailedSteps lets each step of a commit fail: before what it does, so
// that it is not there, and after it, so that it is. Either way the caller is
// not answered with a receipt, nothing more is taken, and opening decides.
func TestFailedSteps(t *testing.T) {
	for _, step := range ledger.Steps {
		t.Run(step, func(t *testing.T) {
			w := filled(t, 250, 250)
			w.Close()
			broken := errors.New("the disk is gone")
			var armed atomic.Bool
			l, err := ledger.Open(w.Dir(), w.Signer, ledger.WithStep(func(at string) error {
				if armed.Load() && at == step {
					return broken
				}
				return nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			w.Ledger = l
			before := mustAppend(t, l, batch(claims(t, "acknowledged")...))
			armed.Store(true)
			ctx := context.Background()
			for range 2 {
				_, err = l.Append(ctx, batch(claims(t, "a", "b", "c", "d", "e", "f", "g")...))
				if !errors.Is(err, ledger.ErrStopped) || !errors.Is(err, broken) {
					t.Errorf("Append: %v", err)
				}
			}
			if l.Size() != before.Size || string(l.Checkpoint()) != string(before.Checkpoint) {
				t.Errorf("size %d after a failed commit, want %d", l.Size(), before.Size)
			}
			if _, err := l.Entry(ctx, before.Size-1); err != nil {
				t.Errorf("reading after a failed commit: %v", err)
			}
			if err := l.Wait(ctx, before.Size+1); !errors.Is(err, ledger.ErrStopped) {
				t.Errorf("Wait after a failed commit: %v", err)
			}
			reopen(t, w)
			want := before.Size
			if step == ledger.StepCommitted || step == ledger.StepSigned {
				want += 7
			}
			if w.Size() != want {
				t.Errorf("size %d after opening again, want %d", w.Size(), want)
			}
			r := mustAppend(t, w.Ledger, batch(claims(t, "a", "b", "c", "d", "e", "f", "g")...))
			if r.Size != before.Size+7 || r.Entries[0].Index != before.Size {
				t.Errorf("appending again gives %+v", r.Entries)
			}
			extends(t, w, w.Ledger, before.Checkpoint, r.Checkpoint)
		})
	}
}

// TestCursorOfAFailedCommit reads cursors after a commit was stored and could
// not be signed: they would stand for entries that nobody can read.
func TestCursorOfAFailedCommit(t *testing.T) {
	w := ledgertest.New(t)
	w.Close()
	l, err := ledger.Open(w.Dir(), w.Signer, ledger.WithStep(func(step string) error {
		if step == ledger.StepCommitted {
			return errors.New("the disk is gone")
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	b := schema.Batch{Envelopes: claims(t, "x"), Cursors: []schema.Cursor{{Source: "s", To: "read x"}}}
	if _, err := l.Append(t.Context(), b); err == nil {
		t.Fatal("a commit that failed was acknowledged")
	}
	if at, err := l.Cursor(t.Context(), "", "s"); err == nil {
		t.Errorf("Cursor = %q beside %d entries; want an error", at, l.Size())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ro, err := ledger.OpenReadOnly(w.Dir(), w.Verifier, nil)
	if err != nil {
		t.Fatal(err)
	}
	if at, err := ro.Cursor(t.Context(), "", "s"); err == nil {
		t.Errorf("read-only, Cursor = %q beside %d entries; want an error", at, ro.Size())
	}
	if err := ro.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := ledger.Open(w.Dir(), w.Signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if at, err := again.Cursor(t.Context(), "", "s"); err != nil || at != "read x" || again.Size() != 2 {
		t.Errorf("finished, Cursor = %q, %v beside %d entries; want it beside 2", at, err, again.Size())
	}
}
