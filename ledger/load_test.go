package ledger_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

var load = flag.Duration("load", 2*time.Second, "how long TestLoad appends, reads and kills")

// Of TestLoad.
const (
	loadWriters = 1024
	loadReaders = 256
	loadClaims  = 2                // in one batch
	loadMemory  = 1 << 30          // bytes that one process may have for itself
	loadLife    = 3 * time.Second  // of one process, at most
	loadOpen    = 30 * time.Second // until it must have opened the ledger
)

// loadChild appends with many writers and reads with many readers until it is
// killed. It prints what was acknowledged, and each checkpoint once.
func loadChild(dir string, key note.Signer) error {
	l, err := ledger.Open(dir, key, nil)
	if err != nil {
		return err
	}
	out := &ackWriter{w: bufio.NewWriterSize(os.Stdout, 1<<16)}
	out.flush("open\n")
	failed := make(chan error)
	for g := range loadWriters {
		go func() { failed <- loadWriter(l, g, out) }()
	}
	for range loadReaders {
		go func() { failed <- loadReader(l) }()
	}
	return <-failed
}

// ackWriter prints acknowledgements of many writers.
type ackWriter struct {
	mu   sync.Mutex
	w    *bufio.Writer
	size int64 // of the newest checkpoint that was printed
}

func (a *ackWriter) flush(s string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.w.WriteString(s)
	a.w.Flush()
}

func (a *ackWriter) receipt(r schema.Receipt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range r.Entries {
		fmt.Fprintf(a.w, "ack %d %x\n", e.Index, e.LeafHash)
	}
	if r.Size > a.size {
		a.size = r.Size
		fmt.Fprintf(a.w, "signed %s\n", base64.StdEncoding.EncodeToString(r.Checkpoint))
	}
	a.w.Flush()
}

// loadWriter goes on where the cursor of writer g stands. It begins with the
// batch before, which has to be there already.
func loadWriter(l *ledger.Ledger, g int, out *ackWriter) error {
	ctx := context.Background()
	at, err := l.Cursor(ctx, "", fmt.Sprint("writer ", g))
	if err != nil {
		return err
	}
	n, _ := strconv.Atoi(at)
	if n > 0 {
		b, err := writerBatch(g, n-1, loadClaims, 0)
		if err != nil {
			return err
		}
		r, err := l.Append(ctx, schema.Batch{Source: b.Source, Envelopes: b.Envelopes})
		if err != nil {
			return err
		}
		for _, e := range r.Entries {
			if !e.Duplicate {
				return fmt.Errorf("batch %d of writer %d is behind the cursor, and was not there", n-1, g)
			}
		}
	}
	for ; ; n++ {
		b, err := writerBatch(g, n, loadClaims, 0)
		if err != nil {
			return err
		}
		r, err := l.Append(ctx, b)
		if err != nil {
			return err
		}
		out.receipt(r)
	}
}

// loadReader reads and proves something after each commit.
func loadReader(l *ledger.Ledger) error {
	ctx := context.Background()
	for {
		size := l.Size()
		index := rand.Int64N(size)
		e, err := l.Entry(ctx, index)
		if err != nil {
			return err
		}
		p, err := l.ProveInclusion(ctx, index, size)
		if err != nil {
			return err
		}
		root, err := rootAt(l, size)
		if err != nil {
			return err
		}
		if root != nil {
			if err := tlog.CheckRecord(p, size, *root, index, tlog.RecordHash(e.Commitment[:])); err != nil {
				return fmt.Errorf("entry %d of %d: %w", index, size, err)
			}
		}
		if _, err := l.ProveConsistency(ctx, 1+rand.Int64N(size), size); err != nil {
			return err
		}
		if err := l.Wait(ctx, size+1); err != nil {
			return err
		}
	}
}

// rootAt is the root of l's checkpoint, if that is still of this size.
func rootAt(l *ledger.Ledger, size int64) (*tlog.Hash, error) {
	lines := strings.SplitN(string(l.Checkpoint()), "\n", 4)
	if len(lines) < 4 || lines[1] != fmt.Sprint(size) {
		return nil, nil
	}
	hash, err := tlog.ParseHash(lines[2])
	return &hash, err
}

// loadLog is what the processes of TestLoad acknowledged in all.
type loadLog struct {
	leaves map[int64]tlog.Hash // of this process, by index
	all    int                 // entries acknowledged by all of them
	signed [][]byte            // some checkpoints
	kills  int
	memory memory // the most of any process
}

// TestLoad appends with 1,024 writers and reads with 256 readers, in processes
// that are killed every few seconds. Each entry that was acknowledged is there,
// each statement is there once, each checkpoint that was handed out is still
// a beginning of the log, and the memory of the process stays bounded. -load
// says how long.
//
// Like TestKill it does not test a loss of power.
func TestLoad(t *testing.T) {
	if testing.Short() && *load > time.Second {
		*load = time.Second
	}
	w, dir := childWorld(t)
	log := &loadLog{}
	began := time.Now()
	for log.kills == 0 || time.Since(began) < *load {
		life := min(loadLife, *load/2)
		life = life/2 + time.Duration(rand.Int64N(int64(life)))
		loadOne(t, dir, life, log)
		checkLoad(t, w, dir, log)
		if t.Failed() {
			return
		}
	}
	l, err := ledger.Open(dir, w.Signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	size := l.Size()
	onceEach(t, l)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	ledgertest.Check(t, dir, w.Verifier)
	t.Logf("%d writers and %d readers for %v: %d kills, %d entries acknowledged, %d in the ledger; at most %s", loadWriters, loadReaders,
		time.Since(began).Round(time.Second), log.kills, log.all, size, log.memory)
	if log.all == 0 {
		t.Error("nothing was acknowledged, so that nothing was tested")
	}
	if log.memory.own > loadMemory {
		t.Errorf("a process had %d MiB for itself, want at most %d", log.memory.own>>20, loadMemory>>20)
	}
}

// loadOne runs one process, kills it that long after it opened the ledger and
// began to acknowledge, and keeps what it said.
func loadOne(t *testing.T, dir string, life time.Duration, log *loadLog) {
	t.Helper()
	cmd := childCommand("load", dir)
	var errs strings.Builder
	cmd.Stderr = &errs
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(loadOpen, func() { cmd.Process.Kill() })
	done := make(chan memory)
	stop := make(chan struct{})
	go func() { done <- watchMemory(cmd.Process.Pid, stop) }()
	log.leaves = map[int64]tlog.Hash{}
	lines := bufio.NewReaderSize(stdout, 1<<16)
	began := false
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break // a line that was cut off was written in part: nobody was told
		}
		if log.said(t, strings.TrimSuffix(line, "\n")) && !began {
			began = true
			kill.Reset(life)
		}
	}
	cmd.Wait()
	close(stop)
	log.memory.most(<-done)
	if kill.Stop() {
		t.Fatalf("the process ended by itself: %s", errs.String())
	}
	if !began {
		t.Fatalf("the process acknowledged nothing in %v: %s", loadOpen, errs.String())
	}
	log.kills++
	log.all += len(log.leaves)
}

// said takes one line and reports whether it is an acknowledgement.
func (log *loadLog) said(t *testing.T, line string) bool {
	t.Helper()
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "ack":
		var index int64
		var leaf []byte
		if _, err := fmt.Sscanf(rest, "%d %x", &index, &leaf); err != nil || len(leaf) != tlog.HashSize {
			t.Fatalf("%q: %v", line, err)
		}
		if _, ok := log.leaves[index]; ok {
			t.Fatalf("index %d was acknowledged twice", index)
		}
		log.leaves[index] = tlog.Hash(leaf)
		return true
	case "signed":
		cp, err := base64.StdEncoding.DecodeString(rest)
		if err != nil {
			t.Fatal(err)
		}
		log.signed = append(log.signed, cp)
	}
	return false
}

// checkLoad opens the ledger and looks for what the last process acknowledged.
func checkLoad(t *testing.T, w *ledgertest.World, dir string, log *loadLog) {
	t.Helper()
	l, err := openFree(dir, w.Signer)
	if err != nil {
		t.Fatalf("after kill %d: %v", log.kills, err)
	}
	defer l.Close()
	low := l.Size()
	for index := range log.leaves {
		low = min(low, index)
	}
	found, proved := 0, 0
	for e, err := range l.Entries(t.Context(), low) {
		if err != nil {
			t.Fatal(err)
		}
		leaf, ok := log.leaves[e.Index]
		if !ok {
			continue // it was recorded, and its caller was not told in time
		}
		if found++; leaf != tlog.RecordHash(e.Commitment[:]) {
			t.Fatalf("entry %d is not the one that was acknowledged", e.Index)
		}
		if found%(1+len(log.leaves)/50) != 0 {
			continue
		}
		p, err := l.Proof(t.Context(), e.Index)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Verify(e.Commitment, w.Verifier); err != nil {
			t.Fatal(err)
		}
		proved++
	}
	if found != len(log.leaves) || proved == 0 {
		t.Fatalf("after kill %d, %d of %d acknowledged entries are there, %d proved", log.kills, found, len(log.leaves), proved)
	}
	for _, cp := range log.signed {
		extends(t, w, l, cp, l.Checkpoint())
	}
	// Those of earlier processes are covered by the last of each.
	log.signed = log.signed[max(0, len(log.signed)-1):]
}

// onceEach reads the whole ledger: no statement is there twice, and each
// cursor stands exactly behind its entries.
func onceEach(t *testing.T, l *ledger.Ledger) {
	t.Helper()
	type claim struct{ Writer, Batch, I int }
	seen := map[claim]bool{}
	for e, err := range l.Entries(t.Context(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		s, err := e.Envelope.Statement()
		if err != nil {
			t.Fatal(err)
		}
		var c claim
		if err := json.Unmarshal([]byte(s.Predicate), &c); err != nil {
			t.Fatal(err)
		}
		if seen[c] {
			t.Fatalf("entry %d says %+v, and so does one before it", e.Index, c)
		}
		seen[c] = true
	}
	wholeBatches(t, l, loadWriters, func(int, int) int { return loadClaims })
}

// memory is how much of it a process has.
type memory struct {
	own      int64 // bytes that no file stands behind
	resident int64 // bytes in all, mapped files included
}

func (m *memory) most(other memory) {
	m.own, m.resident = max(m.own, other.own), max(m.resident, other.resident)
}

func (m memory) String() string {
	if m.resident == 0 {
		return "an unknown amount of memory"
	}
	return fmt.Sprintf("%d MiB resident, %d MiB of it not of mapped files", m.resident>>20, m.own>>20)
}

// watchMemory looks at a process until stop is closed. Where there is no /proc
// it knows nothing.
func watchMemory(pid int, stop <-chan struct{}) (m memory) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return m
		case <-tick.C:
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		var now memory
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			switch name {
			case "RssAnon":
				now.own = kib << 10
			case "VmHWM":
				now.resident = kib << 10
			}
		}
		m.most(now)
	}
}
