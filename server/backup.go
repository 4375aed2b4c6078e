package server

import (
	"net/http"

	"github.com/retrace-ledger/retrace/client"
)

// getBackup streams a backup of the ledger, without private keys: the token is
// the right to write, and a key would be the right to sign.
func (s *Server) getBackup(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", client.MediaTar)
	cw := &countingWriter{w: w}
	if _, err := s.ledger.Backup(r.Context(), cw, false, nil); err != nil {
		s.broken(w, r, cw.n, err)
	}
}
