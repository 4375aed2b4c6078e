package server

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/ledger"
)

// codeUnauthorized is the one code that GraphQL itself does not need: there
// the status says so.
const codeUnauthorized = "UNAUTHORIZED"

// explain says of the errors of the ledger and of the content store what a
// caller may be told; nil of all others.
func explain(err error) *graphql.Error {
	var (
		cursor *ledger.CursorError
		limit  *ledger.LimitError
		kept   *ledger.KeepError
		erased *ledger.ErasedError
	)
	switch {
	case errors.As(err, &cursor):
		return &graphql.Error{Code: graphql.CodeConflict, Field: "cursors", Message: cursor.Error(), Err: err}
	case errors.As(err, &kept):
		return &graphql.Error{Code: graphql.CodeBadInput, Field: "index", Message: kept.Error(), Err: err}
	case errors.As(err, &erased):
		return &graphql.Error{Code: graphql.CodeConflict, Field: "index", Message: erased.Error(), Err: err}
	case errors.As(err, &limit):
		return &graphql.Error{Code: graphql.CodeLimit, Message: limit.Error(), Err: err}
	case errors.Is(err, ledger.ErrNotFound), errors.Is(err, content.ErrNotKept):
		return &graphql.Error{Code: graphql.CodeNotFound, Message: "there is no such thing here", Err: err}
	case errors.Is(err, ledger.ErrDiskFull):
		return &graphql.Error{Code: graphql.CodeUnavailable, Message: ledger.ErrDiskFull.Error(), Err: err}
	case errors.Is(err, ledger.ErrReadOnly):
		return &graphql.Error{Code: graphql.CodeForbidden, Message: ledger.ErrReadOnly.Error(), Err: err}
	case errors.Is(err, ledger.ErrStopped), errors.Is(err, ledger.ErrClosed):
		return &graphql.Error{Code: graphql.CodeUnavailable, Message: "the ledger takes nothing any more; the server has to be started again", Err: err}
	}
	return nil
}

// statusOf is the HTTP status of an error's code.
func statusOf(code string) int {
	switch code {
	case graphql.CodeNotFound:
		return http.StatusNotFound
	case graphql.CodeAmbiguous, graphql.CodeBadInput:
		return http.StatusUnprocessableEntity
	case graphql.CodeConflict:
		return http.StatusConflict
	case graphql.CodeForbidden:
		return http.StatusForbidden
	case codeUnauthorized:
		return http.StatusUnauthorized
	case graphql.CodeLimit:
		return http.StatusRequestEntityTooLarge
	case graphql.CodeTimeout:
		return http.StatusGatewayTimeout
	case graphql.CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// refuse answers a request with what the caller may be told of err, counts it,
// and logs what the caller is not told.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e := explain(err)
	if e == nil {
		e = graphql.Explain(err)
	}
	if e.Code == graphql.CodeInternal {
		s.log.ErrorContext(r.Context(), "answering "+r.Method+" "+r.URL.Path, "err", err)
	}
	s.metrics.rejected.WithLabelValues(e.Code).Inc()
	p := client.Problem{Status: statusOf(e.Code), Code: e.Code, Field: e.Field, Detail: e.Message}
	var cursor *ledger.CursorError
	if errors.As(err, &cursor) {
		p.Cursor = &client.StoredCursor{Source: cursor.Source, Stored: cursor.Have, Expected: cursor.From}
	}
	raw, err := json.Marshal(p)
	if err != nil {
		http.Error(w, e.Message, p.Status)
		return
	}
	h := w.Header()
	h.Set("Content-Type", client.MediaProblem)
	h.Set("Cache-Control", "no-store")
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(p.Status)
	w.Write(append(raw, '\n'))
}

func badInput(field, reason string) error {
	return &graphql.Error{Code: graphql.CodeBadInput, Field: field, Message: reason}
}
