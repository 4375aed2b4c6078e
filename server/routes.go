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

// routes is everything that is served (DESIGN 7.2). On loopback anybody on the
// machine may ask; from elsewhere only the log itself, its salted commitments
// and signed checkpoints, is for everybody.
func (s *Server) routes(fromElsewhere bool) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h http.HandlerFunc, roles ...Role) {
		mux.Handle(pattern, s.metrics.counted(pattern, s.with(h, roles...)))
	}
	var asking []Role
	if fromElsewhere {
		asking = []Role{RoleReader}
	}
	handle("GET /{$}", s.index, asking...)
	handle("/graphql", s.graphQL, asking...)
	handle("GET /graphiql", s.graphiql, asking...)
	handle("GET /graphiql/", s.graphiql, asking...)
	tiles := s.ledger.Handler().ServeHTTP
	handle("GET /checkpoint", tiles)
	handle("GET /checkpoint.cosigned", tiles)
	handle("GET /tile/", tiles)
	handle("POST /v1/checkpoint", s.postCheckpoint)
	handle("POST /v1/statements", s.postStatements, RoleRecorder)
	handle("POST /api/v1/lineage", s.postEvent, RoleRecorder)
	handle("POST /api/v1/lineage/batch", s.postEvents, RoleRecorder)
	handle("POST /v1/erasures", s.postErasure, RoleAdmin)
	handle("GET /v1/cursor", s.getCursor, RoleRecorder)
	handle("GET /v1/entries", s.getEntries, asking...)
	handle("GET /v1/backup", s.getBackup, RoleAdmin)
	// Whoever hands bytes in asks first whether they are there.
	handle("HEAD /v1/content/{key}", s.getContent, RoleRestorer, RoleRecorder)
	handle("GET /v1/content/{key}", s.getContent, RoleRestorer)
	handle("PUT /v1/content/{key}", s.putContent, RoleRecorder)
	handle("PUT /v1/content/{key}/alias", s.putAlias, RoleRecorder)
	handle("GET /v1/sources", s.getSources, RoleReader)
	handle("GET /v1/restorations/{file}", s.getRestoration, RoleRestorer)
	handle("POST /webhooks/cloudevents", s.postCloudEvents, RoleRecorder)
	if s.opt.Hook != nil {
		handle("POST /webhooks/{name}", s.postWebhook) // each source checks its own signature
	}
	handle("GET /healthz", healthz)
	handle("GET /readyz", s.readyz)
	handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP, asking...)
	handle("/", s.nothing)
	return mux
}

// graphQL lets those write who have a role for it. A wrong token is refused
// rather than taken for none.
func (s *Server) graphQL(w http.ResponseWriter, r *http.Request) {
	if _, err := s.callerOf(r); err != nil {
		s.refuse(w, r, err)
		return
	}
	c := who(r)
	s.api.ServeHTTP(w, r.WithContext(graphql.Allow(r.Context(), graphql.Rights{
		Record: c.may(RoleRecorder) && c.mayRecord("") == nil, Restore: c.may(RoleRestorer), Submitter: c.name(),
	})))
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
