package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/graphql"
)

// guard lets only those requests through that were meant for this server and
// came from no other site (DNS rebinding, cross-site requests).
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("X-Frame-Options", "DENY")
		if reason := stranger(r); reason != "" {
			s.refuse(w, r, &graphql.Error{Code: graphql.CodeForbidden, Message: reason})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// stranger says why a request is not for this server; "" if it is.
func stranger(r *http.Request) string {
	if !ours(r.Host, r) {
		return fmt.Sprintf("Host %q is not a loopback name with this server's port", clip(r.Host))
	}
	for _, origin := range r.Header.Values("Origin") {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "http" || !ours(u.Host, r) {
			return fmt.Sprintf("Origin %q is another site", clip(origin))
		}
	}
	// Sent by browsers only. Following a link from elsewhere to the page is no
	// attack: nothing of it can be read there.
	if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
		if r.Method != http.MethodGet || r.URL.Path != "/" || r.Header.Get("Sec-Fetch-Mode") != "navigate" {
			return "the request was made by another site"
		}
	}
	return ""
}

// ours says whether host, with its port, names the address that r came in at.
func ours(host string, r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok {
		return false
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.Trim(host, "[]"), "80"
	}
	return port == fmt.Sprint(local.Port) && slices.Contains([]string{"127.0.0.1", "::1", "localhost", local.IP.String()}, strings.ToLower(name))
}

// holdsToken says whether r carries the server's token. The comparison takes
// the same time for every wrong token.
func (s *Server) holdsToken(r *http.Request) bool {
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	got, want := sha256.Sum256([]byte(strings.TrimSpace(given))), sha256.Sum256([]byte(s.token))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// withToken serves only callers that hold the token.
func (s *Server) withToken(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.holdsToken(r) {
			s.refuse(w, r, errNoToken)
			return
		}
		next(w, r)
	}
}

// errNoToken answers callers who have to show the token and did not.
var errNoToken = &graphql.Error{Code: codeUnauthorized, Message: "this needs the token that stands in " + client.AddressFile + " in the ledger's directory: Authorization: Bearer TOKEN"}

// clip shortens a value from outside for a message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:77] + "..."
	}
	return s
}
