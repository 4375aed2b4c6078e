package server

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// maxBody is how many bytes a request with statements may have: a whole batch
// in base64, and room for what stands around it.
const maxBody = schema.MaxBatchBytes/3*4 + 4<<20

// submitter is who hands in what comes without a name: whoever holds the
// server's token.
const submitter = "token"

// postStatements records what is posted, whole or not at all: a batch, or any
// document that `retrace record` takes.
func (s *Server) postStatements(w http.ResponseWriter, r *http.Request) {
	raw, err := readJSON(w, r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	batch, err := parseBatch(raw)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if batch.Submitter == "" || !who(r).admin {
		batch.Submitter = who(r).name() // a machine does not say who it is; its token does
	}
	if err := who(r).mayRecord(batch.Namespace); err != nil {
		s.refuse(w, r, err)
		return
	}
	// What a watcher read is recorded as it is, and graded: one odd bundle in a
	// registry stops no source.
	if len(batch.Cursors) == 0 {
		if err := s.checkIdentities(batch.Envelopes); err != nil {
			s.refuse(w, r, err)
			return
		}
	}
	receipt, err := s.measured().Append(r.Context(), batch)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if err := s.graph.Wait(r.Context(), receipt.Size); err != nil {
		s.refuse(w, r, err)
		return
	}
	s.answerJSON(w, r, receipt)
}

// checkIdentities refuses bundles that pass themselves off as signed by an
// identity that the ledger knows.
func (s *Server) checkIdentities(envelopes []schema.Envelope) error {
	for i, env := range envelopes {
		if err := verify.CheckIdentity(env, s.graph.Keys()); err != nil {
			if len(envelopes) == 1 {
				return err
			}
			return below("envelopes."+strconv.Itoa(i), err)
		}
	}
	return nil
}

// inTotoBundle is JSON Lines of envelopes (in-toto/attestation, bundle.md).
const inTotoBundle = "application/vnd.in-toto.bundle"

// readJSON reads a body that is JSON or JSON Lines. Types that a form of a web
// page could send are refused.
func readJSON(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(media, "application/") || !strings.Contains(media, "json") && media != inTotoBundle {
		return nil, badInput("Content-Type", "has to be a JSON type, such as application/json")
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, &graphql.Error{Code: graphql.CodeLimit, Message: fmt.Sprintf("the body is larger than the limit of %d bytes", large.Limit)}
	}
	if err != nil {
		return nil, badInput("", "the body could not be read to its end")
	}
	return raw, nil
}

func parseBatch(raw []byte) (schema.Batch, error) {
	var probe struct {
		Envelopes jsontext.Value `json:"envelopes"`
		Cursors   jsontext.Value `json:"cursors"`
	}
	if err := json.Unmarshal(raw, &probe); err == nil && (probe.Envelopes != nil || probe.Cursors != nil) {
		return parseWire(raw)
	}
	docs, err := schema.ParseDocument(raw)
	if err != nil {
		return schema.Batch{}, err
	}
	batch := schema.Batch{Source: "record"}
	for _, d := range docs {
		batch.Envelopes = append(batch.Envelopes, d.Envelope)
	}
	return batch, nil
}

func parseWire(raw []byte) (schema.Batch, error) {
	var wire client.Batch
	if err := json.Unmarshal(raw, &wire, json.RejectUnknownMembers(true)); err != nil {
		return schema.Batch{}, wireError(err)
	}
	batch := schema.Batch{Namespace: wire.Namespace, Source: wire.Source, Submitter: wire.Submitter, Cursors: wire.Cursors}
	for i, v := range wire.Envelopes {
		field := "envelopes." + strconv.Itoa(i)
		bytes, err := envelopeBytes(v)
		if err != nil {
			return batch, badInput(field, err.Error())
		}
		env, err := schema.ParseEnvelope(bytes)
		if err != nil {
			return batch, below(field, err)
		}
		batch.Envelopes = append(batch.Envelopes, env)
	}
	return batch, nil
}

func envelopeBytes(v jsontext.Value) ([]byte, error) {
	if v.Kind() != '"' {
		return v, nil
	}
	text, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.Strict().DecodeString(string(text))
}

// wireError names the member of a batch that is at fault.
func wireError(err error) error {
	var sem *json.SemanticError
	if errors.As(err, &sem) {
		field := strings.ReplaceAll(strings.TrimPrefix(string(sem.JSONPointer), "/"), "/", ".")
		if errors.Is(sem.Err, json.ErrUnknownName) {
			return badInput(field, "unknown field")
		}
		return badInput(field, "has the wrong type")
	}
	return badInput("", "is not a batch in JSON")
}

// below prefixes the field of err.
func below(field string, err error) error {
	var fe *schema.FieldError
	if !errors.As(err, &fe) {
		return err
	}
	if fe.Field != "" {
		field += "." + fe.Field
	}
	return &schema.FieldError{Field: field, Reason: fe.Reason}
}

// getCursor says how far a source was read.
func (s *Server) getCursor(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	source := q.Get("source")
	if source == "" {
		s.refuse(w, r, badInput("source", "missing"))
		return
	}
	at, err := s.ledger.Cursor(r.Context(), q.Get("namespace"), source)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.answerJSON(w, r, client.CursorAnswer{Source: source, Cursor: at})
}

func (s *Server) answerJSON(w http.ResponseWriter, r *http.Request, v any) {
	raw, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append(raw, '\n'))
}

// Bounds of one page of entries.
const (
	maxEntries   = 1000
	maxPageBytes = 16 << 20
)

// getEntries writes the entries from `from` on and below `to`, one JSON object
// a line. A page ends early at 1,000 entries or 16 MiB: whoever wants the rest asks
// again from the one after the last.
func (s *Server) getEntries(w http.ResponseWriter, r *http.Request) {
	size := s.ledger.Size()
	from, err := indexArg(r, "from", 0)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	to, err := indexArg(r, "to", size)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	to = min(to, size, from+maxEntries)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set(client.SizeHeader, strconv.FormatInt(size, 10))
	w.Header().Set("Content-Type", "application/x-ndjson")
	written := 0
	if from >= to {
		return
	}
	for e, err := range s.ledger.Entries(r.Context(), from) {
		if err != nil {
			s.broken(w, r, written, err)
			return
		}
		line, err := json.Marshal(client.EntryLine{Index: e.Index, State: e.State, Commitment: e.Commitment[:], Body: e.Body})
		if err != nil {
			s.broken(w, r, written, err)
			return
		}
		n, err := w.Write(append(line, '\n'))
		if written += n; err != nil || written >= maxPageBytes || e.Index+1 >= to {
			return
		}
	}
}

// broken ends a stream that cannot go on, so that nobody takes what came for
// the whole.
func (s *Server) broken(w http.ResponseWriter, r *http.Request, written int, err error) {
	if written == 0 {
		s.refuse(w, r, err)
		return
	}
	if r.Context().Err() == nil {
		s.log.ErrorContext(r.Context(), "streaming "+r.URL.Path, "err", err)
	}
	panic(http.ErrAbortHandler)
}

func indexArg(r *http.Request, name string, def int64) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, badInput(name, clip(text)+" is not the index of an entry")
	}
	return n, nil
}
