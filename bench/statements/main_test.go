package main

import (
	"bytes"
	"io"
	"testing"

	"github.com/retrace-ledger/retrace/schema"
)

// TestRun checks that retrace would read what is printed.
func TestRun(t *testing.T) {
	var b bytes.Buffer
	if err := run(&b, []string{"3"}); err != nil {
		t.Fatal(err)
	}
	docs, err := schema.ParseDocument(b.Bytes())
	if err != nil || len(docs) != 21 {
		t.Errorf("ParseDocument = %d documents, %v, want 21", len(docs), err)
	}
	for _, args := range [][]string{nil, {"x"}, {"0"}} {
		if err := run(io.Discard, args); err == nil {
			t.Errorf("run(%q) did not refuse", args)
		}
	}
}
