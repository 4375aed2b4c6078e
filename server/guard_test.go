package server_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/server"
)

func TestStrangersAreRefused(t *testing.T) {
	w := newWorld(t, server.Options{})
	port := w.port()
	tests := []struct {
		name    string
		headers []string
		want    int
	}{
		{"plain", nil, 200},
		{"localhost", []string{"Host: localhost:" + port}, 200},
		{"upper case", []string{"Host: LOCALHOST:" + port}, 200},
		{"ipv6 loopback name", []string{"Host: [::1]:" + port}, 200},
		{"own origin", []string{"Origin: " + w.url}, 200},
		{"same-origin fetch", []string{"Sec-Fetch-Site: same-origin"}, 200},
		{"typed into the browser", []string{"Sec-Fetch-Site: none"}, 200},
		{"rebound name", []string{"Host: evil.example:" + port}, 403},
		{"name that begins like ours", []string{"Host: localhost.evil.example:" + port}, 403},
		{"other port", []string{"Host: 127.0.0.1:1"}, 403},
		{"no port", []string{"Host: 127.0.0.1"}, 403},
		{"other origin", []string{"Origin: http://evil.example"}, 403},
		{"origin on another port", []string{"Origin: http://127.0.0.1:1"}, 403},
		{"null origin", []string{"Origin: null"}, 403},
		{"cross-site fetch", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"}, 403},
		{"token does not help a stranger", []string{"Host: evil.example:" + port, w.bearer()}, 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, path := range []string{"/healthz", "/checkpoint", "/v1/entries"} {
				if got, body := w.call("GET", path, "", tt.headers...); got != tt.want {
					t.Errorf("GET %s with %v = %d %s, want %d", path, tt.headers, got, body, tt.want)
				}
			}
		})
	}
	if got, _ := w.call("GET", "/", "", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"); got != 200 {
		t.Errorf("following a link to the page = %d, want 200", got)
	}
}

// TestTokenIsNeeded tries everything that writes, restores or reads content
// with no token and with wrong ones.
func TestTokenIsNeeded(t *testing.T) {
	w := newWorld(t, server.Options{})
	key := "sha256:" + strings.Repeat("0", 64)
	guarded := []struct{ method, path string }{
		{"POST", "/v1/statements"},
		{"GET", "/v1/cursor?source=x"},
		{"GET", "/v1/content/" + key},
		{"HEAD", "/v1/content/" + key},
		{"PUT", "/v1/content/" + key},
		{"PUT", "/v1/content/" + key + "/alias?target=" + key},
		{"GET", "/v1/restorations/x.tar"},
	}
	token := w.server.Token()
	for _, g := range guarded {
		for _, auth := range []string{"", "Bearer", "Bearer x", "Basic " + token, "Bearer " + token + "x", "Bearer " + token[:len(token)-1], token} {
			got, body, h := w.callFull(g.method, g.path, "{}", asJSON, "Authorization: "+auth)
			if got != http.StatusUnauthorized || h.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%s %s with authorization %q = %d %s, want 401", g.method, g.path, auth, got, body)
			}
			if strings.Contains(body, token) {
				t.Errorf("%s %s: the answer holds the token", g.method, g.path)
			}
		}
	}
	if w.Size() != 1 {
		t.Errorf("the ledger has %d entries, want genesis alone", w.Size())
	}
}

func TestListenRefusesOtherAddresses(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "192.0.2.1:8470", "example.com:80", "[::]:0", "nonsense", "127.0.0.1"} {
		l, err := server.Listen(t.Context(), address)
		if err == nil {
			l.Close()
			t.Errorf("Listen(%q) succeeded", address)
		}
	}
	for _, address := range []string{"127.0.0.1:0", "localhost:0"} {
		l, err := server.Listen(t.Context(), address)
		if err != nil {
			t.Errorf("Listen(%q): %v", address, err)
			continue
		}
		l.Close()
	}
}

func TestAddressFile(t *testing.T) {
	w := newWorld(t, server.Options{})
	name := filepath.Join(w.dir, client.AddressFile)
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("%s has mode %04o, want 0600", name, got)
	}
	c, err := client.Discover(t.Context(), w.dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.Address() != w.url {
		t.Errorf("discovered %s, want %s", c.Address(), w.url)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(name); !os.IsNotExist(err) {
		t.Errorf("after the server stopped, %s: %v, want it gone", name, err)
	}
}

func TestPagesAndHealth(t *testing.T) {
	w := newWorld(t, server.Options{})
	for path, want := range map[string]string{
		"/":           "retrace.example/test",
		"/healthz":    "ok",
		"/readyz":     "1 of 1 entries",
		"/metrics":    "retrace_entries 1",
		"/checkpoint": "retrace.example/test\n1\n",
	} {
		if got, body := w.call("GET", path, ""); got != 200 || !strings.Contains(body, want) {
			t.Errorf("GET %s = %d %.200s, want 200 and %q", path, got, body, want)
		}
	}
	got, body := w.call("GET", "/nothing", "")
	if got != 404 || problem(t, body).Code != "NOT_FOUND" {
		t.Errorf("GET /nothing = %d %s, want a problem of status 404", got, body)
	}
	if got, _ := w.call("DELETE", "/v1/statements", "", w.bearer()); got != 405 && got != 404 {
		t.Errorf("DELETE /v1/statements = %d, want it refused", got)
	}
}
