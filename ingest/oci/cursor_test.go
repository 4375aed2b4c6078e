package oci

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
)

// TestCursorLimit: a repository with too many tags is told so, and what to do.
func TestCursorLimit(t *testing.T) {
	c := cursor{}
	state := tagState{digest: sha256.Sum256([]byte("image")), previous: sha256.Sum256([]byte("statement"))}
	for i := range 9000 {
		c[fmt.Sprintf("v%08d", i)] = state
	}
	text, err := c.encode()
	if err != nil {
		t.Fatalf("9000 tags: %v", err)
	}
	if len(text) > maxCursor {
		t.Errorf("a cursor of %d bytes; the limit is %d", len(text), maxCursor)
	}
	for i := range 3000 {
		c[fmt.Sprintf("w%08d", i)] = state
	}
	if _, err := c.encode(); err == nil || !strings.Contains(err.Error(), "?tag=") {
		t.Errorf("12000 tags: %v, want an error that names ?tag=", err)
	}
}
