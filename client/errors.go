package client

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/schema"
)

// ErrNoServer says that no server runs for a ledger.
var ErrNoServer = errors.New("no server is running")

// ErrNotKept says that the server does not keep the bytes of a key.
var ErrNotKept = errors.New("is not kept by the server")

// Error is a request that the server refused.
type Error struct{ Problem }

func (e *Error) Error() string {
	s := e.Detail
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	return fmt.Sprintf("the server refused: %s", s)
}

// Unwrap returns the *schema.FieldError that the server found, where the
// request's content was at fault.
func (e *Error) Unwrap() error {
	if e.Status != http.StatusUnprocessableEntity {
		return nil
	}
	return &schema.FieldError{Field: e.Field, Reason: e.Detail}
}

// Conflict says that a batch was refused because a cursor was not where it
// says: somebody else read the source meanwhile.
func (e *Error) Conflict() bool { return e.Status == http.StatusConflict }

// maxProblem is how much of a refusal is read.
const maxProblem = 64 << 10 // bytes

// refusal is the error of a response that is not a success.
func refusal(resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err != nil {
		return fmt.Errorf("reading the answer to %s %s (%s): %w", resp.Request.Method, resp.Request.URL.Path, resp.Status, err)
	}
	e := new(Error)
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media == MediaProblem && json.Unmarshal(raw, &e.Problem) == nil && e.Detail != "" {
		e.Status = resp.StatusCode
		return e
	}
	return &Error{Problem{Status: resp.StatusCode, Detail: fmt.Sprintf("%s %s: %s: %s", resp.Request.Method, resp.Request.URL.Path, resp.Status, clip(strings.TrimSpace(string(raw))))}}
}

// clip shortens a value from outside for a message.
func clip(s string) string {
	if len(s) > 200 {
		return s[:197] + "..."
	}
	return s
}
