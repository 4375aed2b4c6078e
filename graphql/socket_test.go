package graphql_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

// socket is a client of graphql-transport-ws.
type socket struct {
	t    *testing.T
	conn *websocket.Conn
}

type message struct {
	ID      string          `json:"id,omitempty"`
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// dial opens a socket to the API of w, and introduces itself.
func (w *world) dial(t *testing.T) *socket {
	t.Helper()
	server := httptest.NewServer(w.api)
	t.Cleanup(func() {
		server.Close()
		w.api.Drain()
	})
	conn, _, err := websocket.Dial(t.Context(), server.URL, &websocket.DialOptions{Subprotocols: []string{"graphql-transport-ws"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	s := &socket{t, conn}
	s.send(message{Type: "connection_init"})
	s.want("connection_ack", "")
	return s
}

func (s *socket) send(m message) {
	s.t.Helper()
	if err := wsjson.Write(s.t.Context(), s.conn, m); err != nil {
		s.t.Fatal(err)
	}
}

func (s *socket) subscribe(id, query string) {
	s.t.Helper()
	payload, err := json.Marshal(map[string]string{"query": query})
	if err != nil {
		s.t.Fatal(err)
	}
	s.send(message{ID: id, Type: "subscribe", Payload: payload})
}

// want reads a message of a type about an operation, and returns its payload.
func (s *socket) want(typ, id string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	var m message
	if err := wsjson.Read(ctx, s.conn, &m); err != nil {
		s.t.Fatalf("waiting for %s: %v", typ, err)
	}
	if m.Type != typ || m.ID != id {
		s.t.Fatalf("%s of %q with %s, want %s of %q", m.Type, m.ID, m.Payload, typ, id)
	}
	return string(m.Payload)
}

func TestSocket(t *testing.T) {
	w := newWorld(t, nil)
	w.story()
	s := w.dial(t)
	// A query has one answer.
	s.subscribe("q", `{ entry(index: 1) { index } }`)
	if got := s.want("next", "q"); !strings.HasPrefix(got, `{"data":{"entry":{"index":1}},"extensions":{"size":8,"checkpoint":"`) {
		t.Errorf("a query gives %s", got)
	}
	s.want("complete", "q")
	// A subscription begins where it is told and goes on with what is recorded.
	s.subscribe("s", `subscription { entries(after: 5) { index summary } }`)
	for _, want := range []string{`{"data":{"entries":{"index":6,"summary":"forecast@2"}},`, `{"data":{"entries":{"index":7,`} {
		if got := s.want("next", "s"); !strings.HasPrefix(got, want) {
			t.Errorf("entries gives %s, want %s", got, want)
		}
	}
	s.send(message{Type: "ping"})
	s.want("pong", "")
	w.record(w.model("late", "1", "train-2", file("weights.bin", "weights 2")))
	if got := s.want("next", "s"); !strings.HasPrefix(got, `{"data":{"entries":{"index":8,"summary":"late@1"}},"extensions":{"size":9}`) {
		t.Errorf("a new entry gives %s", got)
	}
	// Two at a time, one of them from the next entry on; then neither.
	s.subscribe("t", `subscription { entries { index } }`)
	s.send(message{ID: "s", Type: "complete"})
	s.send(message{Type: "ping"})
	s.want("pong", "")
	w.record(w.model("late", "2", "train-2", file("weights.bin", "weights 2")))
	if got := s.want("next", "t"); !strings.HasPrefix(got, `{"data":{"entries":{"index":9}}`) {
		t.Errorf("from the next entry on: %s", got)
	}
	s.send(message{ID: "t", Type: "complete"})
	s.subscribe("t", `subscription { entries(after: -1) { index } }`) // the id is free again
	for i := range 10 {
		if got := s.want("next", "t"); !strings.HasPrefix(got, fmt.Sprintf(`{"data":{"entries":{"index":%d}}`, i)) {
			t.Errorf("from the first on: %s", got)
		}
	}
	s.send(message{ID: "t", Type: "complete"})
	for id, query := range map[string]string{
		"no syntax": "subscription {", "no field": "subscription { nothing }", "beyond": "subscription { entries(after: 1000) { index } }",
		"nobody": `subscription { restoration(id: "x") { state } }`, "deep": `{ ` + strings.Repeat("a { ", 50) + strings.Repeat("}", 51),
	} {
		s.subscribe(id, query)
		if got := s.want("error", id); !strings.Contains(got, `"code":`) {
			t.Errorf("%s gives %s", id, got)
		}
	}
}

// TestSocketRefuses closes with the code that the protocol says.
func TestSocketRefuses(t *testing.T) {
	w := newWorld(t, nil)
	w.story()
	for name, c := range map[string]struct {
		send []string
		code websocket.StatusCode
	}{
		"no init":      {[]string{`{"id":"a","type":"subscribe","payload":{"query":"{ checkpoint { size } }"}}`}, 4401},
		"no JSON":      {[]string{`connection_init`}, 4400},
		"two inits":    {[]string{`{"type":"connection_init"}`, `{"type":"connection_init"}`}, 4429},
		"unknown":      {[]string{`{"type":"connection_init"}`, `{"type":"start","id":"a"}`}, 4400},
		"no id":        {[]string{`{"type":"connection_init"}`, `{"type":"subscribe","payload":{"query":"{ checkpoint { size } }"}}`}, 4400},
		"no query":     {[]string{`{"type":"connection_init"}`, `{"type":"subscribe","id":"a","payload":{}}`}, 4400},
		"same id":      {[]string{`{"type":"connection_init"}`, sub("a"), sub("a")}, 4409},
		"too many":     {append([]string{`{"type":"connection_init"}`}, subs(65)...), websocket.StatusPolicyViolation},
		"too large":    {[]string{`{"type":"connection_init"}`, strings.Repeat(" ", 13<<20)}, websocket.StatusMessageTooBig},
		"server stops": {nil, websocket.StatusGoingAway},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			server := httptest.NewUnstartedServer(w.api)
			server.Config.BaseContext = baseContext(ctx)
			server.Start()
			defer w.api.Drain()
			defer server.Close()
			conn, _, err := websocket.Dial(t.Context(), server.URL, &websocket.DialOptions{Subprotocols: []string{"graphql-transport-ws"}})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			conn.SetReadLimit(-1)
			if c.send == nil {
				cancel()
			}
			for _, m := range c.send {
				if err := conn.Write(t.Context(), websocket.MessageText, []byte(m)); err != nil {
					break // it is closed already
				}
			}
			for err == nil {
				_, _, err = conn.Read(t.Context())
			}
			if got := websocket.CloseStatus(err); got != c.code {
				t.Errorf("closed with %d (%v), want %d", got, err, c.code)
			}
		})
	}
	// Another site's page is refused, and so is a client of another protocol.
	server := httptest.NewServer(w.api)
	defer server.Close()
	_, resp, err := websocket.Dial(t.Context(), server.URL, &websocket.DialOptions{Subprotocols: []string{"graphql-transport-ws"}, HTTPHeader: map[string][]string{"Origin": {"http://evil.example"}}})
	if err == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("from another site: %v", err)
	}
	conn, _, err := websocket.Dial(t.Context(), server.URL, &websocket.DialOptions{Subprotocols: []string{"graphql-ws"}})
	if err == nil {
		_, _, err = conn.Read(t.Context())
	}
	if websocket.CloseStatus(err) != websocket.StatusProtocolError {
		t.Errorf("of another protocol: %v", err)
	}
}

func sub(id string) string {
	return `{"id":"` + id + `","type":"subscribe","payload":{"query":"subscription { entries { index } }"}}`
}

func subs(n int) []string {
	var all []string
	for i := range n {
		all = append(all, sub(fmt.Sprint(i)))
	}
	return all
}

// TestSocketsEnd leaves nothing behind: neither where callers go without a word
// nor where they subscribe and go.
func TestSocketsEnd(t *testing.T) {
	w := newWorld(t, nil)
	w.story()
	server := httptest.NewServer(w.api)
	defer server.Close()
	for range 20 {
		conn, _, err := websocket.Dial(t.Context(), server.URL, &websocket.DialOptions{Subprotocols: []string{"graphql-transport-ws"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []string{`{"type":"connection_init"}`, sub("a"), sub("b")} {
			if err := conn.Write(t.Context(), websocket.MessageText, []byte(m)); err != nil {
				t.Fatal(err)
			}
		}
		conn.CloseNow()
	}
	drained := make(chan struct{})
	go func() { w.api.Drain(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(10 * time.Second):
		t.Error("sockets whose callers are gone are still open")
	}
}

// TestSocketSlow drops who does not read, within the time that a message has, and
// keeps nobody else waiting.
func TestSocketSlow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	const entries = 24
	for i := range entries {
		w.record(w.step(fmt.Sprintf("run-%d", i), map[string]any{"blob": strings.Repeat("x", 1<<20)}, nil, file("out", fmt.Sprint("out", i))))
	}
	server := httptest.NewServer(w.api)
	defer server.Close()
	dial := func() *websocket.Conn {
		conn, _, err := websocket.Dial(t.Context(), server.URL, &websocket.DialOptions{Subprotocols: []string{"graphql-transport-ws"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.CloseNow() })
		conn.SetReadLimit(8 << 20)
		for _, m := range []string{`{"type":"connection_init"}`, `{"id":"a","type":"subscribe","payload":{"query":"subscription { entries(after: -1) { index statement } }"}}`} {
			if err := conn.Write(t.Context(), websocket.MessageText, []byte(m)); err != nil {
				t.Fatal(err)
			}
		}
		return conn
	}
	// read is how many messages came before the connection ended, or all.
	read := func(conn *websocket.Conn) int {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for n := range entries + 2 { // the acknowledgement, the genesis, and ours
			if _, _, err := conn.Read(ctx); err != nil {
				if ctx.Err() != nil {
					t.Error("the connection is still open")
				}
				return n
			}
		}
		return entries + 2
	}
	slow := dial()
	time.Sleep(11 * time.Second) // a message has 10
	if n := read(dial()); n != entries+2 {
		t.Errorf("who reads was given %d messages of %d", n, entries+2)
	}
	if n := read(slow); n == entries+2 {
		t.Errorf("who did not read for 11 s was given everything; what the kernel keeps for them is larger than the test sends")
	}
}

func baseContext(ctx context.Context) func(net.Listener) context.Context {
	return func(net.Listener) context.Context { return ctx }
}
