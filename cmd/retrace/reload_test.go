package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/client"
)

// TestReload exchanges the sources of a running server: what did not change
// goes on, one that fails stops no other, and a configuration with a fault
// changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	done(t, dir, "init")
	metrics := freeAddress(t)
	config := filepath.Join(dir, "retrace.yaml")
	configure := func(sources string) {
		t.Helper()
		if err := os.WriteFile(config, []byte("metrics: "+metrics+"\nsources:\n"+sources), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"data", "more"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	source := func(name string) string { return "dir://" + filepath.ToSlash(filepath.Join(dir, name)) }
	configure("  - url: " + source("data") + "\n")

	server := retraceCommand(t, dir, "serve", "--listen", "127.0.0.1:0", "--config", config)
	stderr, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	await := func(text string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), text) {
				return
			}
		}
		t.Fatalf("the server ended without saying %q", text)
	}
	await("at http://127.0.0.1:")
	states := func(want int) map[string]client.SourceState {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; {
			out, errs, status := retrace(t, dir, "sources", "-o", "json")
			if status > 1 {
				t.Fatalf("sources ended with %d: %s", status, errs)
			}
			var list []client.SourceState
			if err := json.Unmarshal([]byte(out), &list); err != nil {
				t.Fatal(err)
			}
			byName, read := map[string]client.SourceState{}, 0
			for _, s := range list {
				byName[s.Source] = s
				if s.Reads > 0 || s.Failures > 0 {
					read++
				}
			}
			if len(list) == want && read == want {
				return byName
			}
			if time.Now().After(end) {
				t.Fatalf("after 30 s the sources are %+v, want %d that were read", list, want)
			}
		}
	}
	first := states(1)[source("data")]
	if first.State != "WAITING" || first.Recorded != 1 {
		t.Errorf("a source that was read: %+v", first)
	}

	configure("  - url: " + source("data") + "\n  - url: " + source("more") + "\n  - url: git+file://" + filepath.ToSlash(filepath.Join(dir, "gone")) + "\n")
	if err := server.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await("configuration read again")
	all := states(3)
	if s := all[source("data")]; s.Seen.Before(first.Seen) || s.Recorded != 1 {
		t.Errorf("a source that did not change was begun anew: %+v", s)
	}
	if s := all[source("more")]; s.State != "WAITING" {
		t.Errorf("a source beside one that fails: %+v", s)
	}
	failing := 0
	for _, s := range all {
		if s.State == "FAILING" && s.Error != "" && !s.Again.IsZero() {
			failing++
		}
	}
	if failing != 1 {
		t.Errorf("%d sources fail, want the repository that is not there: %+v", failing, all)
	}
	if _, _, status := retrace(t, dir, "sources"); status != 1 {
		t.Errorf("sources with one that fails ended with %d, want 1", status)
	}
	if body := get(t, "http://"+metrics+"/metrics", 200); !strings.Contains(body, `retrace_source_up{kind="dir",namespace="default",source="`+source("more")+`"} 1`) {
		t.Errorf("/metrics does not say that a source is up:\n%s", body)
	}
	get(t, "http://"+metrics+"/graphql", 404)

	for _, fault := range []string{"  - url: nonsense\n", "  - url: " + source("more") + "\n    interval: soon\n", "  - url\n"} {
		configure(fault)
		if err := server.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		await("was not taken")
	}
	states(3)
	configure("  - url: " + source("more") + "\n")
	if err := server.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await("configuration read again")
	if _, ok := states(1)[source("more")]; !ok {
		t.Error("the source that is left is another")
	}
	for _, namespace := range []string{"team-a", "default", "team-a"} {
		configure("  - url: " + source("more") + "\n    namespace: " + namespace + "\n")
		if err := server.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		await("configuration read again")
		if s := states(1)[source("more")]; s.Namespace != namespace {
			t.Errorf("a source that was moved to %s: %+v", namespace, s)
		}
	}
	if out := done(t, dir, "log", "-o", "json"); strings.Count(out, "predicates/config/v1") != 3+3 {
		t.Errorf("the log does not hold the namespaces of three sources and three moves of one:\n%s", out)
	}
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, stderr); err != nil {
		t.Error(err)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
}

// TestCoverageBlind takes a source away from a running watcher and gives it
// back: the time between is a blind interval.
func TestCoverageBlind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	done(t, dir, "init")
	watch := retraceCommand(t, dir, "watch", "--interval", "1s", "dir://"+filepath.ToSlash(data))
	stderr, err := watch.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	defer func() {
		if err := watch.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("the watch ended with %v", err)
		}
	}()
	failed := make(chan struct{})
	var once sync.Once
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if strings.Contains(lines.Text(), "trying again") {
				once.Do(func() { close(failed) })
			}
		}
		ended <- watch.Wait()
	}()
	for size(t, dir) < 3 { // genesis, the folder, its coverage
		time.Sleep(50 * time.Millisecond)
	}
	if err := os.Rename(data, data+".away"); err != nil {
		t.Fatal(err)
	}
	<-failed
	if err := os.Rename(data+".away", data); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; {
		out, errs, status := retrace(t, dir, "coverage")
		if status == 1 && strings.Contains(out, "BLIND: reading dir://") && strings.Contains(errs, "1 interval without sight") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("coverage after a blind interval ended with %d:\n%s%s", status, out, errs)
		}
	}
}

// freeAddress is an address on loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr())
}

func get(t *testing.T, url string, want int) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		t.Errorf("GET %s = %d, %v, want %d", url, resp.StatusCode, err, want)
	}
	return string(body)
}
