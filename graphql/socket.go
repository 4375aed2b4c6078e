package graphql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/graph-gophers/graphql-go"
	gqlerrors "github.com/graph-gophers/graphql-go/errors"
)

// This file is the protocol graphql-transport-ws (enisdenjo/graphql-ws,
// PROTOCOL.md): queries, mutations and subscriptions over one WebSocket.

const socketProtocol = "graphql-transport-ws"

// Limits of a socket.
const (
	socketInit       = 5 * time.Second  // until connection_init has to come
	socketWrite      = 10 * time.Second // that a caller may take to read a message
	socketPing       = 30 * time.Second // between pings, which also have to be answered
	socketOperations = 64               // that run at a time
)

// Codes with which a socket is closed.
const (
	closeBadRequest   websocket.StatusCode = 4400
	closeUnauthorized websocket.StatusCode = 4401
	closeNoInit       websocket.StatusCode = 4408
	closeSameID       websocket.StatusCode = 4409
	closeTwoInits     websocket.StatusCode = 4429
)

// wsMessage is a message of the protocol.
type wsMessage struct {
	ID      string          `json:"id,omitempty"`
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// closing is why a socket is closed.
type closing struct {
	code   websocket.StatusCode
	reason string
}

func (c *closing) Error() string { return c.reason }

// wantsSocket says whether the request asks for a WebSocket.
func wantsSocket(r *http.Request) bool {
	return r.Method == http.MethodGet && r.Header.Get("Upgrade") != ""
}

// Drain waits for the sockets, whose requests' contexts have ended, to be closed.
func (a *API) Drain() { a.sockets.Wait() }

// serveSocket serves one WebSocket until the caller or the context ends it.
func (a *API) serveSocket(w http.ResponseWriter, r *http.Request) {
	a.sockets.Add(1)
	defer a.sockets.Done()
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{socketProtocol}})
	if err != nil {
		return // it has answered
	}
	defer conn.CloseNow()
	if conn.Subprotocol() != socketProtocol {
		conn.Close(websocket.StatusProtocolError, "this speaks "+socketProtocol)
		return
	}
	conn.SetReadLimit(a.limits.BodyBytes)
	s := &socket{a: a, conn: conn, running: map[string]context.CancelFunc{}}
	ctx, cancel := context.WithCancelCause(r.Context())
	// A connection whose reads are cancelled is cut off without a word: it is
	// closed instead, which ends them.
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(closed)
		var why *closing
		switch {
		case errors.As(context.Cause(ctx), &why):
			conn.Close(why.code, why.reason)
		case r.Context().Err() != nil:
			conn.Close(websocket.StatusGoingAway, "the server stops")
		}
	})
	cancel(s.serve(ctx, cancel))
	s.operations.Wait()
	<-closed
}

// socket is one WebSocket.
type socket struct {
	a          *API
	conn       *websocket.Conn
	operations sync.WaitGroup

	mu      sync.Mutex
	running map[string]context.CancelFunc // operations by id
}

func (s *socket) serve(ctx context.Context, drop context.CancelCauseFunc) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	s.operations.Go(func() { drop(s.ping(ctx)) })
	for {
		m, err := s.read()
		if err != nil {
			return err
		}
		if err := s.take(ctx, m, drop); err != nil {
			return err
		}
	}
}

// begin waits for the caller to introduce itself.
func (s *socket) begin(ctx context.Context) error {
	late := time.AfterFunc(socketInit, func() { _ = s.conn.Close(closeNoInit, "Connection initialisation timeout") })
	m, err := s.read()
	late.Stop()
	switch {
	case err != nil:
		return err
	case m.Type != "connection_init":
		return &closing{closeUnauthorized, "Unauthorized"}
	}
	return s.write(ctx, wsMessage{Type: "connection_ack"})
}

// ping finds callers that are gone without having said so.
func (s *socket) ping(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(socketPing):
		}
		answer, cancel := context.WithTimeout(ctx, socketPing)
		err := s.conn.Ping(answer)
		cancel()
		if err != nil {
			return err
		}
	}
}

// read reads a message. One that is odd is a *closing.
func (s *socket) read() (wsMessage, error) {
	var m wsMessage
	kind, raw, err := s.conn.Read(context.Background()) // until the connection is closed
	if err != nil {
		return m, err
	}
	if kind != websocket.MessageText || json.Unmarshal(raw, &m) != nil || m.Type == "" {
		return m, &closing{closeBadRequest, "the message is not one of " + socketProtocol}
	}
	return m, nil
}

// write sends a message. Who does not read it in time is dropped: what comes
// after it is not kept for them, and can be asked for again from where they are.
func (s *socket) write(ctx context.Context, m wsMessage) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), socketWrite)
	defer cancel()
	err = s.conn.Write(bounded, websocket.MessageText, raw)
	if err != nil && bounded.Err() != nil {
		return &closing{websocket.StatusPolicyViolation, fmt.Sprintf("a message was not read within %s", socketWrite)}
	}
	return err
}

// take does what a message asks for. drop ends the socket for a reason.
func (s *socket) take(ctx context.Context, m wsMessage, drop context.CancelCauseFunc) error {
	switch m.Type {
	case "ping":
		return s.write(ctx, wsMessage{Type: "pong"})
	case "pong":
		return nil
	case "connection_init":
		return &closing{closeTwoInits, "Too many initialisation requests"}
	case "complete":
		s.mu.Lock()
		defer s.mu.Unlock()
		if cancel := s.running[m.ID]; cancel != nil {
			cancel()
			delete(s.running, m.ID)
		}
		return nil
	case "subscribe":
		return s.subscribe(ctx, m, drop)
	}
	return &closing{closeBadRequest, fmt.Sprintf("%.40q is no message that a client sends", m.Type)}
}

func (s *socket) subscribe(ctx context.Context, m wsMessage, drop context.CancelCauseFunc) error {
	var body requestBody
	if err := json.Unmarshal(m.Payload, &body); err != nil || m.ID == "" || body.check() != nil {
		return &closing{closeBadRequest, "subscribe needs an id and a payload of {query, operationName, variables, extensions}"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.running[m.ID]; ok {
		return &closing{closeSameID, "Subscriber for " + clip(m.ID) + " already exists"}
	}
	if len(s.running) >= socketOperations {
		return &closing{websocket.StatusPolicyViolation, fmt.Sprintf("more than %d operations at a time", socketOperations)}
	}
	operation, cancel := context.WithCancel(ctx)
	s.running[m.ID] = cancel
	s.operations.Go(func() {
		defer cancel()
		failed, err := s.run(operation, m.ID, body.request())
		s.mu.Lock()
		over := operation.Err() != nil // completed by the caller, who may use the id again
		if !over {
			delete(s.running, m.ID)
		}
		s.mu.Unlock()
		if err == nil && !over && !failed { // an error ends an operation by itself
			err = s.write(ctx, wsMessage{ID: m.ID, Type: "complete"})
		}
		if err != nil && !over {
			drop(err)
		}
	})
	return nil
}

// run sends what the operation gives, and says whether that was an error.
func (s *socket) run(ctx context.Context, id string, req Request) (failed bool, err error) {
	for resp := range s.a.stream(ctx, req) {
		m := wsMessage{ID: id, Type: "next"}
		if failed = resp.Data == nil && len(resp.Errors) > 0; failed {
			m.Type = "error"
			m.Payload, err = json.Marshal(resp.Errors)
		} else {
			m.Payload, err = resp.encode()
		}
		if err == nil {
			err = s.write(ctx, m)
		}
		if failed || err != nil {
			return failed, err
		}
	}
	return false, nil
}

// stream gives the responses to a request: one to a query or a mutation, any
// number to a subscription. The caller ends ctx when it wants no more.
func (a *API) stream(ctx context.Context, req Request) iter.Seq[*Response] {
	return func(yield func(*Response) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		once := a.exec(ctx, req, false)
		if !once.subscribes() {
			yield(once)
			return
		}
		who := &asker{size: a.graph.Size()}
		who.rights, _ = ctx.Value(rightsKey{}).(Rights)
		responses, err := a.schema.Subscribe(context.WithValue(ctx, askerKey{}, who), req.Query, req.OperationName, req.Variables)
		if err != nil {
			yield(&Response{Errors: []*gqlerrors.QueryError{a.queryError(ctx, err)}, Size: who.size})
			return
		}
		for r := range responses {
			out := r.(*graphql.Response)
			resp := &Response{Data: out.Data, Errors: out.Errors, Size: a.graph.Size()}
			if len(resp.Errors) > 0 {
				a.tell(ctx, resp)
			}
			if !yield(resp) {
				return
			}
		}
	}
}

// subscribes says whether the response is that to a subscription where one answer
// was asked for.
func (resp *Response) subscribes() bool {
	return len(resp.Errors) == 1 && resp.Errors[0].Message == onlyOverSocket
}
