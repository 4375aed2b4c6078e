package server_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/server"
	"github.com/retrace-ledger/retrace/verify"
)

// world is a running server and what it serves.
type world struct {
	*ledgertest.World
	t      *testing.T
	dir    string
	url    string
	server *server.Server
	client *client.Client
	store  *content.Store
	graph  *lineage.Graph
	stop   func() error // stops the server and says how it ended
}

func newWorld(t *testing.T, opt server.Options) *world {
	t.Helper()
	w := &world{World: ledgertest.New(t), t: t, dir: t.TempDir()}
	ctx := t.Context()
	graph, err := lineage.Open(filepath.Join(w.dir, "lineage"), w.Ledger, verify.Signers, verify.Trusted)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := graph.Close(); err != nil {
			t.Error(err)
		}
	})
	w.graph = graph
	if w.store, err = content.Open(ctx, filepath.Join(w.dir, "content"), &content.Options{Exclude: []string{w.dir}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.store.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	w.start(opt)
	return w
}

// again is a world with another server of the same ledger; the one before was
// stopped.
func (w *world) again(t *testing.T, opt server.Options) *world {
	t.Helper()
	next := &world{World: w.World, t: t, dir: w.dir, store: w.store, graph: w.graph}
	next.start(opt)
	return next
}

// start begins to serve the ledger.
func (w *world) start(opt server.Options) {
	w.t.Helper()
	t, ctx := w.t, w.t.Context()
	opt.Content = w.store
	opt.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	var err error
	if w.server, err = server.New(w.dir, w.Ledger, w.graph, &opt); err != nil {
		t.Fatal(err)
	}
	listener, err := server.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.url = "http://" + listener.Addr().String()
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- w.server.Run(run, listener) }()
	var stopped bool
	w.stop = func() error {
		cancel()
		if stopped {
			return nil
		}
		stopped = true
		return <-ended
	}
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	if w.client, err = client.New(w.url, w.server.Token()); err != nil {
		t.Fatal(err)
	}
	if err := w.graph.Wait(ctx, 1); err != nil {
		t.Fatal(err)
	}
}

// call sends a request with headers given as "Name: value" and returns the
// status and body.
func (w *world) call(method, path, body string, headers ...string) (int, string) {
	w.t.Helper()
	status, got, _ := w.callFull(method, path, body, headers...)
	return status, got
}

func (w *world) callFull(method, path, body string, headers ...string) (int, string, http.Header) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(raw), resp.Header
}

func (w *world) bearer() string { return "Authorization: Bearer " + w.server.Token() }

const asJSON = "Content-Type: application/json"

func (w *world) port() string {
	w.t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	return port
}

func problem(t *testing.T, body string) client.Problem {
	t.Helper()
	var p client.Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("%q is not a problem: %v", body, err)
	}
	return p
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}
