package oci

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/ingesttest"
	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
)

func (w *world) runner(log ingest.Log) *ingest.Runner {
	w.t.Helper()
	s, err := Parse(w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := keys.FromSeed(make([]byte, 32))
	if err != nil {
		w.t.Fatal(err)
	}
	return ingest.NewRunner(s, w.url, log, key, nil)
}

// TestPoisonTag has a tag that no statement can be made of: it is recorded as
// refused, once, and the others are read as ever.
func TestPoisonTag(t *testing.T) {
	w, log := newWorld(t), new(ingesttest.Log)
	w.push("good", image(t, "a", nil))
	w.put("bad", "application/vnd.docker.distribution.manifest.v1+json", `{"schemaVersion":1}`)
	r := w.runner(log)
	for i, want := range []ingest.Progress{{Done: 3, Total: 4, Recorded: 2, Skipped: 1}, {}, {Done: 2, Recorded: 2}} {
		if i == 2 {
			w.push("better", image(t, "b", nil))
		}
		if p, err := r.Once(t.Context()); err != nil || p != want {
			t.Errorf("read %d = %+v, %v, want %+v", i, p, err, want)
		}
	}
	var refused []schema.Refusal
	payloads, err := log.Payloads(schema.CoverageV1)
	if err != nil {
		t.Fatal(err)
	}
	for _, payload := range payloads {
		s, err := schema.ParseStatement([]byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		var c schema.Coverage
		if err := schema.DecodePredicate(s, true, &c); err != nil {
			t.Fatal(err)
		}
		refused = append(refused, c.Refused...)
	}
	if len(refused) != 1 || refused[0].Object != "tag bad" {
		t.Errorf("recorded as refused: %+v", refused)
	}
}

// TestRateLimit has a registry that asks to be left alone.
func TestRateLimit(t *testing.T) {
	w := newWorld(t)
	w.push("v1", image(t, "a", nil))
	for header, want := range map[string]time.Duration{"90": 90 * time.Second, "-1": 0, "": 0, "9999999999999999": 24 * time.Hour, "soon": 0} {
		w.answer(func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.Header().Set("Retry-After", header)
			rw.WriteHeader(http.StatusTooManyRequests)
			return true
		})
		_, err := w.runner(new(ingesttest.Log)).Once(t.Context())
		var busy *ingest.BusyError
		if err == nil || errors.As(err, &busy) != (want > 0) || busy != nil && busy.Wait != want {
			t.Errorf("Retry-After %q gives %v, want a wait of %s", header, err, want)
		}
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if got := retryAfter("Fri, 02 Jan 2026 03:05:05 GMT", now); got != time.Minute {
		t.Errorf("a date gives %s, want a minute", got)
	}
}
