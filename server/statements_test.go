package server_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/server"
	"github.com/retrace-ledger/retrace/verify/sigstore/sigstoretest"
)

func TestPostDocuments(t *testing.T) {
	w := newWorld(t, server.Options{})
	env := ledgertest.Claim(t, "one")
	tests := []struct {
		name, media, body string
		entries           int
	}{
		{"envelope", "application/vnd.dsse.envelope.v1+json", string(env.Raw), 1},
		{"statement", "application/vnd.in-toto+json", string(ledgertest.Claim(t, "two").Payload), 1},
		{"JSON lines", "application/x-ndjson", string(ledgertest.Claim(t, "three").Raw) + "\n" + string(ledgertest.Claim(t, "four").Raw) + "\n", 2},
		{"bundle of in-toto", "application/vnd.in-toto.bundle", string(ledgertest.Claim(t, "seven").Raw) + "\n", 1},
		{"bundle of Sigstore", "application/vnd.dev.sigstore.bundle+json;version=0.1", string(sigstoretest.New(t).Bundle("0.1", "ada@example.com", "https://login.example.com", ledgertest.Claim(t, "eight").Payload)), 1},
		{"batch with an envelope as it stands", "application/json", fmt.Sprintf(`{"source":"s","envelopes":[%s]}`, ledgertest.Claim(t, "five").Raw), 1},
		{"batch in base64", "application/json", fmt.Sprintf(`{"namespace":"n","envelopes":[%q]}`, base64.StdEncoding.EncodeToString(ledgertest.Claim(t, "six").Raw)), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := w.Size()
			status, body := w.call("POST", "/v1/statements", tt.body, w.bearer(), "Content-Type: "+tt.media)
			if status != 200 {
				t.Fatalf("status %d: %s", status, body)
			}
			var r struct {
				Entries []struct{ Index int64 }
				Size    int64
			}
			if err := json.Unmarshal([]byte(body), &r); err != nil {
				t.Fatal(err)
			}
			if len(r.Entries) != tt.entries || r.Size != before+int64(tt.entries) || r.Entries[0].Index != before {
				t.Errorf("receipt %s, want %d entries from %d on", body, tt.entries, before)
			}
		})
	}
	// The envelope is kept byte for byte, and once.
	e, err := w.Entry(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(env.Raw), string(e.Envelope.Raw)); diff != "" {
		t.Errorf("envelope (-sent +kept):\n%s", diff)
	}
	size := w.Size()
	if status, body := w.call("POST", "/v1/statements", string(env.Raw), w.bearer(), asJSON); status != 200 || !strings.Contains(body, `"duplicate":true`) || w.Size() != size {
		t.Errorf("posting it again = %d %s, and the ledger grew by %d", status, body, w.Size()-size)
	}
}

// TestBadStatements: whatever is wrong is named, and nothing is recorded.
func TestBadStatements(t *testing.T) {
	w := newWorld(t, server.Options{})
	good := string(ledgertest.Claim(t, "good").Raw)
	tests := []struct {
		name, media, body string
		status            int
		field             string
	}{
		{"form", "application/x-www-form-urlencoded", "a=b", 422, "Content-Type"},
		{"text", "text/plain", good, 422, "Content-Type"},
		{"no type", "", good, 422, "Content-Type"},
		{"truncated", "application/json", good[:len(good)/2], 422, "payload"},
		{"empty", "application/json", "", 422, ""},
		{"array of numbers", "application/json", "[1,2]", 422, ""},
		{"digest of a wrong length", "application/json", `{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","subject":[{"digest":{"sha256":"abc"}}]}`, 422, "subject.0.digest.sha256"},
		{"unknown field of a batch", "application/json", `{"envelopes":[],"cursor":1}`, 422, "cursor"},
		{"empty batch", "application/json", `{"envelopes":[]}`, 422, ""},
		{"one bad envelope of two", "application/json", `{"envelopes":[` + good + `,{"payloadType":"x"}]}`, 422, "envelopes.1.payload"},
		{"loose base64", "application/json", `{"envelopes":["e30"]}`, 422, "envelopes.0"},
		{"cursor twice", "application/json", `{"envelopes":[],"cursors":[{"source":"s","from":"","to":"a"},{"source":"s","from":"a","to":"b"}]}`, 422, "cursors"},
		{"too many envelopes", "application/json", `{"envelopes":[` + strings.Repeat(good+",", 4096) + good + `]}`, 413, ""},
		{"too large", "application/json", `"` + strings.Repeat("x", 17<<20) + `"`, 413, ""},
		{"second genesis", "application/json", string(w.Genesis(t).Raw), 422, "predicateType"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, body := w.call("POST", "/v1/statements", tt.body, w.bearer(), "Content-Type: "+tt.media)
			p := problem(t, body)
			if status != tt.status || p.Status != tt.status || p.Field != tt.field || p.Detail == "" {
				t.Errorf("got %d %s, want status %d and field %q", status, body, tt.status, tt.field)
			}
			if strings.Contains(body, w.dir) || strings.Contains(body, w.Dir()) {
				t.Errorf("the answer names a folder of the server: %s", body)
			}
		})
	}
	if w.Size() != 1 {
		t.Errorf("the ledger has %d entries, want genesis alone", w.Size())
	}
}

// TestTwoClientsRaceOneCursor: many agents read the same source from the same
// place; one wins each step, and the others learn where the source is.
func TestTwoClientsRaceOneCursor(t *testing.T) {
	w := newWorld(t, server.Options{})
	const racers, rounds = 8, 5
	at := ""
	for round := range rounds {
		to := fmt.Sprint(round)
		var wg sync.WaitGroup
		errs := make([]error, racers)
		for i := range racers {
			env := ledgertest.Claim(t, fmt.Sprintf("round %d racer %d", round, i))
			wg.Go(func() {
				_, errs[i] = w.client.Append(t.Context(), schema.Batch{Source: "s", Envelopes: []schema.Envelope{env}, Cursors: []schema.Cursor{{Source: "s", From: at, To: to}}})
			})
		}
		wg.Wait()
		won := 0
		for i, err := range errs {
			var refused *client.Error
			switch {
			case err == nil:
				won++
			case !errors.As(err, &refused) || refused.Status != 409 || refused.Cursor == nil:
				t.Errorf("racer %d: %v, want a conflict", i, err)
			default:
				want := client.StoredCursor{Source: "s", Stored: to, Expected: at}
				if diff := cmp.Diff(want, *refused.Cursor); diff != "" {
					t.Errorf("conflict (-want +got):\n%s", diff)
				}
			}
		}
		if won != 1 {
			t.Errorf("round %d: %d racers won, want one", round, won)
		}
		at = to
	}
	if got, err := w.client.Cursor(t.Context(), "", "s"); err != nil || got != at {
		t.Errorf("Cursor = %q, %v; want %q", got, err, at)
	}
	if want := int64(1 + rounds); w.Size() != want {
		t.Errorf("the ledger has %d entries, want %d: the losers' were refused whole", w.Size(), want)
	}
}

func TestEntriesPages(t *testing.T) {
	w := newWorld(t, server.Options{})
	var envelopes []schema.Envelope
	for i := range 1500 {
		envelopes = append(envelopes, ledgertest.Claim(t, fmt.Sprint(i)))
	}
	if _, err := w.client.Append(t.Context(), schema.Batch{Source: "s", Envelopes: envelopes}); err != nil {
		t.Fatal(err)
	}
	status, body, h := w.callFull("GET", "/v1/entries?from=10", "")
	if n := strings.Count(body, "\n"); status != 200 || n != 1000 || h.Get(client.SizeHeader) != "1501" {
		t.Errorf("a page = %d with %d lines at size %s, want 1000 of 1501", status, n, h.Get(client.SizeHeader))
	}
	l, err := w.client.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := int64(0)
	for e, err := range l.Entries(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		own, err := w.Entry(t.Context(), next)
		if err != nil {
			t.Fatal(err)
		}
		if e.Index != next || e.Commitment != own.Commitment {
			t.Fatalf("entry %d came as %d with commitment %x", next, e.Index, e.Commitment)
		}
		next++
	}
	if next != 1501 {
		t.Errorf("%d entries came, want 1501", next)
	}
	for _, q := range []string{"from=-1", "from=x", "to=1.5", "from=99999999999999999999"} {
		if status, body := w.call("GET", "/v1/entries?"+q, ""); status != 422 {
			t.Errorf("GET /v1/entries?%s = %d %s, want 422", q, status, body)
		}
	}
	if status, body := w.call("GET", "/v1/entries?from=9223372036854775807", ""); status != 200 || body != "" {
		t.Errorf("entries beyond the end = %d %q, want none", status, body)
	}
}
