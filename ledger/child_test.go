package ledger_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

// children are what this test binary does when a test starts it again, as a
// process that can be killed. Each gets the directory of a ledger and the key
// to open it with.
var children = map[string]func(dir string, key note.Signer) error{
	"kill":   crashChild,
	"faults": faultsChild,
	"load":   loadChild,
}

// childSeed is the seed of the log key that children sign with.
const childSeed = "0707070707070707070707070707070707070707070707070707070707070707"

// runChild does what the environment asks for, and reports whether it asks for
// anything.
func runChild() (asked bool) {
	child, ok := children[os.Getenv("RETRACE_TEST_CHILD")]
	if !ok {
		return false
	}
	key, err := childKey()
	if err == nil {
		var signer note.Signer
		if signer, err = key.NoteSigner(ledgertest.Origin); err == nil {
			err = child(os.Getenv("RETRACE_TEST_CHILD_DIR"), signer)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func childKey() (*keys.Private, error) {
	seed, err := hex.DecodeString(childSeed)
	if err != nil {
		return nil, err
	}
	return keys.FromSeed(seed)
}

// childWorld makes a ledger that children can open. It is closed.
func childWorld(t *testing.T) (w *ledgertest.World, dir string) {
	t.Helper()
	key, err := childKey()
	if err != nil {
		t.Fatal(err)
	}
	w = ledgertest.NewKeys(t)
	w.Log = key
	if w.Signer, err = key.NoteSigner(ledgertest.Origin); err != nil {
		t.Fatal(err)
	}
	w.Verifier = w.Signer.(note.Verifier)
	dir = filepath.Join(t.TempDir(), "ledger")
	if err := ledger.Create(dir, w.Signer, w.Genesis(t)); err != nil {
		t.Fatal(err)
	}
	return w, dir
}

// childCommand is a process of this test binary that does child, under the
// command in front, if there is one.
func childCommand(child, dir string, front ...string) *exec.Cmd {
	args := append(front, os.Args[0])
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "RETRACE_TEST_CHILD="+child, "RETRACE_TEST_CHILD_DIR="+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

// childClaim is an envelope that says who made it, padded to more than size
// bytes.
func childClaim(writer, batch, i, size int) (schema.Envelope, error) {
	return schema.NewEnvelope(schema.PayloadType, fmt.Appendf(nil,
		`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%064x"}}],"predicateType":"https://example.com/x","predicate":{"writer":%d,"batch":%d,"i":%d,"pad":"%s"}}`,
		i, writer, batch, i, strings.Repeat("x", size)))
}

// writerBatch is batch n of writer g: some claims, and a cursor that counts
// the batches.
func writerBatch(g, n, claims, size int) (schema.Batch, error) {
	source := fmt.Sprint("writer ", g)
	from := ""
	if n > 0 {
		from = strconv.Itoa(n)
	}
	b := schema.Batch{Source: source, Cursors: []schema.Cursor{{Source: source, From: from, To: strconv.Itoa(n + 1)}}}
	for i := range claims {
		env, err := childClaim(g, n, i, size)
		if err != nil {
			return b, err
		}
		b.Envelopes = append(b.Envelopes, env)
	}
	return b, nil
}

// stopped checks what a ledger does after an append failed with err: it takes
// nothing more, unless err says that nothing was begun, and still answers.
func stopped(l *ledger.Ledger, err error, again func() error) error {
	if errors.Is(err, ledger.ErrDiskFull) || strings.Contains(err.Error(), "asking how much room is left") {
		return nil
	}
	if !errors.Is(err, ledger.ErrStopped) {
		return fmt.Errorf("an append failed, and not with ErrStopped: %w", err)
	}
	if err := again(); !errors.Is(err, ledger.ErrStopped) {
		return fmt.Errorf("after a failed commit, Append = %w, want ErrStopped", err)
	}
	return nil
}

// openFree opens a ledger whose process was just killed; the kernel may take a
// moment to give its lock back.
func openFree(dir string, key note.Signer) (l *ledger.Ledger, err error) {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		l, err = ledger.Open(dir, key, nil)
		if !errors.Is(err, ledger.ErrLocked) || time.Now().After(end) {
			return l, err
		}
	}
}
