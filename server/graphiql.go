package server

import (
	"bytes"
	"embed"
	"net/http"
	"time"
)

// graphiQL is GraphiQL with our example tabs, bundled from npm: graphiql/README.md
// says how.
//
//go:embed graphiql/page.html graphiql/dist
var graphiQL embed.FS

// graphiQLFiles are what is served at /graphiql, by path.
var graphiQLFiles = map[string]struct{ name, media string }{
	"/graphiql":           {"graphiql/page.html", "text/html; charset=utf-8"},
	"/graphiql/index.js":  {"graphiql/dist/index.js", "text/javascript; charset=utf-8"},
	"/graphiql/index.css": {"graphiql/dist/index.css", "text/css; charset=utf-8"},
}

// graphiql serves the page and its parts. They ask this server alone, and load
// nothing from elsewhere.
func (s *Server) graphiql(w http.ResponseWriter, r *http.Request) {
	file, ok := graphiQLFiles[r.URL.Path]
	if !ok {
		s.nothing(w, r)
		return
	}
	raw, err := graphiQL.ReadFile(file.name)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", file.media)
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:; font-src data:; connect-src 'self'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(raw))
}
