package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/verify"
)

// maxNote is how large a posted checkpoint may be, in bytes.
const maxNote = 64 << 10

// postCheckpoint compares the ledger with a checkpoint that the caller holds,
// such as a mirror. Nobody has to show a token: a note that the log's own key
// did not sign stops nothing, and one that it did sign is evidence, whoever
// brings it (DESIGN 12.13). One that contradicts the ledger is kept, and ends
// the server.
func (s *Server) postCheckpoint(w http.ResponseWriter, r *http.Request) {
	note, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxNote))
	if err != nil {
		s.refuse(w, r, &graphql.Error{Code: graphql.CodeBadInput, Message: fmt.Sprintf("reading the checkpoint: %v", err)})
		return
	}
	err = s.ledger.Confront(r.Context(), note)
	var (
		back      *ledger.RollbackError
		fork      *ledger.ForkError
		wrong     *verify.FalseError
		malformed *verify.MalformedError
	)
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.As(err, &back), errors.As(err, &fork):
		s.log.ErrorContext(r.Context(), "a caller holds a checkpoint of this log that it does not hold; writing stops", "err", err)
		s.refuse(w, r, &graphql.Error{Code: graphql.CodeConflict, Message: "the ledger does not hold this checkpoint, which its own key signed; the note is kept, and the ledger takes nothing any more"}) // without err, which says ErrStopped
	case errors.As(err, &wrong), errors.As(err, &malformed):
		s.refuse(w, r, &graphql.Error{Code: graphql.CodeBadInput, Message: err.Error(), Err: err})
	default:
		s.refuse(w, r, err)
	}
}
