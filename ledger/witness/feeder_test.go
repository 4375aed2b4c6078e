package witness_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/ledger/witness"
	"github.com/retrace-ledger/retrace/ledger/witness/witnesstest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// append adds n entries.
func add(t *testing.T, l *ledger.Ledger, name string, n int) {
	t.Helper()
	for i := range n {
		if _, err := l.Append(context.Background(), schema.Batch{Envelopes: []schema.Envelope{ledgertest.Claim(t, fmt.Sprintf("%s %d", name, i))}}); err != nil {
			t.Fatal(err)
		}
	}
}

func policy(t *testing.T, quorum string, ws ...*witnesstest.Witness) *verify.Policy {
	t.Helper()
	var text strings.Builder
	names := make([]string, 0, len(ws))
	for _, w := range ws {
		text.WriteString(w.Line())
		names = append(names, w.Name)
	}
	fmt.Fprintf(&text, "group g %s %s\nquorum g\n", quorum, strings.Join(names, " "))
	p, err := verify.ParsePolicy([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// running is a feeder that runs until the test ends.
type running struct {
	*witness.Feeder
	ended  chan error
	alarms chan string
}

func run(t *testing.T, w *ledgertest.World, l *ledger.Ledger, p *verify.Policy) *running {
	t.Helper()
	r := &running{ended: make(chan error, 1), alarms: make(chan string, 100)}
	var err error
	r.Feeder, err = witness.New(l, w.Verifier, p, &witness.Options{
		Interval: 5 * time.Millisecond,
		Alarm: func(name string, err error) {
			select {
			case r.alarms <- name + ": " + err.Error():
			default:
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.ended <- r.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-stopped })
	return r
}

// eventually waits for what another goroutine brings about.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if so() {
			return
		}
	}
	t.Fatalf("waited in vain until %s", what)
}

func cosignedSize(t *testing.T, w *ledgertest.World, l *ledger.Ledger) int64 {
	t.Helper()
	signed := l.Cosigned()
	if signed == nil {
		return 0
	}
	cp, err := verify.OpenCheckpoint(signed, w.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	return cp.Size
}

// TestQuorum has two of three witnesses, one of which is down, one of which
// answers with a cosignature over something else and then recovers.
func TestQuorum(t *testing.T) {
	w := ledgertest.New(t)
	a, b, c := witnesstest.New(t, "a.example"), witnesstest.New(t, "b.example"), witnesstest.New(t, "c.example")
	for _, x := range []*witnesstest.Witness{a, b, c} {
		x.Know(w.Verifier)
	}
	c.Down(true)
	p := policy(t, "2", a, b, c)
	r := run(t, w, w.Ledger, p)
	add(t, w.Ledger, "one", 5)
	eventually(t, "size 6 is cosigned", func() bool { return cosignedSize(t, w, w.Ledger) == 6 })
	cp, err := verify.OpenCheckpoint(w.Cosigned(), w.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	found, err := p.Check(cp, w.Verifier)
	if err != nil || len(found) != 2 {
		t.Errorf("Check = %v, %v, want the cosignatures of a and b", found, err)
	}
	for _, f := range found {
		if f.Witness == "c.example" || time.Since(f.Time) > time.Hour {
			t.Errorf("cosignature %+v, want a or b, now", f)
		}
	}

	// A second one down: writing goes on, the quorum lags, and it shows.
	b.Down(true)
	add(t, w.Ledger, "two", 5)
	eventually(t, "a is at 11 and the status says so", func() bool {
		s := r.Status()
		return s.Members[0].Size == 11 && s.Members[1].Err != nil && s.Members[2].Failures > 0 && s.Size < 11 && s.Behind > 0
	})
	b.Down(false)
	eventually(t, "size 11 is cosigned", func() bool { s := r.Status(); return cosignedSize(t, w, w.Ledger) == 11 && s.Behind == 0 })
	b.Forge()
	c.Down(false)
	c.Know(w.Verifier)
	add(t, w.Ledger, "three", 1)
	eventually(t, "c stands in for b", func() bool { return cosignedSize(t, w, w.Ledger) == 12 })
	cp, _ = verify.OpenCheckpoint(w.Cosigned(), w.Verifier)
	if found, err := p.Check(cp, w.Verifier); err != nil || len(found) != 2 || found[0].Witness == "b.example" || found[1].Witness == "b.example" {
		t.Errorf("Check = %v, %v, want those of a and c: that of b does not verify", found, err)
	}
	if len(r.alarms) > 0 {
		t.Errorf("alarm %q, want none", <-r.alarms)
	}
}

// TestResume feeds a witness that another process fed before: the size is
// learnt from the 409, and the cosigned checkpoint survives a restart.
func TestResume(t *testing.T) {
	w := ledgertest.New(t)
	a := witnesstest.New(t, "a.example")
	a.Know(w.Verifier)
	p := policy(t, "any", a)
	r := run(t, w, w.Ledger, p)
	add(t, w.Ledger, "one", 300)
	eventually(t, "size 301 is cosigned", func() bool { return cosignedSize(t, w, w.Ledger) == 301 })
	if s := r.Status(); s.Members[0].Requests > 310 {
		t.Errorf("%d requests for 300 entries", s.Members[0].Requests)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-r.ended; !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("Run ended with %v, want ErrClosed", err)
	}
	var err error
	if w.Ledger, err = ledger.Open(w.Dir(), w.Signer, nil); err != nil {
		t.Fatal(err)
	}
	if got := cosignedSize(t, w, w.Ledger); got != 301 {
		t.Errorf("after opening again, size %d is cosigned, want 301", got)
	}
	// Without the file, all that the witness knows is in its 409.
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(w.Dir(), "cosigned")); err != nil {
		t.Fatal(err)
	}
	if w.Ledger, err = ledger.Open(w.Dir(), w.Signer, nil); err != nil {
		t.Fatal(err)
	}
	r = run(t, w, w.Ledger, p)
	eventually(t, "size 301 is cosigned again", func() bool { return cosignedSize(t, w, w.Ledger) == 301 })
	add(t, w.Ledger, "two", 3)
	eventually(t, "size 304 is cosigned", func() bool { return cosignedSize(t, w, w.Ledger) == 304 })
	if len(r.alarms) > 0 {
		t.Errorf("alarm %q, want none", <-r.alarms)
	}
}

// behind makes a ledger whose directory is put back to before more entries
// that the witness saw, with other entries at their place if any.
func behind(t *testing.T, a *witnesstest.Witness, others int) (*ledgertest.World, *ledger.Ledger) {
	t.Helper()
	w := ledgertest.New(t)
	a.Know(w.Verifier)
	add(t, w.Ledger, "first", 4)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	old := ledgertest.Copy(t, w.Dir())
	var err error
	if w.Ledger, err = ledger.Open(w.Dir(), w.Signer, nil); err != nil {
		t.Fatal(err)
	}
	r := run(t, w, w.Ledger, policy(t, "any", a))
	add(t, w.Ledger, "lost", 3)
	eventually(t, "the witness saw size 8", func() bool { size, _ := a.Size(); return size == 8 && r.Status().Size == 8 })
	l, err := ledger.Open(old, w.Signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	add(t, l, "other", others)
	return w, l
}

func TestRolledBack(t *testing.T) {
	a := witnesstest.New(t, "a.example")
	w, l := behind(t, a, 0)
	r := run(t, w, l, policy(t, "any", a))
	err := <-r.ended
	var back *ledger.RollbackError
	if !errors.As(err, &back) || !errors.Is(err, ledger.ErrStopped) {
		t.Fatalf("Run ended with %v, want a RollbackError that stopped the ledger", err)
	}
	theirs, err := verify.OpenCheckpoint(back.Theirs, w.Verifier)
	if err != nil || theirs.Size != 8 {
		t.Errorf("the evidence is of size %d (%v), want 8, signed by our key", theirs.Size, err)
	}
	if len(r.alarms) == 0 {
		t.Error("no alarm was raised")
	}
	if _, err := l.Append(context.Background(), schema.Batch{Envelopes: []schema.Envelope{ledgertest.Claim(t, "late")}}); !errors.As(err, &back) || !errors.Is(err, ledger.ErrStopped) {
		t.Errorf("Append after that: %v, want the evidence", err)
	}
}

func TestForked(t *testing.T) {
	for _, others := range []int{3, 6} { // the same size, with other entries; more, so that the proof fails
		a := witnesstest.New(t, "a.example")
		w, l := behind(t, a, others)
		r := run(t, w, l, policy(t, "any", a))
		err := <-r.ended
		var fork *ledger.ForkError
		if !errors.As(err, &fork) || !errors.Is(err, ledger.ErrStopped) {
			t.Fatalf("with %d other entries, Run ended with %v, want a ForkError that stopped the ledger", others, err)
		}
	}
}

// TestClaimAlone has a witness that says it saw more and does not show it:
// alarms, and writing goes on.
func TestClaimAlone(t *testing.T) {
	for _, others := range []int{0, 6} {
		a := witnesstest.New(t, "a.example")
		w, l := behind(t, a, others)
		a.Mute()
		r := run(t, w, l, policy(t, "any", a))
		if got := <-r.alarms; !strings.HasPrefix(got, "a.example: the witness says") {
			t.Errorf("alarm %q", got)
		}
		add(t, l, "more", 1)
		eventually(t, "the alarm is counted", func() bool { return r.Status().Members[0].Alarms > 0 && r.Status().Members[0].Err != nil })
	}
}
