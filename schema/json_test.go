package schema

import (
	"strings"
	"testing"
)

// However deep a document is, what is said of it stays readable.
func TestDeepDocument(t *testing.T) {
	_, err := ParseStatement([]byte(`{"predicate":` + strings.Repeat("[", 100000)))
	if err == nil {
		t.Fatal("an endless list was taken for a statement")
	}
	if n := len(err.Error()); n > 500 {
		t.Errorf("the error has %d bytes: %.100s…", n, err)
	}
}
