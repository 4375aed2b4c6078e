package git

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
)

func signatureOf(body, secret string) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(body))
	return hex.EncodeToString(h.Sum(nil))
}

// TestHook takes deliveries of each forge that are about the repository and
// signed with its secret, and no others.
func TestHook(t *testing.T) {
	t.Setenv("WEBHOOK_SECRET", "s3cret")
	src, _, err := Open(t.Context(), ingest.Place{URL: "git+https://git.example.com/ml/Forecast", With: []byte(`{"webhook":{"env":"WEBHOOK_SECRET"}}`)}, ingest.Env{})
	if err != nil {
		t.Fatal(err)
	}
	hooked := src.(ingest.Hooked)
	const (
		github = `{"ref":"refs/heads/main","repository":{"clone_url":"https://git.example.com/ml/forecast.git","ssh_url":"git@git.example.com:ml/forecast.git"}}`
		gitlab = `{"object_kind":"push","project":{"git_http_url":"https://git.example.com/ml/forecast.git","git_ssh_url":"git@git.example.com:ml/forecast.git"}}`
		other  = `{"repository":{"clone_url":"https://git.example.com/ml/other.git"}}`
		ssh    = `{"repository":{"ssh_url":"ssh://git@git.example.com:2222/ml/forecast.git"}}`
	)
	form := "payload=" + url.QueryEscape(github)
	for _, c := range []struct {
		what, hook string
		header     map[string]string
		body       string
		want       bool
		err        error
	}{
		{"github", "github", map[string]string{"X-Hub-Signature-256": "sha256=" + signatureOf(github, "s3cret")}, github, true, nil},
		{"github as a form", "github", map[string]string{"X-Hub-Signature-256": "sha256=" + signatureOf(form, "s3cret"), "Content-Type": "application/x-www-form-urlencoded"}, form, true, nil},
		{"github, wrong secret", "github", map[string]string{"X-Hub-Signature-256": "sha256=" + signatureOf(github, "wrong")}, github, false, ingest.ErrForged},
		{"github, unsigned", "github", nil, github, false, ingest.ErrForged},
		{"github, signed with nothing", "github", map[string]string{"X-Hub-Signature-256": "sha256=" + signatureOf(github, "")}, github, false, ingest.ErrForged},
		{"github with a token of gitlab", "github", map[string]string{"X-Gitlab-Token": "s3cret"}, github, false, ingest.ErrForged},
		{"gitlab", "gitlab", map[string]string{"X-Gitlab-Token": "s3cret"}, gitlab, true, nil},
		{"gitlab, wrong token", "gitlab", map[string]string{"X-Gitlab-Token": "s3cre"}, gitlab, false, ingest.ErrForged},
		{"gitea", "gitea", map[string]string{"X-Gitea-Signature": signatureOf(ssh, "s3cret")}, ssh, true, nil},
		{"another repository", "github", map[string]string{"X-Hub-Signature-256": "sha256=" + signatureOf(other, "s3cret")}, other, false, nil},
		{"another hook", "registry", nil, github, false, nil},
		{"no JSON", "github", nil, "ping", false, nil},
	} {
		header := http.Header{}
		for k, v := range c.header {
			header.Set(k, v)
		}
		got, err := hooked.Hook(c.hook, header, []byte(c.body))
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %t, %v; want %t, %v", c.what, got, err, c.want, c.err)
		}
	}
	src, _, err = Open(t.Context(), ingest.Place{URL: "git+https://git.example.com/ml/forecast"}, ingest.Env{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := src.(ingest.Hooked).Hook("github", http.Header{}, []byte(github)); got || err != nil {
		t.Errorf("a source without a secret takes a delivery: %t, %v", got, err)
	}
}

// FuzzHook takes deliveries of anything.
func FuzzHook(f *testing.F) {
	l, err := parseURL("git+https://git.example.com/ml/forecast")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("github", "", `{"repository":{"clone_url":"https://git.example.com/ml/forecast.git"}}`)
	f.Add("gitea", "application/x-www-form-urlencoded", "payload=%7B%7D")
	f.Add("gitlab", "", `{"project":{"git_ssh_url":"git@git.example.com:ml/forecast.git"}}`)
	f.Fuzz(func(t *testing.T, name, contentType, body string) {
		header := http.Header{"Content-Type": {contentType}}
		var d delivery
		if json.Unmarshal(payload(header, []byte(body)), &d) == nil {
			for _, address := range append(d.Repository.all(), d.Project.all()...) {
				l.is(address)
			}
		}
		if signedBy(name, header, []byte(body), "secret") {
			t.Errorf("a delivery without a signature passes")
		}
	})
}

// TestSettings refuses settings that would be ignored, and names them.
func TestSettings(t *testing.T) {
	for with, field := range map[string]string{
		`{"sshKey":"k"}`: "sshKey", `{"knownHosts":"k"}`: "knownHosts", `{"username":"ada"}`: "username", `{"colour":1}`: "colour", `{"token":"abc"}`: "token",
	} {
		_, _, err := Open(t.Context(), ingest.Place{URL: "git+https://git.example.com/ml/forecast", With: []byte(with)}, ingest.Env{})
		var setting *ingest.SettingError
		if !errors.As(err, &setting) || setting.Field != field {
			t.Errorf("with %s: %v, want what is wrong with %s", with, err, field)
		}
	}
	_, _, err := Open(t.Context(), ingest.Place{URL: "git+ssh://git.example.com/ml/forecast", With: []byte(`{"token":{"env":"T"}}`)}, ingest.Env{})
	if setting := (*ingest.SettingError)(nil); !errors.As(err, &setting) {
		t.Errorf("a token for SSH: %v", err)
	}
}

// TestToken reads, and fetches from, a server that wants a token, which is
// exchanged meanwhile.
func TestToken(t *testing.T) {
	root := t.TempDir()
	initRepository(t, filepath.Join(root, "repo"))
	git, err := exec.LookPath("git")
	if err != nil {
		skipTest(t, "git not installed")
	}
	token := "first"
	backend := &cgi.Handler{Path: git, Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "ada" || password != token {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, "first\n")
	with, err := json.Marshal(map[string]any{"username": "ada", "token": map[string]string{"file": file}})
	if err != nil {
		t.Fatal(err)
	}
	place := ingest.Place{URL: "git+" + server.URL + "/repo", With: with}
	src, name, err := Open(t.Context(), place, ingest.Env{})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(name, "first") || strings.Contains(name, "ada") {
		t.Errorf("the name of the source holds credentials: %s", name)
	}
	read := func() error {
		for _, err := range src.Observe(t.Context(), "") {
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := read(); err != nil {
		t.Errorf("with the token: %v", err)
	}
	token = "second"
	if err := read(); err == nil || strings.Contains(err.Error(), "first") {
		t.Errorf("with the old token: %v; want an error that does not hold it", err)
	}
	write(t, file, "second\n")
	if err := read(); err != nil {
		t.Errorf("with the new token: %v", err)
	}
}
