package graphql

import (
	"encoding/base64"
	"math"
	"strconv"
	"time"

	"github.com/graph-gophers/graphql-go"

	"github.com/retrace-ledger/retrace/schema"
)

// Long is the scalar Long.
type Long int64

// ImplementsGraphQLType implements decode.Unmarshaler.
func (Long) ImplementsGraphQLType(name string) bool { return name == "Long" }

// UnmarshalGraphQL takes a whole number, or a string of digits from callers
// whose numbers end at 2^53.
func (l *Long) UnmarshalGraphQL(input any) error {
	switch n := input.(type) {
	case int32:
		*l = Long(n)
	case int64:
		*l = Long(n)
	case float64:
		if n != math.Trunc(n) || math.Abs(n) > 1<<53 {
			return badInput("", "%v is not a whole number below 2^53; write it as a string", n)
		}
		*l = Long(n)
	case string:
		v, err := strconv.ParseInt(n, 10, 64)
		if err != nil {
			return badInput("", "%q is not a whole number", clip(n))
		}
		*l = Long(v)
	default:
		return badInput("", "%v is not a Long", input)
	}
	return nil
}

// Digest is the scalar Digest.
type Digest schema.Key

// ImplementsGraphQLType implements decode.Unmarshaler.
func (Digest) ImplementsGraphQLType(name string) bool { return name == "Digest" }

// UnmarshalGraphQL takes ALGORITHM:HEX.
func (d *Digest) UnmarshalGraphQL(input any) error {
	s, _ := input.(string)
	k, err := schema.ParseKey(s)
	*d = Digest(k)
	return err
}

// JSON is the scalar JSON: any value. A value to be written is JSON text.
type JSON struct {
	Value any    // as read
	Text  []byte // to be written
}

// ImplementsGraphQLType implements decode.Unmarshaler.
func (JSON) ImplementsGraphQLType(name string) bool { return name == "JSON" }

// UnmarshalGraphQL takes anything.
func (j *JSON) UnmarshalGraphQL(input any) error {
	j.Value = input
	return nil
}

// MarshalJSON implements json.Marshaler.
func (j JSON) MarshalJSON() ([]byte, error) { return j.Text, nil }

// document is the text of a document given as text, or as a value.
func (j JSON) document() ([]byte, error) {
	if s, ok := j.Value.(string); ok {
		return []byte(s), nil
	}
	return schema.Canonical(j.Value)
}

// jsonOf is v as JSON; null for an empty map.
func jsonOf[V any](v map[string]V) (*JSON, error) {
	if len(v) == 0 {
		return nil, nil
	}
	text, err := schema.Canonical(v)
	return &JSON{Text: text}, err
}

// ID is the scalar ID. The library's own type encodes itself slowly.
type ID string

// ImplementsGraphQLType implements decode.Unmarshaler.
func (ID) ImplementsGraphQLType(name string) bool { return name == "ID" }

// UnmarshalGraphQL takes a string.
func (id *ID) UnmarshalGraphQL(input any) error {
	s, ok := input.(string)
	if !ok {
		return badInput("", "%v is not an ID", input)
	}
	*id = ID(s)
	return nil
}

// opaque makes the id of a node: its kind and value, in a form that nobody is
// tempted to take apart.
func opaque(kind, value string) ID {
	return ID(base64.RawURLEncoding.EncodeToString([]byte(kind + ":" + value)))
}

// The functions below turn what is absent into null.

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func number(n int) *int32 {
	i := int32(n)
	return &i
}

func long(n int64) *Long {
	if n < 0 {
		return nil
	}
	l := Long(n)
	return &l
}

func instant(t time.Time) *graphql.Time {
	if t.IsZero() {
		return nil
	}
	return &graphql.Time{Time: t.UTC()}
}

func list[T any](s []T) *[]T {
	if s == nil {
		s = []T{}
	}
	return &s
}

// clip shortens a value from outside for an error message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:77] + "..."
	}
	return s
}
