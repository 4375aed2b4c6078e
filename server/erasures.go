package server

import (
	"net/http"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/schema"
)

// postErasure erases the body of an entry. The answer comes when no answer of
// this server rests on it any more.
func (s *Server) postErasure(w http.ResponseWriter, r *http.Request) {
	raw, err := readJSON(w, r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	var wire client.Erasure
	if err := json.Unmarshal(raw, &wire, json.RejectUnknownMembers(true)); err != nil {
		s.refuse(w, r, wireError(err))
		return
	}
	env, err := schema.ParseEnvelope(wire.Envelope)
	if err != nil {
		s.refuse(w, r, below("envelope", err))
		return
	}
	receipt, err := s.ledger.Erase(r.Context(), wire.Index, env)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.log.InfoContext(r.Context(), "erased", "index", wire.Index, "size", receipt.Size)
	if err := s.graph.Wait(r.Context(), receipt.Size); err != nil {
		s.refuse(w, r, err)
		return
	}
	s.answerJSON(w, r, receipt)
}
