package server_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/server"
	"github.com/retrace-ledger/retrace/verify/sigstore/sigstoretest"
)

const (
	structured = "Content-Type: application/cloudevents+json; charset=UTF-8"
	batched    = "Content-Type: application/cloudevents-batch+json"
)

// event is a structured event around data, which is JSON.
func event(id, data string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"https://ci.example.com/builds","type":"com.example.build.attested","time":"2026-11-27T10:00:00Z","myext":7,"datacontenttype":"application/json","data":%s}`, id, data)
}

// binary are the headers of an event in binary mode.
func binary(id, contentType string) []string {
	return []string{"ce-specversion: 1.0", "ce-id: " + id, "ce-source: https://ci.example.com/builds", "ce-type: com.example.build.attested", "ce-myext: caf%C3%A9%20%25", "Content-Type: " + contentType}
}

type taken struct {
	Events, Sources int
	Entries         []struct {
		Index     int64
		Duplicate bool
	}
	Size int64
}

func (w *world) event(body string, headers ...string) (int, taken, string) {
	w.t.Helper()
	status, got := w.call("POST", "/webhooks/cloudevents", body, append([]string{w.bearer()}, headers...)...)
	var a taken
	if status < 300 {
		if err := json.Unmarshal([]byte(got), &a); err != nil {
			w.t.Fatal(err)
		}
	}
	return status, a, got
}

// TestCloudEvents hands in the same kinds of documents as POST /v1/statements
// takes, in all modes.
func TestCloudEvents(t *testing.T) {
	w := newWorld(t, server.Options{})
	n := 0
	claim := func() schema.Envelope { n++; return ledgertest.Claim(t, fmt.Sprint("claim ", n)) }
	two := string(claim().Raw) + "\n" + string(claim().Raw) + "\n"
	encoded := base64.StdEncoding.EncodeToString(claim().Raw)
	text, err := json.Marshal(two)
	if err != nil {
		t.Fatal(err)
	}
	bundle := sigstoretest.New(t).Bundle("0.3", "ada@example.com", "https://login.example.com", claim().Payload)
	for _, tt := range []struct {
		name, body string
		headers    []string
		events     int
		entries    int // new ones
	}{
		{"binary, an envelope", string(claim().Raw), binary("1", "application/vnd.dsse.envelope.v1+json"), 1, 1},
		{"binary, a statement", string(claim().Payload), binary("2", "application/vnd.in-toto+json"), 1, 1},
		{"binary, JSON lines", two, binary("3", "application/vnd.in-toto.bundle"), 1, 2},
		{"binary, a bundle", string(bundle), binary("4", "application/vnd.dev.sigstore.bundle.v0.3+json"), 1, 1},
		{"structured, an envelope", event("5", string(claim().Raw)), []string{structured}, 1, 1},
		{"structured, a statement", event("6", string(claim().Payload)), []string{structured}, 1, 1},
		{"structured, in base64", strings.Replace(event("7", `"`+encoded+`"`), `"data"`, `"data_base64"`, 1), []string{structured}, 1, 1},
		{"structured, lines as text", strings.Replace(event("8", string(text)), "application/json", "application/x-ndjson", 1), []string{structured}, 1, 0}, // as 3
		{"structured, without a content type", strings.Replace(event("9", string(claim().Raw)), `"datacontenttype":"application/json",`, "", 1), []string{structured}, 1, 1},
		{"a batch", "[" + event("10", string(claim().Raw)) + "," + event("11", string(claim().Payload)) + "]", []string{batched}, 2, 2},
		{"an empty batch", "[]", []string{batched}, 0, 0},
		{"the same event twice in a batch", "[" + event("12", string(claim().Raw)) + "," + event("12", string(ledgertest.Claim(t, fmt.Sprint("claim ", n)).Raw)) + "]", []string{batched}, 2, 1},
	} {
		before := w.Size()
		status, a, body := w.event(tt.body, tt.headers...)
		if status != 200 || a.Events != tt.events || w.Size()-before != int64(tt.entries) {
			t.Errorf("%s: %d %s, and %d new entries; want %d events and %d entries", tt.name, status, body, w.Size()-before, tt.events, tt.entries)
		}
		// The same events again, as a broker redelivers them, are no news.
		before = w.Size()
		if status, _, body := w.event(tt.body, tt.headers...); status != 200 || w.Size() != before {
			t.Errorf("%s again: %d %s, and %d new entries", tt.name, status, body, w.Size()-before)
		}
	}
	// Kept byte for byte, also inside of a structured event.
	for e, err := range w.Entries(t.Context(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Header.Source != "cloudevents" || e.Header.Submitter != "token" {
			t.Errorf("entry %d is of %q by %q", e.Index, e.Header.Source, e.Header.Submitter)
		}
	}
}

// TestCloudEventsOnce: an ID of a source stands for one event, at whichever
// moment it comes again.
func TestCloudEventsOnce(t *testing.T) {
	w := newWorld(t, server.Options{})
	one, other := string(ledgertest.Claim(t, "one").Raw), string(ledgertest.Claim(t, "other").Raw)
	var wg sync.WaitGroup
	var failed atomic.Int64
	for range 8 {
		wg.Go(func() {
			if status, _ := w.call("POST", "/webhooks/cloudevents", event("1", one), w.bearer(), structured); status != 200 {
				failed.Store(int64(status))
			}
		})
	}
	wg.Wait()
	if s := failed.Load(); s != 0 || w.Size() != 2 {
		t.Errorf("eight at once: status %d, %d entries", s, w.Size())
	}
	if status, _, body := w.event(event("1", other), structured); status != 409 || !strings.Contains(body, "delivered before with other data") || w.Size() != 2 {
		t.Errorf("other data under the same ID: %d %s, %d entries", status, body, w.Size())
	}
	if status, _, body := w.event(strings.Replace(event("1", other), "/builds", "/others", 1), structured); status != 200 || w.Size() != 3 {
		t.Errorf("the same ID of another source: %d %s, %d entries", status, body, w.Size())
	}
	if status, _, body := w.event("["+event("2", one)+","+event("2", other)+"]", batched); status != 422 || problem(t, body).Field != "1.id" {
		t.Errorf("two events of one ID in a batch: %d %s", status, body)
	}
}

// TestCloudEventsRefused: whatever is wrong is named, and nothing is recorded or
// looked at.
func TestCloudEventsRefused(t *testing.T) {
	var woken atomic.Int64
	w := newWorld(t, server.Options{Wake: func(source, _ string, now bool) int {
		if source != "https://git.example.com/ml/forecast" {
			return 0
		}
		if now {
			woken.Add(1)
		}
		return 1
	}})
	good := string(ledgertest.Claim(t, "good").Raw)
	without := func(id string) string {
		return strings.Replace(event("1", good), id, "", 1)
	}
	for _, tt := range []struct {
		name, body string
		headers    []string
		status     int
		field      string
	}{
		{"no event", good, []string{asJSON}, 422, "ce-specversion"},
		{"no content type and no event", good, nil, 422, "ce-specversion"},
		{"in another format", "x", []string{"Content-Type: application/cloudevents+avro"}, 422, "Content-Type"},
		{"in another charset", "x", []string{"Content-Type: application/cloudevents+json; charset=latin1"}, 422, "Content-Type"},
		{"no JSON", "x", []string{structured}, 422, ""},
		{"an array in structured mode", "[]", []string{structured}, 422, ""},
		{"an event in batched mode", event("1", good), []string{batched}, 422, ""},
		{"no version", without(`"specversion":"1.0",`), []string{structured}, 422, "specversion"},
		{"another version", strings.Replace(event("1", good), `"1.0"`, `"0.3"`, 1), []string{structured}, 422, "specversion"},
		{"no id", without(`"id":"1",`), []string{structured}, 422, "id"},
		{"an empty id", event("", good), []string{structured}, 422, "id"},
		{"no source", without(`"source":"https://ci.example.com/builds",`), []string{structured}, 422, "source"},
		{"no type", without(`"type":"com.example.build.attested",`), []string{structured}, 422, "type"},
		{"a source that is no URI", strings.Replace(event("1", good), "https://ci", "https://[", 1), []string{structured}, 422, "source"},
		{"a time that is none", strings.Replace(event("1", good), "2026-11-27T", "yesterday", 1), []string{structured}, 422, "time"},
		{"an extension in capitals", strings.Replace(event("1", good), "myext", "myExt", 1), []string{structured}, 422, "myExt"},
		{"an attribute that is an object", strings.Replace(event("1", good), `"myext":7`, `"myext":{}`, 1), []string{structured}, 422, "myext"},
		{"a name twice", strings.Replace(event("1", good), `"myext":7`, `"id":"2"`, 1), []string{structured}, 422, ""},
		{"data twice", strings.Replace(event("1", good), `"data":`, `"data_base64":"AAAA","data":`, 1), []string{structured}, 422, "data_base64"},
		{"loose base64", strings.Replace(event("1", `"A"`), `"data"`, `"data_base64"`, 1), []string{structured}, 422, "data_base64"},
		{"no data", strings.Replace(event("1", "null"), "7", "8", 1), []string{structured}, 422, "type"},
		{"data of another kind", event("1", `{"image":"x"}`), []string{structured}, 422, "type"},
		{"a number", event("1", "7"), []string{structured}, 422, "type"},
		{"a bad document", event("1", `{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","subject":[]}`), []string{structured}, 422, "data.subject"},
		{"one bad of two", "[" + event("1", good) + "," + event("2", "7") + "]", []string{batched}, 422, "1.type"},
		{"one waking, one bad", "[" + strings.Replace(event("1", "{}"), "https://ci.example.com/builds", "https://git.example.com/ml/forecast", 1) + "," + event("2", "7") + "]", []string{batched}, 422, "1.type"},
		{"binary without an id", good, []string{"ce-specversion: 1.0", "ce-source: /x", "ce-type: t", asJSON}, 422, "ce-id"},
		{"binary, badly encoded", good, []string{"ce-specversion: 1.0", "ce-id: %zz", "ce-source: /x", "ce-type: t", asJSON}, 422, "ce-id"},
		{"binary with a content type twice", good, append(binary("1", "application/json"), "ce-datacontenttype: text/plain"), 422, "ce-datacontenttype"},
		{"too many", "[" + strings.Repeat(event("1", "7")+",", 1000) + event("1", "7") + "]", []string{batched}, 413, ""},
		{"too large", strings.Repeat(" ", 17<<20), []string{structured}, 413, ""},
	} {
		status, _, body := w.event(tt.body, tt.headers...)
		if p := problem(t, body); status != tt.status || p.Field != tt.field || p.Detail == "" {
			t.Errorf("%s: %d %s, want status %d and field %q", tt.name, status, body, tt.status, tt.field)
		}
	}
	if w.Size() != 1 || woken.Load() != 0 {
		t.Errorf("%d entries and %d looks after what was refused", w.Size(), woken.Load())
	}
	// An event that is about a source has it looked at, and is no fact.
	about := strings.Replace(event("1", `{"ref":"refs/heads/main"}`), "https://ci.example.com/builds", "https://git.example.com/ml/forecast", 1)
	if status, a, body := w.event(about, structured); status != 200 || a.Sources != 1 || woken.Load() != 1 || w.Size() != 1 {
		t.Errorf("an event about a source: %d %s, %d looks, %d entries", status, body, woken.Load(), w.Size())
	}
	for _, headers := range [][]string{{structured}, {structured, "Authorization: Bearer wrong"}} {
		if status, body := w.call("POST", "/webhooks/cloudevents", event("1", good), headers...); status != 401 {
			t.Errorf("without a token: %d %s", status, body)
		}
	}
	_, metrics := w.call("GET", "/metrics", "")
	for _, want := range []string{`retrace_http_requests_total{code="422",route="POST /webhooks/cloudevents"} 29`, `retrace_rejected_total{reason="BAD_INPUT"} 29`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics do not count %s", want)
		}
	}
}

// TestIdentityRefused: a bundle that passes itself off as signed by an identity
// that the ledger knows is refused, by whichever way it comes in.
func TestIdentityRefused(t *testing.T) {
	w := newWorld(t, server.Options{})
	const builder, login = "https://git.example.com/ml/.github/workflows/build.yml@refs/heads/main", "https://token.example.com"
	ours, theirs := sigstoretest.New(t), sigstoretest.New(t)
	who := ours.Identity(builder, login)
	payload := ledgertest.Claim(t, "claim").Payload
	good, bad := ours.Bundle("0.3", builder, login, payload), theirs.Bundle("0.3", builder, login, payload)
	// Before the ledger knows the identity, nobody can tell.
	if status, body := w.call("POST", "/v1/statements", string(theirs.Bundle("0.3", builder, login, payload)), w.bearer(), asJSON); status != 200 {
		t.Errorf("before: %d %s", status, body)
	}
	raw, err := schema.Canonical(who)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := schema.NewStatement(schema.TrustV1, schema.Trust{Action: "trust", KeyID: who.ID(), Identity: who}, schema.Descriptor{Name: "identity", Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(raw).Hex()}})
	if err != nil {
		t.Fatal(err)
	}
	env, err := w.Observer.SignStatement(trust)
	if err != nil {
		t.Fatal(err)
	}
	if status, body := w.call("POST", "/v1/statements", string(env.Raw), w.bearer(), asJSON); status != 200 {
		t.Fatalf("trusting: %d %s", status, body)
	}
	before := w.Size()
	for name, send := range map[string]func([]byte) (int, string){
		"a document": func(b []byte) (int, string) { return w.call("POST", "/v1/statements", string(b), w.bearer(), asJSON) },
		"a cloud event": func(b []byte) (int, string) {
			s, _, body := w.event(event(fmt.Sprint(len(b)), string(b)), structured)
			return s, body
		},
		"one of a batch": func(b []byte) (int, string) {
			return w.call("POST", "/v1/statements", `{"envelopes":[`+string(b)+`,`+string(b)+`]}`, w.bearer(), asJSON)
		},
	} {
		if status, body := send(bad); status != 422 || !strings.Contains(problem(t, body).Field, "verificationMaterial") || !strings.Contains(body, "does not verify as signed by "+builder) {
			t.Errorf("%s that is not by the identity: %d %s", name, status, body)
		}
		if w.Size() > before+1 {
			t.Errorf("%s was recorded", name)
		}
		if status, body := send(good); status != 200 {
			t.Errorf("%s by the identity: %d %s", name, status, body)
		}
	}
	if status, body := w.call("POST", "/graphql", `{"query":"{ entries(first: 9) { nodes { index evidence signers { keyid verified trusted } } } }"}`, asJSON); status != 200 || !strings.Contains(body, "under sha256:") || !strings.Contains(body, `"evidence":"attested"`) {
		t.Errorf("GraphQL: %d %s", status, body)
	}
}
