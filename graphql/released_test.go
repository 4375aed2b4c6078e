package graphql_test

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// introspected is a schema as introspection shows it, as far as it can break.
type introspected struct {
	Schema struct {
		Types []introspectedKind
	} `json:"__schema"`
}

type introspectedKind struct {
	Name       string
	Kind       string
	Fields     []introspectedField
	EnumValues []struct{ Name string }
}

type introspectedField struct {
	Name string
	Args []introspectedValue
	Type introspectedType
}

type introspectedValue struct {
	Name         string
	Type         introspectedType
	DefaultValue *string
}

type introspectedType struct {
	Kind   string
	Name   *string
	OfType *introspectedType
}

func (t introspectedType) String() string {
	switch {
	case t.Kind == "NON_NULL":
		return t.OfType.String() + "!"
	case t.Kind == "LIST":
		return "[" + t.OfType.String() + "]"
	}
	return *t.Name
}

// TestReleasedSchemaHolds compares the schema with the one that was released
// last: what others ask for is still there, of the same type, and asks for nothing
// that they do not give. A release writes testdata/released.json anew.
func TestReleasedSchemaHolds(t *testing.T) {
	var released, now introspected
	raw, err := os.ReadFile("testdata/released.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &released); err != nil {
		t.Fatal(err)
	}
	if raw, err = newWorld(t, nil).api.Introspection(); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &now); err != nil {
		t.Fatal(err)
	}
	if len(released.Schema.Types) < 20 {
		t.Fatalf("the released schema has %d types", len(released.Schema.Types))
	}
	for _, old := range released.Schema.Types {
		i := slices.IndexFunc(now.Schema.Types, func(x introspectedKind) bool { return x.Name == old.Name })
		if i < 0 || now.Schema.Types[i].Kind != old.Kind {
			t.Errorf("the type %s is gone, or of another kind", old.Name)
			continue
		}
		for _, f := range old.Fields {
			checkField(t, old.Name, f, now.Schema.Types[i].Fields)
		}
		for _, v := range old.EnumValues {
			if !slices.Contains(now.Schema.Types[i].EnumValues, v) {
				t.Errorf("%s.%s is gone", old.Name, v.Name)
			}
		}
	}
}

func checkField(t *testing.T, typ string, old introspectedField, fields []introspectedField) {
	t.Helper()
	i := slices.IndexFunc(fields, func(f introspectedField) bool { return f.Name == old.Name })
	if i < 0 {
		t.Errorf("%s.%s is gone", typ, old.Name)
		return
	}
	f := fields[i]
	if f.Type.String() != old.Type.String() {
		t.Errorf("%s.%s is %s, it was %s", typ, old.Name, f.Type, old.Type)
	}
	for _, a := range old.Args {
		if !slices.ContainsFunc(f.Args, func(b introspectedValue) bool { return b.Name == a.Name && b.Type.String() == a.Type.String() }) {
			t.Errorf("%s.%s no longer takes %s: %s", typ, old.Name, a.Name, a.Type)
		}
	}
	for _, a := range f.Args {
		known := slices.ContainsFunc(old.Args, func(b introspectedValue) bool { return b.Name == a.Name })
		if !known && a.Type.Kind == "NON_NULL" && a.DefaultValue == nil {
			t.Errorf("%s.%s now demands %s", typ, old.Name, a.Name)
		}
	}
}
