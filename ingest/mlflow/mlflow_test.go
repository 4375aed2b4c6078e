package mlflow

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/ingesttest"
	"github.com/retrace-ledger/retrace/schema"
)

var update = flag.Bool("update", false, "write the golden file anew")

func (s *tracking) open(t *testing.T, query, with string) ingest.Source {
	t.Helper()
	place := ingest.Place{URL: "mlflow+" + s.URL + "/" + query}
	if with != "" {
		place.With = []byte(with)
	}
	src, name, err := Kind().Open(t.Context(), place, ingest.Env{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "mlflow+" + s.URL + query; name != want {
		t.Fatalf("the name of the source is %s, want %s", name, want)
	}
	return src
}

func TestLaw(t *testing.T) {
	ingesttest.Test(t, func(t *testing.T) *ingesttest.World {
		s := newTracking(t)
		for i := range 5 {
			s.train(fmt.Sprintf("run-%d", i), "FINISHED", i)
			s.register(fmt.Sprint(i+1), fmt.Sprintf("run-%d", i), "READY", i)
		}
		s.call("champion", "2", "challenger", "3")
		return &ingesttest.World{
			Open:   func(t *testing.T) ingest.Source { return s.open(t, "", "") },
			Change: func(*testing.T) { s.train("run-9", "FAILED", 9) },
			Break: func(*testing.T) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.broken = true
			},
		}
	})
}

// seen is all that a source says beyond a cursor, and the cursor behind it.
func seen(t *testing.T, src ingest.Source, cursor string) (string, string) {
	t.Helper()
	var b strings.Builder
	for e, err := range src.Observe(context.WithoutCancel(t.Context()), cursor) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Cursor != "" {
			cursor = e.Cursor
		}
		switch {
		case e.Skipped != nil:
			fmt.Fprintf(&b, "left out %s: %v\n", e.Skipped.Object, e.Skipped.Reason)
		case e.Fact():
			tell(t, &b, e.Statement)
		}
	}
	return b.String(), cursor
}

func tell(t *testing.T, b *strings.Builder, s schema.Statement) {
	t.Helper()
	f, err := s.Facts()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range f.Names {
		fmt.Fprintf(b, "%s is %s of run %s, moved %v, deleted %v\n", n.Name, n.Key, n.Run, n.Forced, n.Deleted)
	}
	step := f.Step
	if step == nil {
		return
	}
	fmt.Fprintf(b, "step %s %s from %s to %s, part of %q\n", step.Run, step.Name, step.Started.Format(time.RFC3339), step.Finished.Format(time.RFC3339), step.Parent)
	for _, name := range slices.Sorted(maps.Keys(step.Parameters)) {
		fmt.Fprintf(b, "  %s=%s\n", name, step.Parameters[name])
	}
	for _, name := range step.Secrets {
		fmt.Fprintf(b, "  %s withheld\n", name)
	}
	for _, u := range step.Uses {
		fmt.Fprintf(b, "  used %s %s\n", u.Role, u.Key)
	}
	for _, o := range step.Generates {
		fmt.Fprintf(b, "  made %s %s\n", o.Name, o.Key)
	}
	for _, name := range slices.Sorted(maps.Keys(step.Metrics)) {
		fmt.Fprintf(b, "  metric %s: %v\n", name, step.Metrics[name])
	}
	for _, g := range step.Gaps {
		fmt.Fprintf(b, "  gap %s: %s\n", g.Rule, g.Detail)
	}
}

// TestStory follows a tracking server: runs that end and go on, versions, and
// aliases that move there and back and go.
func TestStory(t *testing.T) {
	s := newTracking(t)
	s.password = "pw"
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("pw\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	src := s.open(t, "?experiment=forecast", `{"username": "ada", "password": {"file": "`+file+`"}}`)
	var b strings.Builder
	cursor := ""
	look := func(what string) {
		var said string
		said, cursor = seen(t, src, cursor)
		fmt.Fprintf(&b, "== %s\n%s", what, said)
	}
	s.train("a", "FINISHED", 1)
	s.train("b", "RUNNING", 2)
	s.register("1", "a", "READY", 1)
	s.register("2", "b", "PENDING_REGISTRATION", 2)
	s.call("champion", "1")
	look("at first")
	s.mu.Lock()
	s.runs[1]["info"].(map[string]any)["status"], s.runs[1]["info"].(map[string]any)["end_time"] = "KILLED", float64(1777629600000+3*60000)
	s.versions[1]["status"] = "READY"
	s.mu.Unlock()
	s.call("champion", "2")
	look("a run is killed, its model registered and called champion")
	s.call("champion", "1")
	look("back again")
	s.call("champion", "2")
	look("and there again")
	s.call()
	look("the alias is deleted")
	look("nothing happened")
	s.mu.Lock()
	s.runs = append(s.runs, map[string]any{"info": map[string]any{"experiment_id": "1", "status": "FINISHED", "end_time": float64(1777629600000 + 4*60000)}})
	s.versions = append(s.versions, map[string]any{"name": "prices", "version": "3", "creation_timestamp": 1777629600000, "source": "somewhere", "status": "READY"})
	s.mu.Unlock()
	look("odd things")
	golden := filepath.Join("testdata", "story.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("what is said changed; -update takes it over (-want +got):\n%s", diff)
	}
}

// TestErrors asks servers that do not answer as they should.
func TestErrors(t *testing.T) {
	s := newTracking(t)
	ask := func(src ingest.Source) error {
		for _, err := range src.Observe(t.Context(), "") {
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := ask(s.open(t, "?experiment=nobody", "")); err == nil || !strings.Contains(err.Error(), `no experiment called "nobody"`) {
		t.Errorf("an experiment that is not there: %v", err)
	}
	s.password = "pw"
	if err := ask(s.open(t, "", "")); err == nil || !strings.Contains(err.Error(), "PERMISSION_DENIED") || !strings.Contains(err.Error(), "give it a username") {
		t.Errorf("without a password: %v", err)
	}
	s.busy = true
	var busy *ingest.BusyError
	if err := ask(s.open(t, "", "")); !errors.As(err, &busy) || busy.Wait != 7*time.Second {
		t.Errorf("a server that is busy: %v", err)
	}
	for _, bad := range []string{"mlflow+https://", "mlflow+https://ada:pw@host/", "mlflow+https://host/?experiment=", "mlflow+https://host/?experiments=a", "mlflow+https://host/#x"} {
		if _, _, err := Kind().Open(t.Context(), ingest.Place{URL: bad}, ingest.Env{}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// FuzzRun reads any run: one that is taken makes a statement, twice the same.
func FuzzRun(f *testing.F) {
	f.Add([]byte(`{"info":{"run_id":"a","status":"FINISHED","end_time":1777629600000,"artifact_uri":"s3://b/a"},"data":{"params":[{"key":"k","value":"v"}],"metrics":[{"key":"m","value":1}]}}`))
	f.Add([]byte(`{"info":{"run_uuid":"a","status":"KILLED","end_time":"17"},"data":{"tags":[{"key":"mlflow.log-model.history","value":"[{}]"}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parseRun(raw)
		if err != nil {
			return
		}
		first, err := r.statement("e")
		if err != nil {
			return
		}
		second, err := r.statement("e")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Fatal(diff)
		}
	})
}
