package server_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/server"
)

// TestPostErasure erases through the server: with the token, an erasure that
// the observer signed, and nothing else.
func TestPostErasure(t *testing.T) {
	w := newWorld(t, server.Options{})
	secret := ledgertest.Claim(t, "what is to go")
	if status, body := w.call("POST", "/v1/statements", string(secret.Raw), w.bearer(), asJSON); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if status, body := w.call("POST", "/v1/statements", string(ledgertest.Claim(t, "what stays").Raw), w.bearer(), asJSON); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	erasure := func(index int64, env schema.Envelope) string {
		raw, err := json.Marshal(client.Erasure{Index: index, Envelope: env.Raw})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	good := w.Erasure(t, 1)
	for _, tt := range []struct {
		name, body string
		headers    []string
		status     int
		detail     string
	}{
		{"no token", erasure(1, good), []string{asJSON}, 401, ""},
		{"unknown field", `{"index":1,"why":"x"}`, []string{w.bearer(), asJSON}, 422, "unknown field"},
		{"no envelope", `{"index":1}`, []string{w.bearer(), asJSON}, 422, ""},
		{"not an erasure", erasure(1, secret), []string{w.bearer(), asJSON}, 422, "not an erasure signed by the observer key"},
		{"of another entry", erasure(2, good), []string{w.bearer(), asJSON}, 422, "is 1, and the entry to erase is 2"},
		{"genesis", erasure(0, good), []string{w.bearer(), asJSON}, 422, "entry 0 cannot be erased"},
		{"not there", erasure(99, good), []string{w.bearer(), asJSON}, 404, ""},
		{"as a statement", string(good.Raw), []string{w.bearer(), asJSON}, 422, "unknown field"},
	} {
		status, body := w.call("POST", "/v1/erasures", tt.body, tt.headers...)
		if status != tt.status || !strings.Contains(body, tt.detail) {
			t.Errorf("%s: %d %s, want %d and %q", tt.name, status, body, tt.status, tt.detail)
		}
	}
	if status, body := w.call("POST", "/v1/statements", string(good.Raw), w.bearer(), asJSON); status != 422 || !strings.Contains(body, "retrace erase") {
		t.Errorf("an erasure as a statement: %d %s", status, body)
	}
	if status, body := w.call("POST", "/v1/erasures", erasure(1, good), w.bearer(), asJSON); status != 200 || !strings.Contains(body, `"size":4`) {
		t.Fatalf("erasing: %d %s", status, body)
	}
	if status, body := w.call("POST", "/v1/erasures", erasure(1, good), w.bearer(), asJSON); status != 409 || !strings.Contains(body, "erased already, by entry 3") {
		t.Errorf("erasing again: %d %s", status, body)
	}
	_, body := w.call("GET", "/v1/entries?from=1&to=2", "")
	if !strings.Contains(body, `"state":"ERASED"`) || strings.Contains(body, `"body"`) {
		t.Errorf("the entry is served as %s", body)
	}
	query := `{"query":"{ entry(index: 1) { state statement signers { keyid } recordedAt namespace evidence summary inclusion proof } }"}`
	status, body := w.call("POST", "/graphql", query, asJSON)
	if status != 200 || strings.Contains(body, "errors") || !strings.Contains(body, `"state":"ERASED","statement":null,"signers":null,"recordedAt":null,"namespace":null,"evidence":null,"summary":null,"inclusion":"`) {
		t.Errorf("GraphQL answers %d %s", status, body)
	}
}
