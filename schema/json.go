package schema

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// FieldError says which field of a document is wrong, and why. Every decoding
// function of this package returns one (possibly wrapped) for bad input.
type FieldError struct {
	Field  string // dotted path from the document's root, such as "predicate.builder.id"; empty for the document itself
	Reason string
}

func (e *FieldError) Error() string {
	if e.Field == "" {
		return e.Reason
	}
	return e.Field + ": " + e.Reason
}

func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// under prefixes the field of err, if it is a FieldError, with the path of the
// value that was being decoded.
func under(prefix string, err error) error {
	if err == nil {
		return nil
	}
	var fe *FieldError
	if !errors.As(err, &fe) {
		return fmt.Errorf("%s: %w", prefix, err)
	}
	field := prefix
	if fe.Field != "" {
		field += "." + fe.Field
	}
	return &FieldError{Field: field, Reason: fe.Reason}
}

// Canonical returns v as canonical JSON (RFC 8785). It is the encoding of
// everything that retrace signs or hashes and that is not somebody else's.
func Canonical(v any) ([]byte, error) {
	raw, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encoding %T as JSON: %w", v, err)
	}
	c := jsontext.Value(raw)
	if err := c.Canonicalize(); err != nil {
		return nil, fmt.Errorf("canonicalizing %T: %w", v, err)
	}
	return c, nil
}

// decode reads JSON into v. Names are matched exactly; duplicate names,
// invalid UTF-8 and trailing data are refused. Unknown members are ignored,
// as in-toto asks of consumers.
func decode(data []byte, v any, opts ...json.Options) error {
	return decodeError(json.Unmarshal(data, v, opts...))
}

// decodeStrict is decode that refuses unknown members: for documents whose
// every field retrace defines.
func decodeStrict(data []byte, v any) error {
	return decode(data, v, json.RejectUnknownMembers(true))
}

func decodeError(err error) error {
	if err == nil {
		return nil
	}
	var sem *json.SemanticError
	if errors.As(err, &sem) {
		field := pointerPath(sem.JSONPointer)
		switch {
		case errors.Is(sem.Err, json.ErrUnknownName):
			return fieldErrorf(field, "unknown field")
		case sem.Err != nil:
			return fieldErrorf(field, "%v", sem.Err)
		case sem.JSONKind != 0:
			return fieldErrorf(field, "a JSON %s is not allowed here", kindName(sem.JSONKind))
		}
		return fieldErrorf(field, "%v", err)
	}
	var syn *jsontext.SyntacticError
	if errors.As(err, &syn) {
		return fieldErrorf(pointerPath(syn.JSONPointer), "not valid JSON at byte %d: %v", syn.ByteOffset, syn.Err)
	}
	return fieldErrorf("", "not valid JSON: %v", err)
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "boolean"
	case '"':
		return "string"
	case '0':
		return "number"
	case '{':
		return "object"
	case '[':
		return "array"
	}
	return k.String()
}

// pointerPath turns an RFC 6901 pointer into the dotted form used in messages.
func pointerPath(p jsontext.Pointer) string {
	const most = 200 // bytes; a path can be as long as the document
	var parts []string
	size := 0
	for tok := range p.Tokens() {
		if size += len(tok) + 1; size > most {
			parts = append(parts, "…")
			break
		}
		parts = append(parts, tok)
	}
	return strings.Join(parts, ".")
}
