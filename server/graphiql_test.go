package server_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"

	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/server"
)

// TestGraphiQL serves the page and its parts from the binary alone.
func TestGraphiQL(t *testing.T) {
	w := newWorld(t, server.Options{})
	for path, want := range map[string]string{"/graphiql": `src="/graphiql/index.js"`, "/graphiql/index.js": "graphql-transport-ws", "/graphiql/index.css": ".graphiql-container"} {
		status, body, header := w.callFull("GET", path, "")
		if status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s = %d, %d bytes without %s", path, status, len(body), want)
		}
		if policy := header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; script-src 'self';") {
			t.Errorf("%s may load from elsewhere: %s", path, policy)
		}
	}
	if status, _ := w.call("GET", "/graphiql/package.json", ""); status != 404 {
		t.Errorf("/graphiql/package.json = %d", status)
	}
}

// TestSocketThroughServer subscribes as the page does, through everything that is
// in front of the API.
func TestSocketThroughServer(t *testing.T) {
	w := newWorld(t, server.Options{})
	conn, _, err := websocket.Dial(t.Context(), "ws://127.0.0.1:"+w.port()+"/graphql", &websocket.DialOptions{
		Subprotocols: []string{"graphql-transport-ws"}, HTTPHeader: map[string][]string{"Origin": {"http://127.0.0.1:" + w.port()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	type message struct {
		ID      string         `json:"id,omitempty"`
		Type    string         `json:"type"`
		Payload map[string]any `json:"payload,omitempty"`
	}
	for _, m := range []message{{Type: "connection_init"}, {ID: "1", Type: "subscribe", Payload: map[string]any{"query": "subscription { entries(after: 0) { index } }"}}} {
		if err := wsjson.Write(t.Context(), conn, m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.client.Append(t.Context(), schema.Batch{Source: "s", Envelopes: []schema.Envelope{ledgertest.Claim(t, "one")}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"connection_ack", "next"} {
		var m message
		if err := wsjson.Read(t.Context(), conn, &m); err != nil || m.Type != want {
			t.Fatalf("%+v, %v; want %s", m, err, want)
		}
	}
	_, resp, err := websocket.Dial(t.Context(), "ws://127.0.0.1:"+w.port()+"/graphql", &websocket.DialOptions{HTTPHeader: map[string][]string{"Origin": {"http://evil.example"}}})
	if err == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("a page of another site opened a socket: %v", err)
	}
}
