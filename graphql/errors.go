package graphql

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	gqlerrors "github.com/graph-gophers/graphql-go/errors"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// Codes stand in the extensions of errors, for programs.
const (
	CodeNotFound    = "NOT_FOUND"
	CodeAmbiguous   = "AMBIGUOUS"
	CodeBadInput    = "BAD_INPUT"
	CodeConflict    = "CONFLICT"
	CodeForbidden   = "FORBIDDEN"
	CodeLimit       = "LIMIT"
	CodeTimeout     = "TIMEOUT"
	CodeUnavailable = "UNAVAILABLE"
	CodeInternal    = "INTERNAL"
)

// Error is what a caller may be told.
type Error struct {
	Code    string
	Field   string // of the input that is at fault
	Message string
	Err     error // the cause, for the log
}

func (e *Error) Error() string {
	if e.Field != "" {
		return e.Field + ": " + e.Message
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func badInput(field, format string, args ...any) error {
	return &Error{Code: CodeBadInput, Field: field, Message: fmt.Sprintf(format, args...)}
}

// Explain turns err into what a caller may be told of it. Anything that is not
// about the caller's own input is INTERNAL and says no more.
func Explain(err error) *Error {
	var told *Error
	if errors.As(err, &told) {
		return told
	}
	var (
		field     *schema.FieldError
		ambiguous *lineage.AmbiguousError
		reference *lineage.RefError
		ahead     *lineage.AheadError
	)
	switch {
	case errors.As(err, &field):
		return &Error{Code: CodeBadInput, Field: field.Field, Message: field.Reason, Err: err}
	case errors.As(err, &ambiguous):
		return &Error{Code: CodeAmbiguous, Message: err.Error(), Err: err}
	case errors.As(err, &reference):
		return &Error{Code: CodeBadInput, Message: err.Error(), Err: err}
	case errors.As(err, &ahead):
		return &Error{Code: CodeBadInput, Message: err.Error(), Err: err}
	case errors.Is(err, lineage.ErrNotFound):
		return &Error{Code: CodeNotFound, Message: err.Error(), Err: err}
	case errors.Is(err, schema.ErrUnsupported):
		return &Error{Code: CodeBadInput, Message: err.Error(), Err: err}
	case errors.Is(err, lineage.ErrRebuilt):
		return &Error{Code: CodeUnavailable, Message: lineage.ErrRebuilt.Error(), Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: CodeTimeout, Message: "the request took too long", Err: err}
	case errors.Is(err, context.Canceled):
		return &Error{Code: CodeTimeout, Message: "the request was cancelled", Err: err}
	}
	return &Error{Code: CodeInternal, Message: "internal error; the server's log says more", Err: err}
}

func (a *API) explain(err error) *Error {
	if a.opt.Explain != nil {
		if e := a.opt.Explain(err); e != nil {
			return e
		}
	}
	return Explain(err)
}

// queryError is err as a caller may see it. What it hides is logged.
func (a *API) queryError(ctx context.Context, err error) *gqlerrors.QueryError {
	e := a.explain(err)
	if e.Code == CodeInternal {
		a.opt.Logger.ErrorContext(ctx, "answering a query", "err", err)
	}
	if e.Code == CodeTimeout && e.Err != nil && errors.Is(e.Err, context.DeadlineExceeded) {
		e = &Error{Code: e.Code, Message: fmt.Sprintf("%s; the limit is %s", e.Message, a.limits.Time)}
	}
	q := gqlerrors.Errorf("%s", e.Error())
	q.Extensions = map[string]any{"code": e.Code}
	if e.Field != "" {
		q.Extensions["field"] = e.Field
	}
	return q
}

// tell rewrites the errors of resp to what the caller may see.
func (a *API) tell(ctx context.Context, resp *Response) {
	if ctx.Err() != nil {
		resp.Data, resp.Errors = nil, []*gqlerrors.QueryError{a.queryError(ctx, ctx.Err())}
		return
	}
	for i, e := range resp.Errors {
		if e.ResolverError == nil {
			if e.Message == libraryWantsSocket {
				e.Message = onlyOverSocket
			}
			if e.Extensions == nil {
				e.Extensions = map[string]any{"code": libraryCode(e)}
			}
			continue
		}
		told := a.queryError(ctx, e.ResolverError)
		told.Path, told.Locations = e.Path, e.Locations
		resp.Errors[i] = told
	}
	// Fields are resolved side by side; a response is not to depend on which
	// was first.
	slices.SortStableFunc(resp.Errors, func(x, y *gqlerrors.QueryError) int {
		return strings.Compare(fmt.Sprint(x.Path), fmt.Sprint(y.Path))
	})
}

// What a subscription is answered with over plain HTTP: by the library, and by us.
const (
	libraryWantsSocket = "graphql-ws protocol header is missing"
	onlyOverSocket     = "subscriptions are answered over a WebSocket at this address, subprotocol " + socketProtocol
)

// libraryCode is the code of an error that the library made.
func libraryCode(e *gqlerrors.QueryError) string {
	if e.Rule == "MaxDepthExceeded" || e.Rule == "OverlapValidationLimitExceeded" || strings.Contains(e.Message, "too many selections") {
		return CodeLimit
	}
	return CodeBadInput
}

// requestFailed says whether nothing was executed, although the library
// answers with data: it does so where a variable does not fit its type, and
// where a query has too many selections.
func requestFailed(resp *Response) bool {
	for _, e := range resp.Errors {
		if e.Path != nil || e.ResolverError != nil {
			return false
		}
	}
	return string(resp.Data) == "{}" || string(resp.Data) == "null"
}

// status is the HTTP status of a response (GraphQL over HTTP, "Status Codes").
func (r *Response) status() int {
	switch {
	case r.refused != 0:
		return r.refused
	case len(r.Errors) == 0:
		return http.StatusOK
	case r.Data == nil:
		return requestStatus(r.Errors)
	}
	return http.StatusOK
}

// requestStatus is the status of a request that was not executed.
func requestStatus(errs []*gqlerrors.QueryError) int {
	for _, e := range errs {
		if errors.Is(e, gqlerrors.ErrSyntax) {
			return http.StatusBadRequest
		}
		switch e.Extensions["code"] {
		case CodeTimeout, CodeUnavailable:
			return http.StatusServiceUnavailable
		case CodeInternal:
			return http.StatusInternalServerError
		}
	}
	return http.StatusUnprocessableEntity
}
