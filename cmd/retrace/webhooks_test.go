package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// serveSources starts a server that watches what a configuration says, an hour
// between reads, and returns its address and what stops it.
func serveSources(t *testing.T, dir, sources string) (address string, stop func()) {
	t.Helper()
	config := filepath.Join(dir, "retrace.yaml")
	if err := os.WriteFile(config, []byte("sources:\n"+sources), 0o600); err != nil {
		t.Fatal(err)
	}
	address = freeAddress(t)
	cmd := retraceCommand(t, dir, "serve", "--listen", address, "--config", config)
	cmd.Env = append(cmd.Env, "WEBHOOK_SECRET=s3cret")
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "the server to be ready", func() bool {
		resp, err := http.Get("http://" + address + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return address, func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server ended with %v", err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	}
}

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !so(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 30 s in vain for %s", what)
		}
	}
}

// deliver posts a delivery and returns the status.
func deliver(t *testing.T, url, body string, header map[string]string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// TestForgeWebhook pushes to a repository behind real Git over HTTP: a delivery
// signed as the forge signs it has the commit recorded long before the interval,
// one signed by somebody else is refused.
func TestForgeWebhook(t *testing.T) {
	t.Parallel()
	git := need(t, "git")
	root := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(git, args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "HOME=/nonexistent",
			"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("init", "-q", "--bare", "-b", "main", "forecast.git")
	run("clone", "-q", "forecast.git", "work")
	commit := func(text string) string {
		run("-C", "work", "commit", "-q", "--allow-empty", "-m", text)
		run("-C", "work", "push", "-q", "origin", "HEAD:main")
		return run("-C", "work", "rev-parse", "HEAD")
	}
	first := commit("first")
	web := httptest.NewServer(&cgi.Handler{Path: git, Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null"}})
	defer web.Close()

	dir := t.TempDir()
	done(t, dir, "init")
	address, stop := serveSources(t, dir, "  - url: git+"+web.URL+"/forecast.git\n    interval: 1h\n    with: {webhook: {env: WEBHOOK_SECRET}}\n")
	defer stop()
	recorded := func(commit string) bool {
		_, _, status := retrace(t, dir, "show", "git:"+commit)
		return status == 0
	}
	await(t, "the first commit", func() bool { return recorded(first) })

	second := commit("second")
	body := fmt.Sprintf(`{"ref":"refs/heads/main","after":%q,"repository":{"clone_url":"%s/forecast.git"}}`, second, web.URL)
	sign := func(secret string) map[string]string {
		h := hmac.New(sha256.New, []byte(secret))
		h.Write([]byte(body))
		return map[string]string{"Content-Type": "application/json", "X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256=" + hex.EncodeToString(h.Sum(nil))}
	}
	if status := deliver(t, "http://"+address+"/webhooks/github", body, sign("wrong")); status != http.StatusForbidden {
		t.Errorf("a forged delivery = %d, want 403", status)
	}
	time.Sleep(time.Second)
	if recorded(second) {
		t.Error("a forged delivery had the source read")
	}
	if status := deliver(t, "http://"+address+"/webhooks/github", body, sign("s3cret")); status != http.StatusAccepted {
		t.Errorf("a delivery = %d, want 202", status)
	}
	await(t, "the commit that a delivery told of", func() bool { return recorded(second) })
}

// need is the path of a program; without it the test is skipped.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return path
}

// serveRegistry runs the CNCF's registry until the test ends; it lets images be
// deleted.
func serveRegistry(t *testing.T, host, more string) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "registry.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: %s}\n%s", filepath.Join(dir, "images"), host, more), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), need(t, "docker-registry"), "serve", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	await(t, "the registry", func() bool {
		resp, err := http.Get("http://" + host + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// TestRegistryNotifications has the CNCF's registry tell of a push.
func TestRegistryNotifications(t *testing.T) {
	t.Parallel()
	need(t, "docker-registry")
	dir := t.TempDir()
	done(t, dir, "init")
	host := freeAddress(t)
	address, stop := serveSources(t, dir, "  - url: oci://"+host+"/ml/trainer\n    interval: 1h\n    with: {webhook: {env: WEBHOOK_SECRET}}\n")
	defer stop()
	serveRegistry(t, host, fmt.Sprintf(`notifications:
  endpoints:
    - {name: retrace, url: "http://%s/webhooks/registry", headers: {Authorization: [Bearer s3cret]}, timeout: 5s, threshold: 3, backoff: 1s}
`, address))
	image, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(host+"/ml/trainer:v1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the image that the registry told of", func() bool {
		_, _, status := retrace(t, dir, "show", digest.String())
		return status == 0
	})
}

// TestCloudEventWakes delivers events about a folder that is watched: only one
// that names it has it looked at, long before the interval.
func TestCloudEventWakes(t *testing.T) {
	t.Parallel()
	dir, data := t.TempDir(), t.TempDir()
	done(t, dir, "init")
	address, stop := serveSources(t, dir, "  - url: dir://"+data+"\n    interval: 1h\n")
	defer stop()
	recorded := func() int { return strings.Count(done(t, dir, "log"), "snapshot") }
	await(t, "the first look", func() bool { return recorded() == 1 })
	if err := os.WriteFile(filepath.Join(data, "new.csv"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(done(t, dir, "tokens", "create", "bucket", "--role", "recorder"))
	send := func(source, authorization string) int {
		return deliver(t, "http://"+address+"/webhooks/cloudevents", `{"key":"new.csv"}`, map[string]string{
			"Content-Type": "application/json", "Authorization": authorization, "ce-specversion": "1.0", "ce-id": "1", "ce-type": "com.example.object.created", "ce-source": source,
		})
	}
	if status := send("dir://"+data, "Bearer wrong"); status != http.StatusUnauthorized {
		t.Errorf("with a wrong token: status %d", status)
	}
	if status := send("dir:///elsewhere", "Bearer "+token); status != http.StatusUnprocessableEntity {
		t.Errorf("about something else: status %d", status)
	}
	if n := recorded(); n != 1 {
		t.Errorf("%d snapshots before an event about the folder", n)
	}
	if status := send("dir://"+data, "Bearer "+token); status != http.StatusOK {
		t.Errorf("about the folder: status %d", status)
	}
	await(t, "the second look", func() bool { return recorded() == 2 })
}

func TestBareURL(t *testing.T) {
	const want = "https://git.example.com/ml/forecast"
	for _, u := range []string{want, want + ".git", want + "/", "git+" + want + ".git"} {
		if got := bareURL(u); got != want {
			t.Errorf("bareURL(%q) = %q, want %q", u, got, want)
		}
	}
}
