package graphql_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/verify"
)

// TestProofsVerify takes every proof that the API gives through the verifier,
// with the log's key and nothing else.
func TestProofsVerify(t *testing.T) {
	w := newWorld(t, nil)
	w.story()
	queries := map[string]string{
		"entry":            `{ entry(index: 3) { proof } }`,
		"model":            `{ model(ref: "forecast@1") { proof } }`,
		"newest model":     `{ model(ref: "forecast") { proof } }`,
		"model's resource": `{ model(ref: "forecast") { resource { proof } } }`,
		"image by tag":     `{ resource(ref: "image:registry.example/train:stable") { proof } }`,
		"run":              `{ resource(ref: "run:train-1") { proof } }`,
		"lineage":          `{ lineage(ref: "forecast@2") { proof } }`,
		"downstream":       `{ lineage(ref: "gitCommit:01234567", direction: DOWNSTREAM) { proof } }`,
		"as it was":        `{ lineage(ref: "forecast", asOfSize: 4) { proof } }`,
		"cut off":          `{ lineage(ref: "forecast", depth: 1) { proof } }`,
		"neighbour":        `{ model(ref: "forecast@1") { step { uses { resource { proof } } } } }`,
		"name":             `{ name(name: "image:registry.example/train:stable") { resource { proof } } }`,
	}
	for name, query := range queries {
		t.Run(name, func(t *testing.T) {
			resp := w.api.Exec(t.Context(), graphql.Request{Query: query})
			if len(resp.Errors) > 0 {
				t.Fatal(resp.Errors)
			}
			proofs := proofsIn(t, resp.Data)
			if len(proofs) == 0 {
				t.Fatalf("no proof in %s", resp.Data)
			}
			for _, p := range proofs {
				b, err := verify.ParseBundle([]byte(p))
				if err != nil {
					t.Fatal(err)
				}
				verdict, err := b.Verify(t.Context(), w.Verifier, nil)
				if err != nil {
					t.Errorf("the proof does not hold: %v", err)
					continue
				}
				if len(verdict.Proven) == 0 || len(verdict.NotProven) == 0 {
					t.Errorf("the verdict says too little: %+v", verdict)
				}
			}
		})
	}
}

func proofsIn(t *testing.T, data []byte) []string {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	var out []string
	var find func(any)
	find = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				if s, ok := e.(string); ok && k == "proof" {
					out = append(out, s)
				}
				find(e)
			}
		case []any:
			for _, e := range v {
				find(e)
			}
		}
	}
	find(v)
	return out
}

func TestInclusionVerifies(t *testing.T) {
	w := newWorld(t, nil)
	w.story()
	resp := w.api.Exec(t.Context(), graphql.Request{Query: `{ entry(index: 3) { inclusion } }`})
	var data struct{ Entry struct{ Inclusion string } }
	if err := json.Unmarshal(resp.Data, &data); err != nil {
		t.Fatal(err)
	}
	p, err := verify.ParseProof([]byte(data.Entry.Inclusion))
	if err != nil {
		t.Fatal(err)
	}
	e, err := w.Entry(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Verify(e.Commitment, w.Verifier); err != nil {
		t.Errorf("the inclusion proof: %v", err)
	}
}

// TestRecord takes a statement and an envelope, as values and as text.
func TestRecord(t *testing.T) {
	w := newWorld(t, nil)
	ctx := graphql.Allow(t.Context(), graphql.Rights{Record: true, Restore: true, Submitter: "token"})
	claim := ledgertest.Claim(t, "one")
	signed := w.model("m", "1", "", ledgertest.Subject("m"))
	value := func(raw []byte) (v any) {
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	tests := []struct {
		name     string
		argument string
		given    any
		evidence string
	}{
		{"statement as text", "statement", string(claim.Payload), "claimed"},
		{"statement as a value", "statement", value(ledgertest.Claim(t, "two").Payload), "claimed"},
		{"envelope as text", "envelope", string(signed.Raw), "observed"},
		{"envelope as a value", "envelope", value(w.model("m", "2", "", ledgertest.Subject("m")).Raw), "observed"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			query := fmt.Sprintf(`mutation($given: JSON) { record(%s: $given) { index evidence statement } }`, tt.argument)
			resp := w.api.Exec(ctx, graphql.Request{Query: query, Variables: map[string]any{"given": tt.given}})
			if len(resp.Errors) > 0 {
				t.Fatal(resp.Errors)
			}
			var data struct {
				Record struct {
					Index     int64
					Evidence  string
					Statement map[string]any
				}
			}
			if err := json.Unmarshal(resp.Data, &data); err != nil {
				t.Fatal(err)
			}
			if data.Record.Index != int64(1+i) || data.Record.Evidence != tt.evidence || data.Record.Statement["predicateType"] == nil {
				t.Errorf("recorded as %+v, want entry %d, %s", data.Record, 1+i, tt.evidence)
			}
		})
	}
	bad := []struct{ name, query, says string }{
		{"nothing", `mutation { record { index } }`, "either"},
		{"both", `mutation { record(statement: "{}", envelope: "{}") { index } }`, "either"},
		{"truncated", `mutation { record(statement: "{") { index } }`, "statement: "},
		{"no statement", `mutation { record(statement: {a: 1}) { index } }`, "statement"},
		{"wrong digest", `mutation { record(statement: {_type: "https://in-toto.io/Statement/v1", predicateType: "x", subject: [{digest: {sha256: "abc"}}]}) { index } }`, "statement.subject.0.digest.sha256"},
	}
	before := w.Size()
	for _, tt := range bad {
		t.Run(tt.name, func(t *testing.T) {
			resp := w.api.Exec(ctx, graphql.Request{Query: tt.query})
			if len(resp.Errors) == 0 || resp.Errors[0].Extensions["code"] != graphql.CodeBadInput || !strings.Contains(resp.Errors[0].Message, tt.says) {
				t.Errorf("got %v, want %q", resp.Errors, tt.says)
			}
		})
	}
	if w.Size() != before {
		t.Errorf("%d entries were recorded from bad input", w.Size()-before)
	}
}

// FuzzQuery: no query brings the API down, and every answer is JSON.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		`{ checkpoint { size } }`,
		`query Q($i: Long = 99999999999999999999) { entry(index: $i) { index } }`,
		`{ model(ref: "forecast@1") { inputs(kind: "git") { digest } lineage(depth: 2) { edges { from { id } } } } }`,
		`mutation { record(statement: {a: [1, 2.5, "x", null, true]}) { index } }`,
		`{ __schema { types { name fields { name type { name ofType { name } } } } } }`,
		`{ models(first: 1, after: "MTo4OjM") { pageInfo { endCursor } } }`,
		`fragment A on Query { ...A } { ...A }`,
	} {
		f.Add(seed)
	}
	w := newWorld(f, nil)
	w.story()
	f.Fuzz(func(t *testing.T, query string) {
		resp := w.api.Exec(t.Context(), graphql.Request{Query: query})
		if resp.Data != nil && !json.Valid(resp.Data) {
			t.Errorf("%q was answered with %q", query, resp.Data)
		}
		if resp.Data == nil && len(resp.Errors) == 0 {
			t.Errorf("%q was not answered", query)
		}
		for _, e := range resp.Errors {
			if e.Extensions["code"] == graphql.CodeInternal {
				t.Errorf("%q: %v", query, e)
			}
		}
	})
}
