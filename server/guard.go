package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/graphql"
)

// guard lets only those requests through that were meant for this server and
// came from no other site (DNS rebinding, cross-site requests).
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		harden(w)
		if reason := stranger(r); reason != "" {
			s.refuse(w, r, &graphql.Error{Code: graphql.CodeForbidden, Message: reason})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// harden has browsers keep what is served to themselves.
func harden(w http.ResponseWriter) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("X-Frame-Options", "DENY")
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

// errNoToken answers callers who have to show a token and did not, or one that
// is unknown or expired.
var errNoToken = &graphql.Error{Code: codeUnauthorized, Message: "this needs a token, Authorization: Bearer TOKEN: on this machine the one in " + client.AddressFile + " in the ledger's directory, from elsewhere one made with `retrace tokens create`"}

// caller is who sends a request. The zero value is somebody without a token.
type caller struct {
	admin bool // has the server's own token
	token Token
}

// name is what headers of entries say of the caller.
func (c *caller) name() string {
	if c.token.Name == "" {
		return submitter
	}
	return submitter + ":" + c.token.Name
}

// may says whether the caller has role.
func (c *caller) may(role Role) bool { return c.admin || c.token.has(role, time.Now()) }

// mayRecord refuses a caller whose token is for other namespaces.
func (c *caller) mayRecord(namespace string) error {
	if c.admin || c.token.mayRecord(namespace) {
		return nil
	}
	return &graphql.Error{Code: graphql.CodeForbidden, Message: fmt.Sprintf("the token %s does not record in namespace %q", c.token.Name, clip(namespace))}
}

// callerOf says who sends a request. A token that is wrong is refused rather
// than taken for none.
func (s *Server) callerOf(r *http.Request) (caller, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return caller{}, nil
	}
	scheme, given, _ := strings.Cut(header, " ")
	given = strings.TrimSpace(given)
	if !strings.EqualFold(scheme, "Bearer") {
		return caller{}, errNoToken
	}
	got, want := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(s.token))
	if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
		return caller{admin: true}, nil
	}
	token, ok, err := s.tokens.find(given)
	if err != nil {
		return caller{}, err
	}
	if !ok || !time.Now().Before(token.Expires) {
		return caller{}, errNoToken
	}
	return caller{token: token}, nil
}

type callerKey struct{}

// who is the caller of a request that with let through.
func who(r *http.Request) *caller {
	c, _ := r.Context().Value(callerKey{}).(*caller)
	if c == nil {
		return &caller{}
	}
	return c
}

// with serves only callers that have one of the roles; anybody if there is none.
func (s *Server) with(next http.Handler, roles ...Role) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := s.callerOf(r)
		switch {
		case len(roles) == 0 && errors.Is(err, errNoToken):
			c = caller{} // what anybody may ask is not refused for a stale token
		case err != nil:
			s.refuse(w, r, err)
			return
		case len(roles) == 0 || slices.ContainsFunc(roles, c.may):
		case c.token.Name == "":
			s.refuse(w, r, errNoToken)
			return
		default:
			s.refuse(w, r, &graphql.Error{Code: graphql.CodeForbidden, Message: fmt.Sprintf("the token %s has not the role %s", c.token.Name, eitherOf(roles))})
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, &c)))
	})
}

// eitherOf names roles of which one would do.
func eitherOf(roles []Role) string {
	var names []string
	for _, r := range roles {
		names = append(names, string(r))
	}
	return strings.Join(names, " or ")
}

// clip shortens a value from outside for a message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:77] + "..."
	}
	return s
}
