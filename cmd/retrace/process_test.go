package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/schema"
)

// retraceCommand is a process of retrace in dir.
func retraceCommand(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := exec.LookPath("retrace")
	if err != nil {
		t.Fatal(err)
	}
	scratch := t.TempDir() // a killed process leaves things there
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "RETRACE_DIR=", "RETRACE_SERVER=", "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir), "XDG_CACHE_HOME="+scratch, "TMPDIR="+scratch)
	return cmd
}

// retrace runs it to its end.
func retrace(t *testing.T, dir string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := retraceCommand(t, dir, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// done runs it, and it has to succeed.
func done(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, errs, status := retrace(t, dir, args...)
	if status != 0 {
		t.Fatalf("retrace %s ended with status %d: %s%s", strings.Join(args, " "), status, out, errs)
	}
	return out
}

// size is how many entries the ledger in dir has.
func size(t *testing.T, dir string) int {
	t.Helper()
	var log struct {
		Size int `json:"size"`
	}
	if err := json.Unmarshal([]byte(done(t, dir, "log", "-n", "1", "-o", "json")), &log); err != nil {
		t.Fatal(err)
	}
	return log.Size
}

// writeNote writes a statement to a file of dir, and returns its name.
func writeNote(t *testing.T, dir string, n, bytes int) string {
	t.Helper()
	s, err := schema.NewStatement("https://example.com/note/v1", map[string]string{"text": strings.Repeat("x", bytes)},
		schema.Descriptor{Name: fmt.Sprintf("note %d", n), Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(fmt.Append(nil, n)).Hex()}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := schema.Canonical(s)
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("note-%d.json", n)
	if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestWaitsForLedger holds the ledger: a command waits, says for what, and goes
// on when it is free.
func TestWaitsForLedger(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	done(t, dir, "init")
	held, err := tryOpen(filepath.Join(dir, dirName))
	if err != nil {
		t.Fatal(err)
	}
	cmd := retraceCommand(t, dir, "log")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stderr)
	said, err := lines.ReadString('\n')
	if err != nil || !strings.Contains(said, "waiting up to 30s") || !strings.Contains(said, fmt.Sprint(os.Getpid())) {
		t.Errorf("a command that waits said %q, want who holds the ledger and how long it waits (%v)", said, err)
	}
	if err := held.Close(); err != nil {
		t.Error(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the command that waited: %v: %s", err, rest)
	}
}

// TestLedgerStaysHeld waits in vain.
func TestLedgerStaysHeld(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	done(t, dir, "init")
	at := filepath.Join(dir, dirName)
	held, err := tryOpen(at)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := waitForLedger(t.Context(), at, time.Millisecond); !errors.Is(err, ledger.ErrLocked) {
		t.Errorf("waiting for a ledger that stays held: %v, want ErrLocked", err)
	} else if hintFor(err) == "" {
		t.Error("there is no hint for a ledger that stays held")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := waitForLedger(ctx, at, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting when interrupted: %v, want context.Canceled", err)
	}
}

// TestKillRun kills a run in the middle of its command: nothing is recorded of
// it, and nothing else is harmed.
func TestKillRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	done(t, dir, "init")
	cmd := retraceCommand(t, dir, "run", "--out", "model.bin", "--model", "forecast", "--", "sh", "-c", "echo half >model.bin; echo started; read end")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close() // which ends the command that was left behind
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "started\n" {
		t.Fatalf("the command printed %q, %v", line, err)
	}
	if n := size(t, dir); n != 1 { // the ledger is not held while the command runs
		t.Errorf("size while the command runs = %d, want 1", n)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	cmd.Wait()
	done(t, dir, "fsck", "--content")
	if n := size(t, dir); n != 1 {
		t.Errorf("size after the kill = %d, want 1", n)
	}
	done(t, dir, "run", "--out", "model.bin", "--model", "forecast", "--", "sh", "-c", "echo whole >model.bin")
	if out := done(t, dir, "models"); !strings.Contains(out, "forecast@1") {
		t.Errorf("models after a run that was not killed: %s", out)
	}
}

// TestKillRecord kills records at random moments: what one of them answered is
// there, and each file is recorded whole or not at all.
func TestKillRecord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	done(t, dir, "init")
	const perFile = 5
	acknowledged, n, kills := 1, 0, 0
	for range 12 {
		var files []string
		for range perFile {
			n++
			files = append(files, writeNote(t, dir, n, 100))
		}
		cmd := retraceCommand(t, dir, append([]string{"record"}, files...)...)
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(time.Duration(rand.IntN(120))*time.Millisecond, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		kill.Stop()
		if err != nil {
			kills++
		}
		had := acknowledged
		now := size(t, dir)
		switch {
		case out.Len() > 0 && now != had+perFile:
			t.Fatalf("record answered, and the ledger has %d entries after %d:\n%s", now, had, out.String())
		case now != had && now != had+perFile:
			t.Fatalf("record was killed half done: %d entries after %d", now, had)
		}
		acknowledged = now
	}
	done(t, dir, "fsck")
	t.Logf("%d of 12 records were killed, %d entries", kills, acknowledged)
}

// TestKillServerBetweenEvents kills a server after each event of OpenLineage that
// it acknowledged: the run is recorded in the end, with what all of them said.
func TestKillServerBetweenEvents(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	done(t, dir, "init")
	const run = "0198a0c2-7b7a-7c3e-9d2f-3a1b2c3d4e5f"
	event := func(kind, second, side, name string) string {
		return fmt.Sprintf(`{"eventType":%q,"eventTime":"2026-11-01T10:00:%sZ","producer":"https://example.com/p","schemaURL":"https://openlineage.io/spec/2-0-2/OpenLineage.json","run":{"runId":%q},"job":{"namespace":"prod","name":"train"},%q:[{"namespace":"s3://lake","name":%q}]}`, kind, second, run, side, name)
	}
	config := filepath.Join(dir, "retrace.yaml")
	if err := os.WriteFile(config, []byte("openlineage: {settle: 1s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(done(t, dir, "tokens", "create", "airflow", "--role", "recorder"))
	serve := func(after func(url string)) {
		server := retraceCommand(t, dir, "serve", "--listen", "127.0.0.1:0", "--config", config)
		stderr, err := server.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		said, err := bufio.NewReader(stderr).ReadString('\n')
		_, url, ok := strings.Cut(strings.TrimSpace(said), " at ")
		if err != nil || !ok {
			t.Fatalf("serve said %q, %v", said, err)
		}
		after(url)
		if err := server.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = server.Wait() // killed
	}
	for _, e := range []string{event("COMPLETE", "09", "outputs", "model.bin"), event("START", "00", "inputs", "raw.csv"), event("RUNNING", "05", "inputs", "labels.csv")} {
		serve(func(url string) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/v1/lineage", strings.NewReader(e))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token)
			req.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusCreated {
				t.Fatalf("an event was answered with %s", resp.Status)
			}
		})
	}
	serve(func(string) {
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
			out, _, status := retrace(t, dir, "lineage", "s3://lake/model.bin")
			if status == 0 && strings.Contains(out, "raw.csv") && strings.Contains(out, "labels.csv") {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("after a minute the run is not recorded whole: %d\n%s", status, out)
			}
		}
	})
	if n := size(t, dir); n > 4 {
		t.Errorf("%d entries, want genesis and at most three statements of the run", n)
	}
	done(t, dir, "fsck")
}

// TestBesideServer works on a ledger that a server holds: commands find it by
// themselves, also several at once, and the server ends cleanly.
func TestBesideServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	done(t, dir, "init")
	server := retraceCommand(t, dir, "serve", "--listen", "127.0.0.1:0")
	stderr, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stderr)
	if said, err := lines.ReadString('\n'); err != nil || !strings.Contains(said, "at http://127.0.0.1:") {
		t.Fatalf("serve said %q, %v", said, err)
	}

	var runs []*exec.Cmd
	for i := range 4 {
		out := fmt.Sprintf("model-%d", i)
		run := retraceCommand(t, dir, "run", "--out", out, "--model", "forecast", "--", "sh", "-c", "echo "+out+" >"+out)
		if err := run.Start(); err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
	for _, run := range runs {
		if err := run.Wait(); err != nil {
			t.Errorf("a run beside a server: %v", err)
		}
	}
	done(t, dir, "record", writeNote(t, dir, 1, 100))
	if n := size(t, dir); n != 1+4*2+1 {
		t.Errorf("size = %d, want genesis, four steps, four models and a note", n)
	}
	if out := done(t, dir, "lineage", "forecast@4"); !strings.Contains(out, "model-") {
		t.Errorf("lineage beside a server:\n%s", out)
	}
	if out := done(t, dir, "reproduce", "forecast@1", "--yes"); !strings.Contains(out, "BIT_EXACT") {
		t.Errorf("reproduce beside a server:\n%s", out)
	}
	if _, errs, status := retrace(t, dir, "fsck"); status != 2 || !strings.Contains(errs, "hint: ") {
		t.Errorf("fsck beside a server ended with status %d: %s", status, errs)
	}

	if err := server.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Error(err)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("serve, interrupted: %v\n%s", err, rest)
	}
	done(t, dir, "fsck", "--content")
}
