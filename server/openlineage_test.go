package server_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/server"
)

// events are those of several integrations, interleaved.
func events(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "ingest", "openlineage", "testdata", "interleaved.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(raw)), "\n")
}

func (w *world) send(line string) {
	w.t.Helper()
	if status, body := w.call("POST", "/api/v1/lineage", line, w.bearer(), "Content-Type: application/json"); status != http.StatusCreated {
		w.t.Fatalf("an event was answered with %d: %s", status, body)
	}
}

// told are the steps that count, with what they used and made, without entries:
// what events of whatever order have to come to.
func (w *world) told() []string {
	w.t.Helper()
	v, err := w.graph.View(lineage.At{})
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for s, err := range v.Steps(w.t.Context(), 0, "", lineage.Filter{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		line := fmt.Sprintf("%s %s %s of %s, %v", s.Step.Run, s.Step.Name, s.Evidence, s.Step.Parent, s.Step.Parameters)
		for _, o := range s.Step.Generates {
			edges := []string{}
			for e, err := range schema.Walk(w.t.Context(), v, schema.Start{Key: o.Key}, schema.WalkOptions{}) {
				if err != nil {
					w.t.Fatal(err)
				}
				edges = append(edges, fmt.Sprintf("\n  %s < %s %s %v", e.From, e.To, e.Relation, e.Ambiguous))
			}
			slices.Sort(edges)
			edges = slices.Compact(edges) // each entry says again where a version is
			line += "\n " + string(o.Key) + strings.Join(edges, "")
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// until waits for the ledger to say of so many runs what want says.
func (w *world) until(want []string) {
	w.t.Helper()
	var diff string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if diff = cmp.Diff(want, w.told()); diff == "" {
			return
		}
	}
	w.t.Fatalf("the ledger says otherwise (-want +got):\n%s", diff)
}

func quick() server.Options {
	return server.Options{Settle: 60 * time.Millisecond, Overdue: 400 * time.Millisecond}
}

// TestOpenLineageOrders sends the events of several integrations in order, and
// then to other ledgers in other orders, repeated, late, in batches, compressed,
// and with the server stopped in between: all ledgers say the same.
func TestOpenLineageOrders(t *testing.T) {
	lines := events(t)
	first := newWorld(t, quick())
	for _, line := range lines {
		first.send(line)
	}
	var want []string
	for deadline := time.Now().Add(20 * time.Second); len(want) < 4 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		want = first.told()
	}
	if len(want) != 4 {
		t.Fatalf("%d runs were recorded, want 4:\n%s", len(want), strings.Join(want, "\n"))
	}
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 3))
			sent := slices.Clone(lines)
			for range rnd.IntN(6) {
				sent = append(sent, lines[rnd.IntN(len(lines))])
			}
			rnd.Shuffle(len(sent), func(i, j int) { sent[i], sent[j] = sent[j], sent[i] })
			w := newWorld(t, quick())
			for i, line := range sent {
				switch rnd.IntN(4) {
				case 0:
					if status, body := w.call("POST", "/api/v1/lineage/batch", "["+line+"]", w.bearer(), "Content-Type: application/json"); status != http.StatusNoContent {
						t.Fatalf("a batch was answered with %d: %s", status, body)
					}
				case 1:
					var packed bytes.Buffer
					z := gzip.NewWriter(&packed)
					z.Write([]byte(line))
					z.Close()
					if status, body := w.call("POST", "/api/v1/lineage", packed.String(), w.bearer(), "Content-Type: application/json", "Content-Encoding: gzip"); status != http.StatusCreated {
						t.Fatalf("a compressed event was answered with %d: %s", status, body)
					}
				default:
					w.send(line)
				}
				if seed%2 == 1 && rnd.IntN(3) == 0 {
					time.Sleep(time.Duration(rnd.IntN(150)) * time.Millisecond) // what comes now is late
				}
				if seed%3 == 2 && i%4 == 3 {
					if err := w.stop(); err != nil {
						t.Fatal(err)
					}
					w = w.again(t, quick())
				}
			}
			w.until(want)
		})
	}
}

// TestOpenLineageRefused sends what is no event, or nobody's.
func TestOpenLineageRefused(t *testing.T) {
	w := newWorld(t, quick())
	line := events(t)[0]
	json := "Content-Type: application/json"
	for name, tt := range map[string]struct {
		path, body string
		headers    []string
		want       int
		says       string
	}{
		"no token":                {"/api/v1/lineage", line, []string{json}, http.StatusUnauthorized, ""},
		"a type of web pages":     {"/api/v1/lineage", line, []string{w.bearer(), "Content-Type: text/plain"}, http.StatusUnprocessableEntity, "Content-Type"},
		"no JSON":                 {"/api/v1/lineage", "{", []string{w.bearer(), json}, http.StatusUnprocessableEntity, ""},
		"no run ID":               {"/api/v1/lineage", strings.Replace(line, `"runId"`, `"id"`, 1), []string{w.bearer(), json}, http.StatusUnprocessableEntity, "run.runId"},
		"not compressed":          {"/api/v1/lineage", line, []string{w.bearer(), json, "Content-Encoding: gzip"}, http.StatusUnprocessableEntity, "gzip"},
		"of a dataset":            {"/api/v1/lineage", `{"eventTime":"2026-01-01T00:00:00Z","producer":"p:","schemaURL":"s:","dataset":{"namespace":"a","name":"b"}}`, []string{w.bearer(), json}, http.StatusOK, "states no run"},
		"one of three in a batch": {"/api/v1/lineage/batch", "[" + line + `,{"eventType":"START"},` + line + "]", []string{w.bearer(), json}, http.StatusOK, `"failed_events":[{"index":1,"reason":"run: missing`},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := w.call("POST", tt.path, tt.body, tt.headers...)
			if status != tt.want || !strings.Contains(body, tt.says) {
				t.Errorf("answered %d: %s; want %d and %q", status, body, tt.want, tt.says)
			}
		})
	}
	if _, metrics := w.call("GET", "/metrics", ""); !strings.Contains(metrics, "retrace_openlineage_runs 1") {
		t.Errorf("the one run that was taken is not counted:\n%s", metrics)
	}
}

// TestOpenLineageTorn cuts the last line of a file of events short, as a loss of
// power may.
func TestOpenLineageTorn(t *testing.T) {
	w := newWorld(t, server.Options{})
	w.send(events(t)[0])
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(w.dir, "openlineage", "*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	f, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"event":{"eventTy`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	w = w.again(t, quick())
	w.send(events(t)[8])
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if told := w.told(); len(told) == 1 && strings.Contains(told[0], "nightly claimed") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the run was not recorded")
		}
	}
}
