package server_test

import (
	"context"
	"iter"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/server"
	"github.com/retrace-ledger/retrace/verify"
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

// slowLedger gives no entries before it is released.
type slowLedger struct {
	*ledger.Ledger
	released chan struct{}
}

func (l slowLedger) Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error] {
	return func(yield func(schema.Entry, error) bool) {
		select {
		case <-l.released:
			l.Ledger.Entries(ctx, from)(yield)
		case <-ctx.Done():
			yield(schema.Entry{}, ctx.Err())
		}
	}
}

// TestServeBeforeTheGraph asks a server whose graph is far behind.
func TestServeBeforeTheGraph(t *testing.T) {
	made := ledgertest.New(t)
	log := slowLedger{made.Ledger, make(chan struct{})}
	graph, err := lineage.Open(t.TempDir(), log, verify.Signers, verify.Trusted)
	if err != nil {
		t.Fatal(err)
	}
	defer graph.Close()
	s, err := server.New(t.TempDir(), log, graph, &server.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := server.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, listener) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	}()
	w := &world{t: t, url: "http://" + listener.Addr().String()}
	if status, body := w.call("GET", "/readyz", ""); status != 503 || !strings.Contains(body, "followed 0 of 1 entries so far") {
		t.Errorf("/readyz = %d %q, want 503", status, body)
	}
	if status, body := w.call("GET", "/checkpoint", ""); status != 200 {
		t.Errorf("/checkpoint = %d %q, want 200", status, body)
	}
	close(log.released)
	if err := graph.Wait(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if status, body := w.call("GET", "/readyz", ""); status != 200 {
		t.Errorf("/readyz = %d %q, want 200", status, body)
	}
}
