package schema

import (
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Statement types of in-toto. V01 is read for provenance that builders still
// issue; retrace writes V1 only.
const (
	StatementV1  = "https://in-toto.io/Statement/v1"
	StatementV01 = "https://in-toto.io/Statement/v0.1"
)

// Statement is an in-toto Statement v1: what predicate says about the
// subjects.
type Statement struct {
	Type          string         `json:"_type"`
	Subject       []Descriptor   `json:"subject"`
	PredicateType string         `json:"predicateType"`
	Predicate     jsontext.Value `json:"predicate,omitempty"`
}

// Descriptor is an in-toto ResourceDescriptor. At least one of URI, Digest and
// Content is set; a subject always has a Digest.
type Descriptor struct {
	Name             string         `json:"name,omitempty"`
	URI              string         `json:"uri,omitempty"`
	Digest           DigestSet      `json:"digest,omitempty"`
	Content          []byte         `json:"content,omitempty"`
	DownloadLocation string         `json:"downloadLocation,omitempty"`
	MediaType        string         `json:"mediaType,omitempty"`
	Annotations      map[string]any `json:"annotations,omitempty"`
}

// Key identifies what the descriptor describes: its strongest digest, else
// the digest of its inline content, else its URI.
func (d Descriptor) Key() Key {
	switch {
	case len(d.Digest) > 0:
		return d.Digest.Key()
	case len(d.Content) > 0:
		return BytesKey(d.Content)
	case d.URI != "":
		return URIKey(d.URI)
	}
	return ""
}

// identified reports whether the descriptor has a key.
func (d Descriptor) identified() bool {
	return len(d.Digest) > 0 || len(d.Content) > 0 || d.URI != ""
}

// annotation returns the string annotation called name, or "".
func (d Descriptor) annotation(name string) string {
	s, _ := d.Annotations[name].(string)
	return s
}

func (d Descriptor) check() error {
	if !d.identified() {
		return fieldErrorf("", "has none of digest, uri and content")
	}
	if len(d.Content) > 0 && d.Digest[SHA256] != "" && BytesKey(d.Content) != Key(SHA256+":"+d.Digest[SHA256]) {
		return fieldErrorf("content", "does not have the sha256 digest stated beside it")
	}
	if err := d.Digest.check(); err != nil {
		return under("digest", err)
	}
	return nil
}

// NewStatement builds a Statement v1 around predicate and checks it as a
// decoder would, so that nothing is signed that cannot be read back.
func NewStatement(predicateType string, predicate any, subjects ...Descriptor) (Statement, error) {
	raw, err := Canonical(predicate)
	if err != nil {
		return Statement{}, err
	}
	s := Statement{Type: StatementV1, Subject: subjects, PredicateType: predicateType, Predicate: raw}
	encoded, err := s.Encode()
	if err != nil {
		return Statement{}, err
	}
	s, err = ParseStatement(encoded)
	if err != nil {
		return Statement{}, fmt.Errorf("building a %s statement: %w", predicateType, err)
	}
	if _, err := s.Facts(); err != nil {
		return Statement{}, fmt.Errorf("building a %s statement: %w", predicateType, err)
	}
	return s, nil
}

// Encode returns the statement as canonical JSON: the payload to sign, and
// what `previous` digests are computed over.
func (s Statement) Encode() ([]byte, error) { return Canonical(s) }

// ParseStatement decodes an in-toto statement, v1 or v0.1. Subjects must be
// present, at most MaxSubjects, each with a well-formed digest.
// It does not look into the predicate; Facts does.
func ParseStatement(raw []byte) (Statement, error) {
	var s Statement
	if len(raw) > MaxEnvelope {
		return s, fieldErrorf("", "statement is %d bytes; the limit is %d", len(raw), MaxEnvelope)
	}
	if err := decode(raw, &s); err != nil {
		return s, err
	}
	if s.Type != StatementV1 && s.Type != StatementV01 {
		if s.Type == "" {
			return s, fieldErrorf("_type", "missing; want %q", StatementV1)
		}
		return s, fieldErrorf("_type", "%q is not an in-toto statement; want %q", clip(s.Type), StatementV1)
	}
	if s.PredicateType == "" {
		return s, fieldErrorf("predicateType", "missing")
	}
	if len(s.Subject) == 0 {
		return s, fieldErrorf("subject", "missing or empty; a statement is about at least one subject")
	}
	if len(s.Subject) > MaxSubjects {
		return s, fieldErrorf("subject", "has %d subjects; the limit is %d", len(s.Subject), MaxSubjects)
	}
	for i, d := range s.Subject {
		field := "subject." + strconv.Itoa(i)
		if len(d.Digest) == 0 {
			return s, fieldErrorf(field+".digest", "missing; a subject is matched by its digest")
		}
		if err := d.check(); err != nil {
			return s, under(field, err)
		}
	}
	if len(s.Predicate) > 0 && s.Predicate.Kind() != '{' {
		return s, fieldErrorf("predicate", "must be a JSON object")
	}
	return s, nil
}
