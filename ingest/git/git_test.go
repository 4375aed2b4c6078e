package git

import (
	"bytes"
	"context"
	"fmt"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/ingesttest"
	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
)

// skip skips a test that needs something installed, or fails it where nothing
// may be skipped.
func skipTest(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// runGit runs git in dir, away from the configuration of whoever tests.
func runGit(t testing.TB, dir string, stdin string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		skipTest(t, "git not installed")
	}
	cmd := exec.CommandContext(context.Background(), "git", args...)
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "HOME=/nonexistent",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_AUTHOR_DATE=1700000000 +0100",
		"GIT_COMMITTER_NAME=Bob", "GIT_COMMITTER_EMAIL=bob@example.com", "GIT_COMMITTER_DATE=1700000001 +0100")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// newRepository makes a repository with a worktree and one commit on main.
func newRepository(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	initRepository(t, dir)
	return dir
}

func initRepository(t testing.TB, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	runGit(t, dir, "", "init", "-q", "-b", "main")
	commit(t, dir, "first")
}

// commit writes a file and commits it, and returns the commit.
func commit(t testing.TB, dir, name string) string {
	t.Helper()
	write(t, filepath.Join(dir, name), name+"\n")
	runGit(t, dir, "", "add", "-A")
	runGit(t, dir, "", "commit", "-q", "--allow-empty", "-m", "add "+name)
	return runGit(t, dir, "", "rev-parse", "HEAD")
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// newHistory makes a repository with a merge, branches and tags of both kinds,
// and files of every type: a copy of one that is made once.
func newHistory(t testing.TB) string {
	t.Helper()
	history.once.Do(func() { makeHistory(t, filepath.Join(history.dir, "repo")) })
	dir := filepath.Join(t.TempDir(), "repo")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(history.dir, "repo"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// history is where newHistory copies from.
var history struct {
	once sync.Once
	dir  string
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "retrace-git-test-")
	if err != nil {
		panic(err)
	}
	history.dir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func makeHistory(t testing.TB, dir string) {
	initRepository(t, dir)
	for i := range 4 {
		commit(t, dir, fmt.Sprintf("main-%d", i))
	}
	runGit(t, dir, "", "checkout", "-q", "-b", "feature/x", "HEAD~2")
	write(t, filepath.Join(dir, "deep/er/file.txt"), "crlf\r\n$Id$\n")
	write(t, filepath.Join(dir, ".gitattributes"), "*.txt text eol=crlf ident\n")
	write(t, filepath.Join(dir, "run.sh"), "#!/bin/sh\n")
	if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("deep/er", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	commit(t, dir, "feature")
	runGit(t, dir, "", "checkout", "-q", "main")
	runGit(t, dir, "", "merge", "-q", "--no-ff", "-m", "merge", "feature/x")
	runGit(t, dir, "", "tag", "-a", "-m", "one", "v1")
	runGit(t, dir, "", "tag", "light", "HEAD~1")
}

func open(t testing.TB, rawURL string, env ingest.Env) ingest.Source {
	t.Helper()
	src, _, err := Open(t.Context(), ingest.Place{URL: rawURL}, env)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func TestKindLocal(t *testing.T) {
	ingesttest.Test(t, func(t *testing.T) *ingesttest.World {
		dir := newHistory(t)
		return &ingesttest.World{
			Open:    func(t *testing.T) ingest.Source { return open(t, "git+file://"+dir, ingest.Env{}) },
			Change:  func(t *testing.T) { change(t, dir) },
			Break:   func(t *testing.T) { remove(t, dir) },
			Fetcher: NewFetcher(ingest.Env{}),
		}
	})
}

func TestKindBare(t *testing.T) {
	ingesttest.Test(t, func(t *testing.T) *ingesttest.World {
		dir := newHistory(t)
		bare := filepath.Join(t.TempDir(), "bare.git")
		runGit(t, dir, "", "clone", "-q", "--bare", dir, bare)
		return &ingesttest.World{
			Open: func(t *testing.T) ingest.Source { return open(t, "git+file://"+bare, ingest.Env{}) },
			Change: func(t *testing.T) {
				change(t, dir)
				runGit(t, bare, "", "fetch", "-q", "--prune", "--force", dir, "+refs/*:refs/*")
			},
			Break:   func(t *testing.T) { remove(t, bare) },
			Fetcher: NewFetcher(ingest.Env{}),
		}
	})
}

func TestKindHTTP(t *testing.T) {
	for name, cached := range map[string]bool{"Cache": true, "NoCache": false} {
		t.Run(name, func(t *testing.T) {
			ingesttest.Test(t, func(t *testing.T) *ingesttest.World {
				dir := newHistory(t)
				server := serve(t, filepath.Dir(dir))
				env := ingest.Env{}
				if cached {
					env.Cache = t.TempDir()
				}
				return &ingesttest.World{
					Open:    func(t *testing.T) ingest.Source { return open(t, "git+"+server.URL+"/repo", env) },
					Change:  func(t *testing.T) { change(t, dir) },
					Break:   func(t *testing.T) { remove(t, dir) },
					Fetcher: NewFetcher(env),
				}
			})
		})
	}
}

// change moves main on, rewrites a branch, moves a tag and removes another.
func change(t testing.TB, dir string) {
	commit(t, dir, "changed")
	runGit(t, dir, "", "branch", "-f", "feature/x", "HEAD~1")
	runGit(t, dir, "", "tag", "-f", "-a", "-m", "again", "v1")
	runGit(t, dir, "", "tag", "-d", "light")
}

func remove(t testing.TB, dir string) {
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

// serve is git's own HTTP server over the repositories below root.
func serve(t testing.TB, root string) *httptest.Server {
	t.Helper()
	backend := filepath.Join(runGit(t, root, "", "--exec-path"), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		skipTest(t, "git-http-backend not installed")
	}
	server := httptest.NewServer(&cgi.Handler{
		Path:   backend,
		Env:    []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
		Stderr: new(bytes.Buffer),
	})
	t.Cleanup(server.Close)
	return server
}

// watched is a repository that is read again and again into one log.
type watched struct {
	dir    string
	runner *ingest.Runner
	log    *ingesttest.Log
	name   string
	skips  []ingest.Skip
}

func watch(t testing.TB, dir, query string) *watched {
	t.Helper()
	key, err := keys.FromSeed(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	src, name, err := Open(t.Context(), ingest.Place{URL: "git+file://" + dir + query}, ingest.Env{})
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{dir: dir, log: new(ingesttest.Log), name: name}
	w.runner = ingest.NewRunner(src, name, w.log, key, &ingest.Options{Skipped: func(s ingest.Skip) { w.skips = append(w.skips, s) }})
	return w
}

// once reads what there is.
func (w *watched) once(t testing.TB) ingest.Progress {
	t.Helper()
	p, err := w.runner.Once(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// refFact is a ref statement with its subject and its own digest.
type refFact struct {
	schema.Ref
	Commit string
	Digest string
}

func (w *watched) refs(t testing.TB) []refFact {
	t.Helper()
	var facts []refFact
	for _, payload := range w.payloads(t, schema.RefV1) {
		s := parse(t, payload)
		f := refFact{Commit: s.Subject[0].Digest[schema.GitCommit], Digest: schema.BytesKey([]byte(payload)).Hex()}
		if err := json.Unmarshal(s.Predicate, &f.Ref); err != nil {
			t.Fatal(err)
		}
		facts = append(facts, f)
	}
	return facts
}

// commits are the commit predicates by commit.
func (w *watched) commits(t testing.TB) map[string]schema.Commit {
	t.Helper()
	facts := map[string]schema.Commit{}
	for _, payload := range w.payloads(t, schema.CommitV1) {
		s := parse(t, payload)
		var c schema.Commit
		if err := json.Unmarshal(s.Predicate, &c); err != nil {
			t.Fatal(err)
		}
		facts[s.Subject[0].Digest[schema.GitCommit]] = c
	}
	return facts
}

func (w *watched) payloads(t testing.TB, predicateType string) []string {
	t.Helper()
	payloads, err := w.log.Payloads(predicateType)
	if err != nil {
		t.Fatal(err)
	}
	return payloads
}

func parse(t testing.TB, payload string) schema.Statement {
	t.Helper()
	s, err := schema.ParseStatement([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
