package server

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/retrace-ledger/retrace/graphql"
)

// routes is everything that is served (DESIGN 7.2).
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h http.Handler) { mux.Handle(pattern, s.metrics.counted(pattern, h)) }
	handle("GET /{$}", http.HandlerFunc(s.index))
	handle("/graphql", http.HandlerFunc(s.graphQL))
	tiles := s.ledger.Handler()
	handle("GET /checkpoint", tiles)
	handle("GET /checkpoint.cosigned", tiles)
	handle("GET /tile/", tiles)
	handle("POST /v1/checkpoint", http.HandlerFunc(s.postCheckpoint))
	handle("POST /v1/statements", s.withToken(s.postStatements))
	handle("POST /v1/erasures", s.withToken(s.postErasure))
	handle("GET /v1/cursor", s.withToken(s.getCursor))
	handle("GET /v1/entries", http.HandlerFunc(s.getEntries))
	handle("GET /v1/backup", s.withToken(s.getBackup))
	handle("GET /v1/content/{key}", s.withToken(s.getContent))
	handle("PUT /v1/content/{key}", s.withToken(s.putContent))
	handle("PUT /v1/content/{key}/alias", s.withToken(s.putAlias))
	handle("GET /v1/sources", s.withToken(s.getSources))
	if s.opt.Hook != nil {
		handle("POST /webhooks/{name}", http.HandlerFunc(s.postWebhook))
	}
	handle("GET /v1/restorations/{file}", s.withToken(s.getRestoration))
	handle("GET /healthz", http.HandlerFunc(healthz))
	handle("GET /readyz", http.HandlerFunc(s.readyz))
	handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	handle("/", http.HandlerFunc(s.nothing))
	return mux
}

// graphQL lets those who hold the token write. A wrong token is refused rather
// than taken for none.
func (s *Server) graphQL(w http.ResponseWriter, r *http.Request) {
	if s.holdsToken(r) {
		r = r.WithContext(graphql.AllowWrites(r.Context()))
	} else if r.Header.Get("Authorization") != "" {
		s.refuse(w, r, errNoToken)
		return
	}
	s.api.ServeHTTP(w, r)
}

//go:embed index.html
var indexText string

func (s *Server) index(w http.ResponseWriter, r *http.Request) {
	page, err := template.New("index").Parse(indexText)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	var b bytes.Buffer
	data := map[string]any{"Origin": s.ledger.Origin(), "Size": s.ledger.Size(), "Checkpoint": string(s.ledger.Checkpoint())}
	if s.opt.Witnesses != nil {
		data["Witnesses"] = s.opt.Witnesses()
	}
	if err := page.Execute(&b, data); err != nil {
		s.refuse(w, r, err)
		return
	}
	w.Write(b.Bytes())
}

func (s *Server) nothing(w http.ResponseWriter, r *http.Request) {
	s.refuse(w, r, &graphql.Error{Code: graphql.CodeNotFound, Message: "there is nothing at " + clip(r.URL.Path) + "; / lists what there is"})
}

func healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, "ok")
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if err := s.ready(); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, "not ready: %v\n", err)
		return
	}
	fmt.Fprintf(w, "ok: the graph has followed %d of %d entries\n", s.graph.Size(), s.ledger.Size())
}
