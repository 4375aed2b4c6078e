package server

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/schema"
)

// maxEvents is how many events a batch may have.
const maxEvents = 1000

// cloudEvent is one event (CloudEvents 1.0.2, spec.md), with what retrace reads
// of it. Extension attributes are checked and not kept.
type cloudEvent struct {
	ID              string
	Source          string
	Type            string
	Subject         string
	DataContentType string
	Data            []byte // nil if there is none
}

// postCloudEvents takes events in binary, structured and batched mode. Data that
// is a statement, an envelope, a bundle or several of them is recorded as POST
// /v1/statements records it; any other event has the source looked at that it
// names, and is no fact. All events of a request are taken, or none.
func (s *Server) postCloudEvents(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		err = &graphql.Error{Code: graphql.CodeLimit, Message: fmt.Sprintf("the body is larger than the limit of %d bytes", large.Limit)}
	} else if err != nil {
		err = badInput("", "the body could not be read to its end")
	}
	var events []cloudEvent
	if err == nil {
		events, err = parseEvents(r.Header, body)
	}
	var answer eventsAnswer
	if err == nil {
		answer, err = s.take(r, events)
	}
	if cursor := (*ledger.CursorError)(nil); errors.As(err, &cursor) {
		answer, err = s.take(r, events) // the same event came twice at once: the other is recorded now
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.answerJSON(w, r, answer)
}

// eventsAnswer says what became of events.
type eventsAnswer struct {
	Events  int               `json:"events"`
	Sources int               `json:"sources"`           // that are looked at
	Entries []schema.Recorded `json:"entries,omitempty"` // of the documents, in order
	Size    int64             `json:"size,omitzero"`     // of the ledger that holds them
}

// take records the documents in events and wakes the sources that the others
// name.
func (s *Server) take(r *http.Request, events []cloudEvent) (eventsAnswer, error) {
	answer := eventsAnswer{Events: len(events)}
	batch := schema.Batch{Source: "cloudevents", Submitter: who(r).name()}
	var waking []cloudEvent
	given := map[string]string{} // sources and IDs of this request, by their cursors
	for i, e := range events {
		field := ""
		if len(events) > 1 {
			field = strconv.Itoa(i)
		}
		docs, err := schema.ParseDocument(e.Data)
		switch {
		case e.Data == nil || errors.Is(err, schema.ErrUnsupported) || err != nil && s.wakes(e):
			if !s.wakes(e) {
				return answer, badInput(join(field, "type"), notTaken(e, err))
			}
			waking = append(waking, e)
			continue
		case err != nil:
			return answer, below(join(field, "data"), err)
		}
		cursor := e.cursor()
		switch seen, ok := given[cursor.Source]; {
		case ok && seen != cursor.To:
			return answer, badInput(join(field, "id"), "is that of another event of this source in the same batch")
		case ok:
			continue
		}
		given[cursor.Source] = cursor.To
		if cursor.From, err = s.ledger.Cursor(r.Context(), schema.DefaultNamespace, cursor.Source); err != nil {
			return answer, err
		}
		switch cursor.From {
		case "":
			batch.Cursors = append(batch.Cursors, cursor)
		case cursor.To:
		default:
			return answer, &graphql.Error{Code: graphql.CodeConflict, Field: join(field, "id"), Message: fmt.Sprintf("the event %q of %q was delivered before with other data; an ID stands for one event", clip(e.ID), clip(e.Source))}
		}
		for _, d := range docs {
			batch.Envelopes = append(batch.Envelopes, d.Envelope)
		}
	}
	if len(batch.Envelopes) > 0 {
		if err := who(r).mayRecord(batch.Namespace); err != nil {
			return answer, err
		}
		if err := s.checkIdentities(batch.Envelopes); err != nil {
			return answer, err
		}
		receipt, err := s.measured().Append(r.Context(), batch)
		if err != nil {
			return answer, err
		}
		if err := s.graph.Wait(r.Context(), receipt.Size); err != nil {
			return answer, err
		}
		answer.Entries, answer.Size = receipt.Entries, receipt.Size
	}
	for _, e := range waking {
		answer.Sources += s.opt.Wake(e.Source, e.Subject, true)
	}
	return answer, nil
}

// wakes says whether the event names a source that is watched.
func (s *Server) wakes(e cloudEvent) bool {
	return s.opt.Wake != nil && s.opt.Wake(e.Source, e.Subject, false) > 0
}

// notTaken says why an event that is no document is refused.
func notTaken(e cloudEvent, err error) string {
	why := "it has no data"
	if e.Data != nil {
		why = err.Error()
	}
	return fmt.Sprintf("an event of the type %q is not taken: its data is not something to record (%s), and its source, %q, is not one that is watched", clip(e.Type), why, clip(e.Source))
}

// cursor remembers that the event was taken, in the commit that holds what it
// carries: source and id together name an event (spec.md, "id").
func (e *cloudEvent) cursor() schema.Cursor {
	name := sha256.Sum256([]byte(e.Source + "\x00" + e.ID))
	data := sha256.Sum256(e.Data)
	return schema.Cursor{Source: "cloudevents:" + hex.EncodeToString(name[:]), To: hex.EncodeToString(data[:])}
}

func join(field, more string) string {
	if field == "" {
		return more
	}
	return field + "." + more
}

// parseEvents reads the events of a request in whichever mode they are sent
// (CloudEvents 1.0.2, bindings/http-protocol-binding.md, section 3).
func parseEvents(header http.Header, body []byte) ([]cloudEvent, error) {
	contentType := header.Get("Content-Type")
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" {
		return nil, badInput("Content-Type", "is not a media type")
	}
	if charset := params["charset"]; strings.HasPrefix(media, "application/cloudevents") && charset != "" && !strings.EqualFold(charset, "utf-8") {
		return nil, badInput("Content-Type", fmt.Sprintf("the charset %q is not read; JSON is UTF-8", clip(charset)))
	}
	switch {
	case media == "application/cloudevents+json":
		e, err := parseStructured(body)
		return []cloudEvent{e}, err
	case media == "application/cloudevents-batch+json":
		return parseEventBatch(body)
	case strings.HasPrefix(media, "application/cloudevents"):
		return nil, badInput("Content-Type", fmt.Sprintf("%q is not read; events are taken in JSON, application/cloudevents+json or application/cloudevents-batch+json, or in binary mode", clip(media)))
	case header.Get("Ce-Specversion") == "":
		return nil, badInput("ce-specversion", "missing: neither the Content-Type nor a ce-specversion header says that this is a CloudEvent")
	}
	e, err := parseBinary(header, body)
	return []cloudEvent{e}, err
}

// attribute sets a context attribute and checks its form.
func (e *cloudEvent) attribute(name, value string) error {
	if !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) {
		return badInput(name, "holds control characters")
	}
	switch name {
	case "specversion":
		if value != "1.0" {
			return badInput(name, fmt.Sprintf("%q is not read; want 1.0", clip(value)))
		}
	case "id":
		e.ID = value
	case "source":
		if _, err := url.Parse(value); err != nil {
			return badInput(name, "is not a URI reference")
		}
		e.Source = value
	case "type":
		e.Type = value
	case "subject":
		if value == "" {
			return badInput(name, "is empty; leave it out instead")
		}
		e.Subject = value
	case "datacontenttype":
		if _, _, err := mime.ParseMediaType(value); err != nil {
			return badInput(name, "is not a media type")
		}
		e.DataContentType = value
	case "dataschema":
		if u, err := url.Parse(value); err != nil || !u.IsAbs() {
			return badInput(name, "is not a URI")
		}
	case "time":
		if _, err := time.Parse(time.RFC3339Nano, value); err != nil {
			return badInput(name, "is not a time as RFC 3339 writes it")
		}
	default:
		if strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }) {
			return badInput(clip(name), "is not the name of an attribute: those have lower-case letters and digits alone")
		}
	}
	return nil
}

// complete says which required attribute is missing.
func (e *cloudEvent) complete(version bool) error {
	for _, a := range []struct {
		name  string
		given bool
	}{{"specversion", version}, {"id", e.ID != ""}, {"source", e.Source != ""}, {"type", e.Type != ""}} {
		if !a.given {
			return badInput(a.name, "missing or empty; every event has one")
		}
	}
	return nil
}

// parseStructured reads one event in the JSON format (formats/json-format.md).
func parseStructured(raw []byte) (cloudEvent, error) {
	var e cloudEvent
	var members map[string]jsontext.Value
	if err := json.Unmarshal(raw, &members); err != nil {
		return e, badInput("", "is not a CloudEvent in JSON: "+jsonReason(err))
	}
	version := false
	names := make([]string, 0, len(members))
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names) // so that the same event is refused for the same reason
	for _, name := range names {
		v := members[name]
		switch k := v.Kind(); {
		case name == "data" || name == "data_base64" || k == 'n':
			continue // null is as good as absent
		case k != '"' && (slices.Contains([]string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"}, name) || k == '{' || k == '['):
			return e, badInput(clip(name), "is not a string")
		}
		text := string(v)
		if v.Kind() == '"' {
			unquoted, err := jsontext.AppendUnquote(nil, v)
			if err != nil {
				return e, badInput(clip(name), "is not a string")
			}
			text = string(unquoted)
		}
		if err := e.attribute(name, text); err != nil {
			return e, err
		}
		version = version || name == "specversion"
	}
	if err := e.complete(version); err != nil {
		return e, err
	}
	return e, e.data(members["data"], members["data_base64"])
}

// data sets what the event carries.
func (e *cloudEvent) data(data, encoded jsontext.Value) error {
	absent := func(v jsontext.Value) bool { return len(v) == 0 || v.Kind() == 'n' }
	switch {
	case absent(data) && absent(encoded):
		return nil
	case !absent(data) && !absent(encoded):
		return badInput("data_base64", "stands beside data; an event has one of them")
	case !absent(encoded):
		text, err := jsontext.AppendUnquote(nil, encoded)
		if err == nil {
			e.Data, err = base64.StdEncoding.Strict().DecodeString(string(text))
		}
		if err != nil {
			return badInput("data_base64", "is not base64")
		}
	case data.Kind() == '"' && !isJSONType(e.DataContentType):
		text, err := jsontext.AppendUnquote(nil, data)
		if err != nil {
			return badInput("data", "is not a string")
		}
		e.Data = text
	default:
		e.Data = data
	}
	if e.Data == nil {
		e.Data = []byte{} // there, and empty
	}
	return nil
}

// isJSONType says whether data of a content type is a JSON value. Without one it
// is (json-format.md, section 3.1.1).
func isJSONType(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return contentType == "" || err == nil && (strings.HasSuffix(media, "/json") || strings.HasSuffix(media, "+json"))
}

func parseEventBatch(raw []byte) ([]cloudEvent, error) {
	var values []jsontext.Value
	if err := json.Unmarshal(raw, &values); err != nil {
		return nil, badInput("", "is not a JSON array of CloudEvents: "+jsonReason(err))
	}
	if len(values) > maxEvents {
		return nil, &graphql.Error{Code: graphql.CodeLimit, Message: fmt.Sprintf("the batch has %d events; the limit is %d", len(values), maxEvents)}
	}
	var events []cloudEvent
	for i, v := range values {
		e, err := parseStructured(v)
		if err != nil {
			return nil, belowInput(strconv.Itoa(i), err)
		}
		events = append(events, e)
	}
	return events, nil
}

// belowInput prefixes the field of what badInput returned.
func belowInput(field string, err error) error {
	var e *graphql.Error
	if !errors.As(err, &e) {
		return err
	}
	prefixed := *e
	prefixed.Field = strings.TrimSuffix(join(field, e.Field), ".")
	return &prefixed
}

// parseBinary reads one event whose attributes are headers.
func parseBinary(header http.Header, body []byte) (cloudEvent, error) {
	e := cloudEvent{DataContentType: header.Get("Content-Type")}
	names := make([]string, 0, len(header))
	for name := range header {
		names = append(names, name)
	}
	slices.Sort(names)
	version := false
	for _, name := range names {
		attribute, ok := strings.CutPrefix(strings.ToLower(name), "ce-")
		if !ok {
			continue
		}
		if len(header[name]) > 1 {
			return e, badInput("ce-"+clip(attribute), "is given twice")
		}
		if attribute == "datacontenttype" {
			return e, badInput("ce-datacontenttype", "is not a header of binary mode: Content-Type says it")
		}
		value, err := headerValue(header[name][0])
		if err == nil {
			err = e.attribute(attribute, value)
		}
		if err != nil {
			return e, belowHeader(attribute, err)
		}
		version = version || attribute == "specversion"
	}
	if err := e.complete(version); err != nil {
		return e, belowHeader("", err)
	}
	if len(body) > 0 {
		e.Data = body
	}
	return e, nil
}

// belowHeader names the header that an attribute came in.
func belowHeader(attribute string, err error) error {
	var e *graphql.Error
	if !errors.As(err, &e) {
		return badInput("ce-"+clip(attribute), err.Error())
	}
	named := *e
	named.Field = "ce-" + e.Field
	return &named
}

// headerValue decodes the value of an attribute in a header
// (http-protocol-binding.md, section 3.1.3.2).
func headerValue(v string) (string, error) {
	if len(v) >= 2 && strings.HasPrefix(v, `"`) && strings.HasSuffix(v, `"`) {
		v = v[1 : len(v)-1] // older senders quote
	}
	decoded, err := url.PathUnescape(v)
	if err != nil {
		return "", errors.New("is not percent-encoded: a % stands before two hex digits")
	}
	return decoded, nil
}

// jsonReason is why a body is not the JSON that it should be.
func jsonReason(err error) string {
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("at byte %d: %v", syntax.ByteOffset, syntax.Err)
	}
	return "it is another kind of value"
}
