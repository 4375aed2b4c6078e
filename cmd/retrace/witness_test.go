package main

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/retrace-ledger/retrace/ledger/witness/witnesstest"
	"github.com/retrace-ledger/retrace/verify"
)

// witnessKey is where a script keeps its witness.
type witnessKey struct{}

// scriptWitness starts a witness of the log whose key is in a file, and writes
// the policy that names it, or waits until it saw a size, and until a ledger
// kept its cosignature over that size:
//
//	witness start .retrace/log.vkey witnesses.policy
//	witness saw 4
//	witness kept 4 .retrace/cosigned
func scriptWitness(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: witness start VKEYFILE POLICYFILE | witness saw SIZE | witness kept SIZE FILE")
	}
	w := ts.Value(witnessKey{}).(*witnesstest.Witness)
	if args[0] == "saw" {
		want, err := strconv.ParseInt(args[1], 10, 64)
		ts.Check(err)
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			size, asked := w.Size()
			if size >= want {
				return
			}
			if time.Now().After(deadline) {
				ts.Fatalf("the witness saw size %d after %d requests, want %d", size, asked, want)
			}
		}
	}
	if args[0] == "kept" {
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			signed, err := os.ReadFile(ts.MkAbs(args[2]))
			lines := strings.Split(string(signed), "\n")
			if err == nil && len(lines) > 1 && lines[1] == args[1] {
				return
			}
			if time.Now().After(deadline) {
				ts.Fatalf("%s does not hold size %s: %q (%v)", args[2], args[1], signed, err)
			}
		}
	}
	log, err := verify.ParseLogKey([]byte(ts.ReadFile(args[1])), "")
	ts.Check(err)
	stop, err := w.Start("witness.example")
	ts.Check(err)
	ts.Defer(stop)
	w.Know(log)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(w.Line()+"quorum witness.example\n"), 0o644))
}
