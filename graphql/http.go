package graphql

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	gqlerrors "github.com/graph-gophers/graphql-go/errors"

	jsonv2 "github.com/go-json-experiment/json"
)

// Media types of GraphQL over HTTP.
const (
	mediaResponse = "application/graphql-response+json"
	mediaJSON     = "application/json"
)

// ServeHTTP answers GraphQL over HTTP: POST with a JSON body, and GET for
// queries; and over a WebSocket, also subscriptions. Statuses are those that the specification gives to
// application/graphql-response+json, for callers of application/json too.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if wantsSocket(r) {
		a.serveSocket(w, r)
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	h.Set("X-Content-Type-Options", "nosniff")
	media, ok := negotiate(r.Header.Values("Accept"))
	if !ok {
		plainError(w, http.StatusNotAcceptable, "this answers with "+mediaResponse+" or "+mediaJSON)
		return
	}
	var body requestBody
	var err error
	switch r.Method {
	case http.MethodPost:
		body, err = readBody(w, r, a.limits.BodyBytes)
	case http.MethodGet:
		body, err = readQuery(r.URL.Query())
	default:
		h.Set("Allow", "GET, POST")
		plainError(w, http.StatusMethodNotAllowed, "use POST, or GET for a query")
		return
	}
	var wire *wireError
	if errors.As(err, &wire) {
		if !wire.graphQL {
			plainError(w, wire.status, wire.message)
			return
		}
		e := gqlerrors.Errorf("%s", wire.message)
		e.Extensions = map[string]any{"code": CodeBadInput}
		a.respond(w, media, wire.status, &Response{Errors: []*gqlerrors.QueryError{e}, Size: a.graph.Size()})
		return
	}
	resp := a.exec(r.Context(), body.request(), r.Method == http.MethodGet)
	switch resp.refused {
	case http.StatusMethodNotAllowed:
		h.Set("Allow", "POST")
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	}
	if resp.refused != 0 {
		resp.Data = nil
	}
	a.respond(w, media, resp.status(), resp)
}

// requestBody is a request as it stands on the wire. Unknown members are
// ignored, as the specification asks.
type requestBody struct {
	Query         *string        `json:"query"`
	OperationName string         `json:"operationName"`
	Variables     map[string]any `json:"variables"`
	Extensions    struct {
		WaitForSize int64 `json:"waitForSize"`
	} `json:"extensions"`
}

func (b requestBody) request() Request {
	return Request{Query: *b.Query, OperationName: b.OperationName, Variables: b.Variables, WaitForSize: b.Extensions.WaitForSize}
}

// wireError is a request that could not be read. It is answered in GraphQL's
// form where the request was one.
type wireError struct {
	status  int
	message string
	graphQL bool
}

func (e *wireError) Error() string { return e.message }

func readBody(w http.ResponseWriter, r *http.Request, limit int64) (requestBody, error) {
	var b requestBody
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != mediaJSON {
		return b, &wireError{status: http.StatusUnsupportedMediaType, message: "the body has to be of type " + mediaJSON}
	}
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return b, &wireError{status: http.StatusUnsupportedMediaType, message: "the body has to be in UTF-8"}
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return b, &wireError{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("the request is larger than the limit of %d bytes", large.Limit)}
	}
	if err != nil {
		return b, &wireError{status: http.StatusBadRequest, message: "the body could not be read to its end"}
	}
	if !json.Valid(raw) {
		return b, &wireError{http.StatusBadRequest, "the body is not JSON", true}
	}
	if err := jsonv2.Unmarshal(raw, &b); err != nil {
		return b, &wireError{http.StatusUnprocessableEntity, "the request is not of the form {query, operationName, variables, extensions}: " + semantic(err), true}
	}
	return b, b.check()
}

func readQuery(q url.Values) (requestBody, error) {
	b := requestBody{OperationName: q.Get("operationName")}
	if q.Has("query") {
		text := q.Get("query")
		b.Query = &text
	}
	for name, into := range map[string]any{"variables": &b.Variables, "extensions": &b.Extensions} {
		if v := q.Get(name); v != "" {
			if err := jsonv2.Unmarshal([]byte(v), into); err != nil {
				return b, &wireError{http.StatusUnprocessableEntity, name + " is not a JSON object: " + semantic(err), true}
			}
		}
	}
	return b, b.check()
}

func (b requestBody) check() error {
	if b.Query == nil {
		return &wireError{http.StatusUnprocessableEntity, "query is missing", true}
	}
	if b.Extensions.WaitForSize < 0 {
		return &wireError{http.StatusUnprocessableEntity, "extensions.waitForSize is negative", true}
	}
	return nil
}

// semantic names the member at fault, without the Go types around it.
func semantic(err error) string {
	var s *jsonv2.SemanticError
	if errors.As(err, &s) && s.JSONPointer != "" {
		return strings.ReplaceAll(strings.TrimPrefix(string(s.JSONPointer), "/"), "/", ".") + " has the wrong type"
	}
	return "it has the wrong type, or names one member twice"
}

// respond writes a response. Data is written as the library encoded it: an
// answer can be large.
func (a *API) respond(w http.ResponseWriter, media string, status int, resp *Response) {
	raw, err := resp.encode()
	if err != nil {
		plainError(w, http.StatusInternalServerError, "the errors could not be encoded")
		return
	}
	if status >= 400 {
		media = mediaResponse
	}
	w.Header().Set("Content-Type", media+"; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(status)
	w.Write(raw) // an error here means that the caller is gone
}

// encode is the response as JSON.
func (resp *Response) encode() ([]byte, error) {
	var b bytes.Buffer
	b.Grow(len(resp.Data) + 256)
	b.WriteByte('{')
	if len(resp.Errors) > 0 {
		errs, err := json.Marshal(resp.Errors)
		if err != nil {
			return nil, err
		}
		b.WriteString(`"errors":`)
		b.Write(errs)
		b.WriteByte(',')
	}
	if resp.Data != nil {
		b.WriteString(`"data":`)
		b.Write(resp.Data)
		b.WriteByte(',')
	}
	b.WriteString(`"extensions":{"size":`)
	b.WriteString(strconv.FormatInt(resp.Size, 10))
	if resp.Checkpoint != nil {
		note, err := json.Marshal(string(resp.Checkpoint))
		if err != nil {
			return nil, err
		}
		b.WriteString(`,"checkpoint":`)
		b.Write(note)
	}
	b.WriteString("}}\n")
	return b.Bytes(), nil
}

func plainError(w http.ResponseWriter, status int, message string) {
	http.Error(w, message, status)
}

// negotiate picks the media type of the response: the one that Accept prefers,
// the specification's own where it has no preference.
func negotiate(accept []string) (string, bool) {
	joined := strings.Join(accept, ",")
	if strings.TrimSpace(joined) == "" {
		return mediaResponse, true
	}
	best, quality := "", 0.0
	for _, part := range strings.Split(joined, ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		q := 1.0
		if s, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(s, 64); err != nil {
				continue
			}
		}
		switch media {
		case mediaResponse, mediaJSON:
		case "*/*", "application/*":
			media = mediaResponse
		default:
			continue
		}
		if q > quality || (q == quality && q > 0 && media == mediaResponse) {
			best, quality = media, q
		}
	}
	return best, best != ""
}
