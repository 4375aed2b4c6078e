package server_test

import (
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/server"
)

// TestPostCheckpoint shows a server notes: its own, one that nobody signed, and
// none.
func TestPostCheckpoint(t *testing.T) {
	w := newWorld(t, server.Options{})
	_, note := w.call("GET", "/checkpoint", "")
	if status, body := w.call("POST", "/v1/checkpoint", note); status != 204 {
		t.Errorf("its own checkpoint: %d %s, want 204", status, body)
	}
	for name, bad := range map[string]string{
		"another size": strings.Replace(note, "\n1\n", "\n2\n", 1),
		"no note":      "size 2\n",
		"nothing":      "",
		"too long":     strings.Repeat("x", 1<<20),
	} {
		if status, body := w.call("POST", "/v1/checkpoint", bad); status != 422 {
			t.Errorf("%s: %d %s, want 422", name, status, body)
		}
	}
	if status, _ := w.call("GET", "/readyz", ""); status != 200 {
		t.Error("what nobody signed stopped the server")
	}
	if _, err := w.client.Append(t.Context(), schema.Batch{Namespace: "default", Envelopes: []schema.Envelope{w.Sign(t, "https://example.com/test/v1", map[string]string{"text": "after"},
		schema.Descriptor{Name: "thing", Digest: schema.DigestSet{schema.SHA256: schema.BytesKey([]byte("after")).Hex()}})}}); err != nil {
		t.Errorf("what nobody signed stopped the ledger: %v", err)
	}
}
