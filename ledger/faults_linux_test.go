package ledger_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
)

// faultsChild opens the ledger twice, appends one batch after the other, every
// third of them large enough for the value log, and prints what was
// acknowledged. When a commit fails it checks that nothing more is taken and
// that readers still get their answers. What must not be it prints as "wrong".
func faultsChild(dir string, key note.Signer) error {
	ctx := context.Background()
	for range 2 {
		l, err := ledger.Open(dir, key, nil)
		if err != nil {
			fmt.Println("refused", oneLine(err))
			return nil
		}
		for range 6 {
			at, err := l.Cursor(ctx, "", "writer 0")
			if err != nil {
				fmt.Println("error", oneLine(err))
				return nil
			}
			n := 0
			if at != "" {
				fmt.Sscan(at, &n)
			}
			size := 100
			if n%3 == 1 {
				size = 70 << 10
			}
			b, err := writerBatch(0, n, 2, size)
			if err != nil {
				return err
			}
			before := l.Size()
			r, err := l.Append(ctx, b)
			if err != nil {
				fmt.Println("failed", oneLine(err))
				again := func() error { _, err := l.Append(ctx, b); return err }
				if err := stopped(l, err, again); err != nil {
					fmt.Println("wrong", oneLine(err))
				}
				if l.Size() != before {
					fmt.Println("wrong the size changed with a commit that failed")
				}
				if _, err := l.Proof(ctx, before-1); err != nil {
					fmt.Println("unread", oneLine(err))
				}
				return nil
			}
			for _, e := range r.Entries {
				fmt.Printf("ack %d %x %s\n", e.Index, e.LeafHash, base64.StdEncoding.EncodeToString(r.Checkpoint))
			}
		}
		if err := l.Close(); err != nil {
			fmt.Println("close", oneLine(err))
			return nil
		}
	}
	fmt.Println("end")
	return nil
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", " ") }

// fault is a system call and how it ends without being done.
type fault struct {
	call, end string
	sync      bool // after it nothing may be acknowledged
}

var faults = []fault{
	{"msync", "error=EIO", true}, {"msync", "error=ENOSPC", true},
	{"fdatasync", "error=EIO", true}, {"fdatasync", "error=ENOSPC", true},
	{"fsync", "error=EIO", true}, {"fsync", "error=ENOSPC", true},
	{"pwrite64", "error=EIO", false}, {"pwrite64", "error=ENOSPC", false}, {"pwrite64", "retval=0", false},
	{"write", "error=ENOSPC", false}, {"write", "retval=0", false},
	{"ftruncate", "error=EIO", false}, {"ftruncate", "error=ENOSPC", false},
	{"mmap", "error=ENOMEM", false}, {"munmap", "error=EINVAL", false}, {"mremap", "error=ENOMEM", false},
	{"openat", "error=EIO", false}, {"openat", "error=EMFILE", false},
	{"pread64", "error=EIO", false}, {"read", "error=EIO", false}, {"fstat", "error=EIO", false},
	{"renameat", "error=EIO", false}, {"unlinkat", "error=EIO", false}, {"statfs", "error=EIO", false},
	{"fallocate", "error=ENOSPC", false}, {"flock", "error=EIO", false},
}

// TestSystemCallsFail lets system calls of a process that appends fail, by
// strace: each call of faults, the first and later ones, once and from then on.
// Whatever happens to the process, what it acknowledged is there afterwards,
// and after a sync that failed it acknowledged nothing.
//
// A call that is made to fail is not done, so this is the flavour of fault
// where nothing of the call persists. strace counts the calls of each thread
// for itself.
func TestSystemCallsFail(t *testing.T) {
	strace := requireStrace(t)
	nth := []int{3, 8} // while the store opens, and while it commits
	if *long {
		nth = []int{1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24}
	}
	if testing.Short() {
		t.Skip("a hundred processes")
	}
	t.Parallel()
	var mu sync.Mutex
	results := map[string]*faultCount{}
	w, empty := childWorld(t)
	t.Run("all", func(t *testing.T) {
		for _, f := range faults {
			t.Run(f.call+" "+f.end, func(t *testing.T) {
				t.Parallel()
				for _, n := range nth {
					for _, when := range []string{fmt.Sprint(n), fmt.Sprintf("%d+", n)} {
						out := failOne(t, w, ledgertest.Copy(t, empty), strace, f, when)
						mu.Lock()
						if results[f.call] == nil {
							results[f.call] = &faultCount{}
						}
						results[f.call].add(out)
						mu.Unlock()
					}
				}
			})
		}
	})
	total := 0
	for call, c := range results {
		t.Logf("%s: %+v", call, *c)
		total += c.Hit
	}
	if total == 0 {
		t.Error("no fault came to pass: nothing was tested")
	}
	if results["msync"].Failed == 0 || results["fdatasync"].Failed == 0 {
		t.Error("no append failed for a sync that failed")
	}
}

// faultCount says how many processes ended how.
type faultCount struct{ Runs, Hit, Failed, Refused, Died, Hung, Unread, Damaged, Acknowledged int }

func (c *faultCount) add(o faultCount) {
	c.Runs += o.Runs
	c.Hit += o.Hit
	c.Failed += o.Failed
	c.Refused += o.Refused
	c.Died += o.Died
	c.Hung += o.Hung
	c.Unread += o.Unread
	c.Damaged += o.Damaged
	c.Acknowledged += o.Acknowledged
}

// requireStrace finds strace and tries whether it may trace.
func requireStrace(t *testing.T) string {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err == nil {
		err = exec.Command(strace, "-f", "-o", os.DevNull, "-e", "inject=fdatasync:error=EIO", "true").Run()
	}
	if err != nil {
		if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
			t.Fatalf("strace: %v", err)
		}
		t.Skipf("strace: %v", err)
	}
	return strace
}

// faultPatience is how long a process may take. Badger repeats the flush of a
// memtable for ever, so one whose disk stays broken is ended by the parent.
const faultPatience = 8 * time.Second

// failOne runs one process with one fault and looks at what it leaves.
func failOne(t *testing.T, w *ledgertest.World, dir, strace string, f fault, when string) (c faultCount) {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := childCommand("faults", dir, strace, "-f", "-qq", "--seccomp-bpf", "-s", "8", "-o", trace,
		"-e", "trace=write,"+f.call, "-e", fmt.Sprintf("inject=%s:%s:when=%s", f.call, f.end, when))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // strace killed alone lets go of what it traces
	cmd.Stderr = nil                                      // a Go program that cannot map memory says so at length
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(faultPatience, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	c.Runs = 1
	var acks []acked
	ended := false
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "ack":
			acks = append(acks, parseAck(t, rest))
		case "wrong":
			t.Errorf("%s %s when=%s: %s", f.call, f.end, when, rest)
		case "failed", "error":
			c.Failed++
		case "refused":
			c.Refused++
		case "unread":
			c.Unread++
		}
		ended = word != "ack"
	}
	err = cmd.Wait()
	switch {
	case !hung.Stop():
		c.Hung++
	case err != nil || !ended:
		c.Died++
	}
	hit, after := readTrace(t, trace)
	if hit {
		c.Hit++
	}
	if f.sync && after > 0 {
		t.Errorf("%s %s when=%s: %d entries were acknowledged after the sync failed", f.call, f.end, when, after)
	}
	c.Acknowledged = len(acks)
	if !afterFault(t, w, dir, acks, fmt.Sprintf("%s %s when=%s", f.call, f.end, when)) {
		c.Damaged++
	}
	return c
}

// readTrace reports whether a call failed, and how many acknowledgements were
// written after the first that did.
func readTrace(t *testing.T, path string) (hit bool, after int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, "(INJECTED)") {
			hit = true
		} else if hit && strings.Contains(line, `write(1, "ack `) {
			after++
		}
	}
	return hit, after
}

// afterFault opens the ledger without faults: every entry that was
// acknowledged is there and provable, and Fsck finds nothing.
func afterFault(t *testing.T, w *ledgertest.World, dir string, acks []acked, name string) (opened bool) {
	t.Helper()
	l, err := openFree(dir, w.Signer)
	if err != nil {
		t.Errorf("%s: opening afterwards: %v", name, err)
		return false
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, f := range findings(t, dir, w) {
			t.Errorf("%s: %s", name, f)
		}
	}()
	for _, a := range acks {
		e, err := l.Entry(t.Context(), a.index)
		if err != nil || tlog.RecordHash(e.Commitment[:]) != a.leaf {
			t.Errorf("%s: entry %d was acknowledged and is another or gone (%v)", name, a.index, err)
			return true
		}
		p, err := l.Proof(t.Context(), a.index)
		if err == nil {
			_, err = p.Verify(e.Commitment, w.Verifier)
		}
		if err != nil {
			t.Errorf("%s: proving entry %d: %v", name, a.index, err)
		}
	}
	if len(acks) > 0 {
		extends(t, w, l, acks[len(acks)-1].checkpoint, l.Checkpoint())
	}
	mustAppend(t, l, batch(claims(t, "and on it goes")...))
	wholeBatches(t, l, 1, func(int, int) int { return 2 })
	return true
}
