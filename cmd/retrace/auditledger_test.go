package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
	"github.com/retrace-ledger/retrace/verify/replay"
)

// auditJSON is what the tests read of `retrace audit --ledger -o json`.
type auditJSON struct {
	Verdict string        `json:"verdict"`
	Report  replay.Report `json:"report"`
}

// audited audits a ledger with the key in dir and a state of its own.
func audited(t *testing.T, dir, ledger, state string, status int) (auditJSON, string) {
	t.Helper()
	out, errs, got := retrace(t, dir, "audit", "--ledger", ledger, "--key", "log.vkey", "--state", state, "--sign", "auditor.key", "--out", state+".dsse", "-o", "json")
	if got != status {
		t.Fatalf("audit of %s ended with status %d, want %d: %s%s", ledger, got, status, out, errs)
	}
	var a auditJSON
	if out != "" {
		if err := json.Unmarshal([]byte(out), &a); err != nil {
			t.Fatal(err)
		}
	}
	return a, errs
}

// auditDir makes a ledger of more entries than one page or chunk, and the
// auditor's keys beside it.
func auditDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	done(t, dir, "init")
	at := filepath.Join(dir, dirName)
	observer, err := keys.Load(filepath.Join(at, observerKey))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tryOpen(at)
	if err != nil {
		t.Fatal(err)
	}
	b := schema.Batch{Source: "test", Submitter: observer.ID()}
	for i := range 1200 {
		s, err := schema.NewStatement(schema.AttestationV1, schema.Attestation{Claim: "approved"},
			schema.Descriptor{Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(fmt.Append(nil, i)).Hex()}})
		if err != nil {
			t.Fatal(err)
		}
		env, err := observer.SignStatement(s)
		if err != nil {
			t.Fatal(err)
		}
		b.Envelopes = append(b.Envelopes, env)
	}
	if _, err := l.Append(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	vkey, err := os.ReadFile(filepath.Join(at, logVKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, logVKeyFile), vkey, 0o644); err != nil {
		t.Fatal(err)
	}
	k, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Create(filepath.Join(dir, "auditor.key")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// between is a server in front of another one that does to the lines of
// /v1/entries as it likes.
func between(t *testing.T, address string, tell func(w http.ResponseWriter, r *http.Request, line *client.EntryLine) (stop bool)) string {
	t.Helper()
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, err := url.Parse(address + r.URL.String())
		if err != nil {
			t.Error(err)
			return
		}
		req := r.Clone(r.Context())
		req.URL, req.Host, req.RequestURI = u, u.Host, ""
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return // the auditor went away
		}
		defer resp.Body.Close()
		if r.URL.Path != "/v1/entries" {
			w.WriteHeader(resp.StatusCode)
			io.Copy(w, resp.Body)
			return
		}
		for lines := bufio.NewReader(resp.Body); ; {
			raw, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			var line client.EntryLine
			if err := json.Unmarshal(raw, &line); err != nil {
				t.Error(err)
				return
			}
			if tell(w, r, &line) {
				return
			}
			if raw, err = json.Marshal(line); err != nil {
				t.Error(err)
				return
			}
			w.Write(append(raw, '\n'))
		}
	}))
	t.Cleanup(front.Close)
	return front.URL
}

// TestAuditServer audits a ledger behind a real server, and beside it, and
// behind servers that lie, withhold, break off and hang.
func TestAuditServer(t *testing.T) {
	t.Parallel()
	dir := auditDir(t)
	address, stop := serving(t, dir)
	defer stop()
	want, _ := audited(t, dir, address, "honest", 0)
	if want.Verdict != "PASSED" || want.Report.Size != 1201 || want.Report.Observed != 1201 || want.Report.Lineage == "" {
		t.Fatalf("audit of an honest server: %+v", want)
	}
	t.Run("beside", func(t *testing.T) {
		got, errs := audited(t, dir, dirName, "beside", 0)
		if !strings.Contains(errs, "reading through the server") || got.Report.Lineage != want.Report.Lineage {
			t.Errorf("audit beside a server: %+v, said %s", got, errs)
		}
	})
	for name, lie := range map[string]struct {
		tell func(*client.EntryLine)
		kind replay.Kind
	}{
		"altered":  {func(l *client.EntryLine) { l.Body[len(l.Body)-9] ^= 1 }, replay.KindBody},
		"left out": {func(l *client.EntryLine) { l.Index++ }, replay.KindOrder},
		"erased":   {func(l *client.EntryLine) { l.State, l.Body = schema.Erased, nil }, replay.KindErasure},
		"other":    {func(l *client.EntryLine) { l.State, l.Body, l.Commitment = schema.Withheld, nil, make([]byte, 32) }, replay.KindRoot},
	} {
		t.Run(name, func(t *testing.T) {
			liar := between(t, address, func(_ http.ResponseWriter, _ *http.Request, l *client.EntryLine) bool {
				if l.Index == 1100 {
					lie.tell(l)
				}
				return false
			})
			got, _ := audited(t, dir, liar, strings.ReplaceAll(name, " ", "-"), 1)
			if got.Verdict != "FAILED" || len(got.Report.Findings) != 1 || got.Report.Findings[0].Kind != lie.kind {
				t.Errorf("report %+v, want one finding about %s", got.Report, lie.kind)
			}
		})
	}
	t.Run("withheld", func(t *testing.T) {
		private := between(t, address, func(_ http.ResponseWriter, _ *http.Request, l *client.EntryLine) bool {
			if l.Index >= 500 && l.Index < 1150 {
				l.State, l.Body = schema.Withheld, nil
			}
			return false
		})
		got, _ := audited(t, dir, private, "private", 0)
		if r := got.Report; r.Withheld != 650 || len(r.WithheldRanges) != 1 || r.WithheldRanges[0] != (replay.Range{From: 500, To: 1150}) {
			t.Errorf("report %+v, want 500 to 1149 as withheld", r)
		}
		statement, err := os.ReadFile(filepath.Join(dir, "private.dsse"))
		if err != nil {
			t.Fatal(err)
		}
		if vsa := summary(t, statement); vsa.VerificationResult != "PASSED" || !bytes.Contains(vsa.Replay, []byte(`"withheldRanges":[{"from":500,"to":1150}]`)) {
			t.Errorf("the signed statement says %s %s", vsa.VerificationResult, vsa.Replay)
		}
	})
	t.Run("broken off", func(t *testing.T) {
		poor := between(t, address, func(w http.ResponseWriter, _ *http.Request, l *client.EntryLine) bool {
			if l.Index == 700 {
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			return false
		})
		if _, errs := audited(t, dir, poor, "poor", 2); !strings.Contains(errs, "700 of 1201 entries were replayed") {
			t.Errorf("audit of a server that breaks off said %s", errs)
		}
		resumed(t, dir, address, "poor", 700, want)
	})
	t.Run("killed", func(t *testing.T) {
		hangs := make(chan bool)
		slow := between(t, address, func(w http.ResponseWriter, r *http.Request, l *client.EntryLine) bool {
			if l.Index == 1100 {
				w.(http.Flusher).Flush()
				close(hangs)
				<-r.Context().Done()
				return true
			}
			return false
		})
		cmd := retraceCommand(t, dir, "audit", "--ledger", slow, "--key", "log.vkey", "--state", "killed", "--sign", "auditor.key")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-hangs
		waitForFile(t, filepath.Join(dir, "killed"))
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the audit ended before it was killed")
		}
		resumed(t, dir, address, "killed", 1024, want)
	})
}

// resumed goes on with an audit that came to size and wants the report of one
// that was not interrupted.
func resumed(t *testing.T, dir, address, state string, size int64, want auditJSON) {
	t.Helper()
	got, _ := audited(t, dir, address, state, 0)
	if got.Report.ResumedAt != size {
		t.Errorf("the audit went on at %d, want %d", got.Report.ResumedAt, size)
	}
	got.Report.ResumedAt = 0
	a, err := schema.Canonical(got)
	if err != nil {
		t.Fatal(err)
	}
	b, err := schema.Canonical(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("after an interruption the audit says\n%s\nand without one\n%s", a, b)
	}
}

func waitForFile(t *testing.T, path string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("no %s came", path)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// summary is the verification summary in an envelope.
func summary(t *testing.T, raw []byte) schema.VSA {
	t.Helper()
	env, err := schema.ParseEnvelope(bytes.TrimSpace(raw))
	if err != nil {
		t.Fatal(err)
	}
	s, err := env.Statement()
	if err != nil {
		t.Fatal(err)
	}
	var vsa schema.VSA
	if err := schema.DecodePredicate(s, true, &vsa); err != nil {
		t.Fatal(err)
	}
	return vsa
}

// TestAuditQuorum asks for a witness: of the newest checkpoint, or of an older
// one that the ledger keeps with its cosignature.
func TestAuditQuorum(t *testing.T) {
	t.Parallel()
	dir := auditDir(t)
	at := filepath.Join(dir, dirName)
	_, witness, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	cosigner, err := torchwood.NewCosignatureSigner("witness.example", witness)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := os.ReadFile(filepath.Join(dir, logVKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	policy := fmt.Sprintf("log %switness w1 %s\nquorum w1\n", vkey, cosigner.Verifier())
	if err := os.WriteFile(filepath.Join(dir, "policy"), []byte(policy), 0o644); err != nil {
		t.Fatal(err)
	}
	audit := func(status int) replay.Report {
		out, errs, got := retrace(t, dir, "audit", "--ledger", dirName, "--key", "log.vkey", "--policy", "policy", "--state", "state", "--sign", "auditor.key", "-o", "json")
		if got != status {
			t.Fatalf("audit ended with status %d, want %d: %s%s", got, status, out, errs)
		}
		var a auditJSON
		if out != "" {
			if err := json.Unmarshal([]byte(out), &a); err != nil {
				t.Fatal(err)
			}
		}
		return a.Report
	}
	cosign := func(text []byte) {
		v, err := verify.ParseLogKey(vkey, "")
		if err != nil {
			t.Fatal(err)
		}
		n, err := note.Open(text, note.VerifierList(v))
		if err != nil {
			t.Fatal(err)
		}
		if text, err = note.Sign(n, cosigner); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at, cosignedFile), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if r := audit(1); len(r.Findings) != 1 || r.Findings[0].Kind != replay.KindQuorum {
		t.Errorf("findings %v, want one about the quorum", r.Findings)
	}
	l, err := tryOpen(at)
	if err != nil {
		t.Fatal(err)
	}
	cosign(l.Checkpoint())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if r := audit(0); r.Witnessed != 1201 {
		t.Errorf("witnessed up to %d, want 1201", r.Witnessed)
	}
	done(t, dir, "record", writeNote(t, dir, 1, 100))
	if r := audit(0); r.Size != 1202 || r.Witnessed != 1201 {
		t.Errorf("size %d, witnessed up to %d, want 1202 and 1201", r.Size, r.Witnessed)
	}
	// The witness saw another tree, which the log's own key signed.
	k, err := keys.Load(filepath.Join(at, logKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	origin, _, _ := strings.Cut(string(vkey), "+")
	signer, err := k.NoteSigner(origin)
	if err != nil {
		t.Fatal(err)
	}
	other, err := note.Sign(&note.Note{Text: verify.FormatCheckpoint(origin, 1000, tlog.Hash{1})}, signer)
	if err != nil {
		t.Fatal(err)
	}
	cosign(other)
	audit(1)
}
