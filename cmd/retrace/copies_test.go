package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// serving starts a server of the ledger in dir and returns its address and
// what stops it.
func serving(t *testing.T, dir string) (url string, stop func()) {
	t.Helper()
	server, url := servingProcess(t, dir)
	end := func() error { return server.Process.Signal(syscall.SIGTERM) }
	server.Cancel = end // of the test's context, which ends before its cleanups
	stop = sync.OnceFunc(func() {
		end()
		if err := server.Wait(); server.ProcessState.ExitCode() != 0 {
			t.Errorf("the server ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return url, stop
}

// servingProcess starts a server of the ledger in dir. The caller waits for it.
func servingProcess(t *testing.T, dir string) (server *exec.Cmd, url string) {
	t.Helper()
	server = retraceCommand(t, dir, "serve", "--listen", "127.0.0.1:0")
	stderr, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stderr)
	said, err := lines.ReadString('\n')
	m := regexp.MustCompile(`at (http://\S+)`).FindStringSubmatch(said)
	if err != nil || m == nil {
		t.Fatalf("serve said %q, %v", said, err)
	}
	go lines.WriteTo(os.Stderr)
	return server, m[1]
}

// TestCopiesBesideServer backs up a ledger that a server holds while others
// record through it, mirrors it, loses it and has it again.
func TestCopiesBesideServer(t *testing.T) {
	t.Parallel()
	dir, work := t.TempDir(), t.TempDir()
	done(t, dir, "init")
	for n := range 3 {
		done(t, dir, "record", filepath.Join(work, writeNote(t, work, n, 100)))
	}
	url, stop := serving(t, dir)
	if _, errs, status := retrace(t, dir, "--dir", filepath.Join(work, "mirror"), "mirror", url, "--once"); status != 2 || !strings.Contains(errs, "ask whoever runs the ledger for log.vkey") {
		t.Errorf("mirroring without a key ended with status %d: %s", status, errs)
	}
	var group sync.WaitGroup
	for n := range 4 {
		name := filepath.Join(work, writeNote(t, work, 10+n, 100))
		group.Go(func() {
			if _, errs, status := retrace(t, dir, "record", name); status != 0 {
				t.Errorf("recording beside a backup ended with status %d: %s", status, errs)
			}
		})
	}
	during := filepath.Join(work, "during.backup")
	done(t, dir, "backup", during)
	group.Wait()
	withKeys := filepath.Join(work, "keys.backup")
	if out := done(t, dir, "backup", "--keys", withKeys); !strings.Contains(out, "WITH PRIVATE KEYS (log.key, observer.key)") {
		t.Errorf("a backup with keys beside a server says:\n%s", out)
	}
	mirror := filepath.Join(work, "mirror")
	if out := done(t, dir, "--dir", mirror, "mirror", url, "--once", "--key", filepath.Join(dir, ".retrace", "log.vkey")); !strings.Contains(out, "size 8, 8 entries new") {
		t.Errorf("mirror says %q", out)
	}
	if _, errs, status := retrace(t, dir, "recover", "--from", mirror); status != 2 || !strings.Contains(errs, "stop it first") {
		t.Errorf("recover beside a server ended with status %d: %s", status, errs)
	}
	stop()
	for _, copied := range []struct{ backup, dir string }{{during, "a"}, {withKeys, "b"}} {
		done(t, work, "--dir", copied.dir, "import", copied.backup)
		done(t, work, "--dir", copied.dir, "fsck")
	}
	if n := size(t, dir); n != 8 {
		t.Errorf("%d entries, want 8", n)
	}
	for _, args := range [][]string{{"fsck"}, {"log"}, {"prove", "entry:3"}} {
		done(t, work, append([]string{"--dir", mirror}, args...)...)
	}
	if err := os.RemoveAll(filepath.Join(dir, ".retrace", "store")); err != nil {
		t.Fatal(err)
	}
	done(t, dir, "recover", "--from", mirror)
	done(t, dir, "record", filepath.Join(work, writeNote(t, work, 20, 100)))
	done(t, dir, "fsck")
	if n := size(t, dir); n != 9 {
		t.Errorf("%d entries after the repair, want 9", n)
	}
}

// TestMirrorProcessKilled kills a mirror later and later until it comes to its
// end. After each kill what was published is whole.
func TestMirrorProcessKilled(t *testing.T) {
	t.Parallel()
	dir, work := t.TempDir(), t.TempDir()
	done(t, dir, "init")
	many := filepath.Join(work, "many.jsonl")
	for part := range 2 {
		var lines strings.Builder
		for n := range 400 {
			raw, err := os.ReadFile(filepath.Join(work, writeNote(t, work, part*400+n, 4000)))
			if err != nil {
				t.Fatal(err)
			}
			lines.Write(append(raw, '\n'))
		}
		if err := os.WriteFile(many, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		done(t, dir, "record", many)
	}
	url, _ := serving(t, dir)
	mirror := filepath.Join(work, "mirror")
	args := []string{"--dir", mirror, "mirror", url, "--once", "--key", filepath.Join(dir, ".retrace", "log.vkey")}
	kills := 0
	for wait := 20 * time.Millisecond; ; wait += wait / 2 {
		cmd := retraceCommand(t, work, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(wait, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if err == nil {
			break
		}
		kills++
		if _, err := os.Stat(filepath.Join(mirror, "log.vkey")); err != nil {
			continue // killed before there was anything
		}
		if out, errs, status := retrace(t, work, "--dir", mirror, "fsck"); status == 1 {
			t.Errorf("after a kill fsck finds\n%s%s", out, errs)
		}
	}
	if kills == 0 {
		t.Error("it was never killed")
	}
	done(t, work, "--dir", mirror, "fsck")
	if n := size(t, dir); n != 801 {
		t.Errorf("%d entries, want 801", n)
	}
}

// TestMirrorProcessFork is shown two histories by one key, and tells the server
// of the second.
func TestMirrorProcessFork(t *testing.T) {
	t.Parallel()
	dir, other, work := t.TempDir(), t.TempDir(), t.TempDir()
	done(t, dir, "init")
	if out, err := exec.Command("cp", "-r", filepath.Join(dir, ".retrace"), other).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	mirror := filepath.Join(work, "mirror")
	for n, dir := range []string{dir, other} {
		done(t, dir, "record", filepath.Join(work, writeNote(t, work, n, 100)))
		server, url := servingProcess(t, dir)
		out, errs, status := retrace(t, work, "--dir", mirror, "mirror", url, "--once", "--key", filepath.Join(dir, ".retrace", "log.vkey"))
		if status != n {
			t.Errorf("mirroring history %d ended with status %d: %s%s", n, status, out, errs)
		}
		if n == 0 {
			if err := server.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
		server.Wait()
		if got := server.ProcessState.ExitCode(); got != 2*n {
			t.Errorf("the server of history %d ended with status %d, want %d", n, got, 2*n)
		}
		if n == 1 && !strings.Contains(errs, "the server was shown the note that is held here, and writes no more") {
			t.Errorf("the alarm does not say that the server was told:\n%s", errs)
		}
		if n == 1 && (strings.Count(errs, "\n— ") != 2 || !strings.Contains(errs, "both notes are in "+filepath.Join(mirror, "fork"))) {
			t.Errorf("the alarm has to show both notes and where they are:\n%s", errs)
		}
	}
	if evidence, err := os.ReadFile(filepath.Join(mirror, "fork")); err != nil || strings.Count(string(evidence), "\n— ") != 2 {
		t.Errorf("the evidence is %q, %v", evidence, err)
	}
	done(t, work, "--dir", mirror, "fsck")
}

// TestMirrorTellsRolledBack mirrors a ledger that was put back to an older state.
// Told so by the mirror, its server ends, and the ledger does not open for
// writing until it holds what it had.
func TestMirrorTellsRolledBack(t *testing.T) {
	t.Parallel()
	dir, work := t.TempDir(), t.TempDir()
	done(t, dir, "init")
	done(t, dir, "record", filepath.Join(work, writeNote(t, work, 0, 100)))
	old := filepath.Join(work, "old")
	if out, err := exec.Command("cp", "-r", filepath.Join(dir, ".retrace"), old).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	done(t, dir, "record", filepath.Join(work, writeNote(t, work, 1, 100)))
	mirror := filepath.Join(work, "mirror")
	args := []string{"--dir", mirror, "mirror", "", "--once", "--key", filepath.Join(dir, ".retrace", "log.vkey")}
	url, stop := serving(t, dir)
	args[3] = url
	done(t, work, args...)
	stop()
	if err := os.RemoveAll(filepath.Join(dir, ".retrace")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(old, filepath.Join(dir, ".retrace")); err != nil {
		t.Fatal(err)
	}
	server, url := servingProcess(t, dir)
	args[3] = url
	if out, errs, status := retrace(t, work, args...); status != 1 || !strings.Contains(errs, "the server was shown the note that is held here, and writes no more") {
		t.Errorf("mirroring a ledger that was put back ended with status %d: %s%s", status, out, errs)
	}
	server.Wait()
	if got := server.ProcessState.ExitCode(); got != 2 {
		t.Errorf("the server ended with status %d, want 2", got)
	}
	note := filepath.Join(work, writeNote(t, work, 2, 100))
	if _, errs, status := retrace(t, dir, "record", note); status != 2 || !strings.Contains(errs, "rolled back") {
		t.Errorf("recording afterwards ended with status %d: %s", status, errs)
	}
	done(t, dir, "recover", "--from", mirror)
	done(t, dir, "record", note)
}
