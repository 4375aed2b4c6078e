package server

import (
	"fmt"
	"io"
	"net/http"

	"github.com/retrace-ledger/retrace/graphql"
)

// maxDelivery is how many bytes a delivery to a webhook may have: what GitHub
// sends at most.
const maxDelivery = 25 << 20

// postWebhook has the sources looked at that a delivery is about (DESIGN 9):
// nothing that it says is recorded.
func (s *Server) postWebhook(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxDelivery))
	if err != nil {
		s.refuse(w, r, &graphql.Error{Code: graphql.CodeLimit, Message: fmt.Sprintf("the delivery could not be read, or has more than %d bytes", maxDelivery)})
		return
	}
	woken, forged := s.opt.Hook(r.PathValue("name"), r.Header, body)
	if forged {
		s.refuse(w, r, &graphql.Error{Code: graphql.CodeForbidden, Message: "the signature or token of the delivery is not what the source is configured with"})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, "{\"sources\":%d}\n", woken)
}
