package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	retracegraphql "github.com/retrace-ledger/retrace/graphql"
	ledgerbench "github.com/retrace-ledger/retrace/ledger/bench"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// edge is an edge as all sides answer with it: in the form of retrace's GraphQL.
type edge struct {
	From node `json:"from"`
	To   node `json:"to"`
	Step step `json:"step"`
}

type node struct {
	Digest string `json:"digest"`
}

type step struct {
	ID string `json:"id"`
}

// newEdge gives the step the id that retrace gives it.
func newEdge(from, to string, entry int64) edge {
	id := base64.RawURLEncoding.EncodeToString([]byte("step:" + strconv.FormatInt(entry, 10)))
	return edge{node{from}, node{to}, step{id}}
}

type answer struct {
	Data struct {
		Lineage struct {
			Edges []edge `json:"edges"`
		} `json:"lineage"`
	} `json:"data"`
}

func answerOf(edges []edge) *answer {
	a := new(answer)
	a.Data.Lineage.Edges = edges
	return a
}

func decode(raw []byte) ([]edge, error) {
	var a struct {
		answer
		Errors []struct{ Message string }
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return nil, err
	}
	if len(a.Errors) > 0 {
		return nil, errors.New(a.Errors[0].Message)
	}
	return a.Data.Lineage.Edges, nil
}

// opener makes a side ready in a folder of its own.
type opener struct {
	name string
	open func(ctx context.Context, dir string) (*side, error)
}

// The names of the sides whose goals are told.
const (
	mapName    = "Go map"
	sqliteName = "SQLite"
)

// openers are all sides, in the order of the table.
func openers(contest *ledgerbench.Contest, g *graph) []opener {
	return []opener{
		{retraceName, func(ctx context.Context, dir string) (*side, error) { return openRetrace(ctx, dir, contest) }},
		{mapName, func(context.Context, string) (*side, error) {
			return serve(&side{name: mapName, how: "breadth first over a map in memory", walk: g.closure}, nil)
		}},
		{sqliteName, func(ctx context.Context, dir string) (*side, error) { return openAncestorsSQLite(ctx, dir, g) }},
		{"PostgreSQL", func(ctx context.Context, dir string) (*side, error) { return openAncestorsPostgres(ctx, dir, g) }},
		{"a request for each resource", func(context.Context, string) (*side, error) { return openHops(g) }},
	}
}

// openRetrace builds the index and serves GraphQL over it.
func openRetrace(ctx context.Context, dir string, contest *ledgerbench.Contest) (_ *side, err error) {
	graph, err := lineage.Open(dir, contest.Log, func(schema.Envelope, []schema.PublicKey) []string { return nil }, parseNoKey)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, graph.Close())
		}
	}()
	if err := graph.Follow(ctx, contest.Log); err != nil {
		return nil, err
	}
	api, err := retracegraphql.New(graph, contest.Log, nil)
	if err != nil {
		return nil, err
	}
	view, err := graph.View(lineage.At{})
	if err != nil {
		return nil, err
	}
	s := &side{
		name: retraceName, how: "GraphQL: `lineage` with its edges, from the index on disk",
		walk: func(ctx context.Context, of schema.Key) ([]edge, error) {
			var out []edge
			for e, err := range schema.Walk(ctx, view, schema.Start{Key: of}, schema.WalkOptions{Size: view.Size()}) {
				if err != nil {
					return nil, err
				}
				out = append(out, newEdge(string(e.From), string(e.To), e.Step))
			}
			return out, nil
		},
		close: graph.Close,
	}
	return serve(s, api)
}

func parseNoKey(schema.Trust) (schema.PublicKey, error) { return schema.PublicKey{ID: "bench"}, nil }

// serve has s answer over HTTP on the loopback, by api or, if that is nil, from
// its walk. All are asked in one way: by one client over one connection, which
// stays.
func serve(s *side, api http.Handler) (*side, error) {
	form := func(of schema.Key) (string, []byte) { return "/?ref=" + url.QueryEscape(string(of)), nil }
	if api != nil {
		form = func(of schema.Key) (string, []byte) {
			const query = `query($ref: String!) { lineage(ref: $ref) { edges { from { digest } to { digest } step { id } } } }`
			return "/", fmt.Appendf(nil, `{"query":%q,"variables":{"ref":%q}}`, query, of)
		}
	} else {
		api = answering(s.walk)
	}
	c, err := listen(api)
	if err != nil {
		return nil, err
	}
	s.ask = func(ctx context.Context, of schema.Key) (reply, error) {
		path, body := form(of)
		raw, err := c.get(ctx, path, body)
		return reply{raw: raw}, err
	}
	rest := s.close
	s.close = func() error {
		err := c.close()
		if rest != nil {
			err = errors.Join(err, rest())
		}
		return err
	}
	return s, nil
}

// answering answers with what walk finds, as JSON.
func answering(walk func(context.Context, schema.Key) ([]edge, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		edges, err := walk(r.Context(), schema.Key(r.URL.Query().Get("ref")))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		raw, err := json.Marshal(answerOf(edges))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
		w.Write(raw)
	})
}

// connection is a server, and a client of it that keeps one connection.
type connection struct {
	server *http.Server
	done   chan error
	client *http.Client
	base   string
}

func listen(h http.Handler) (*connection, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &connection{
		server: &http.Server{Handler: h}, done: make(chan error, 1),
		client: &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1, DisableCompression: true}},
		base:   "http://" + l.Addr().String(),
	}
	go func() { c.done <- c.server.Serve(l) }()
	return c, nil
}

// get asks for path, with a body if there is one, and reads the whole answer.
func (c *connection) get(ctx context.Context, path string, body []byte) (_ []byte, err error) {
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	raw := bytes.NewBuffer(make([]byte, 0, max(resp.ContentLength, 512)))
	if _, err := io.Copy(raw, resp.Body); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %.200s", resp.Status, raw)
	}
	return raw.Bytes(), nil
}

func (c *connection) close() error {
	c.client.CloseIdleConnections()
	err := c.server.Close()
	if served := <-c.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// openHops has a client walk that asks for what is right above a resource.
func openHops(g *graph) (*side, error) {
	c, err := listen(answering(func(_ context.Context, of schema.Key) ([]edge, error) { return g.made[of], nil }))
	if err != nil {
		return nil, err
	}
	hop := func(ctx context.Context, of string) ([]edge, error) {
		raw, err := c.get(ctx, "/?ref="+url.QueryEscape(of), nil)
		if err != nil {
			return nil, err
		}
		return decode(raw)
	}
	return &side{
		name: "a request for each resource", how: "the client walks, breadth first; the server has a map in memory",
		close: c.close,
		ask: func(ctx context.Context, of schema.Key) (reply, error) {
			out := []edge{}
			seen := map[string]bool{string(of): true}
			queue := []string{string(of)}
			for len(queue) > 0 {
				above, err := hop(ctx, queue[0])
				if err != nil {
					return reply{}, err
				}
				queue = queue[1:]
				for _, e := range above {
					out = append(out, e)
					if !seen[e.To.Digest] {
						seen[e.To.Digest] = true
						queue = append(queue, e.To.Digest)
					}
				}
			}
			return reply{edges: out}, nil
		},
	}, nil
}
