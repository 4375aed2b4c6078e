package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/server"
	"github.com/retrace-ledger/retrace/verify"
)

func asQuery(t *testing.T, query string) string {
	t.Helper()
	raw, err := json.Marshal(map[string]string{"query": query})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestMutationsNeedTheToken(t *testing.T) {
	w := newWorld(t, server.Options{})
	env := string(ledgertest.Claim(t, "one").Raw)
	mutation := asQuery(t, fmt.Sprintf(`mutation { record(envelope: %q) { index evidence } }`, env))
	if status, body := w.call("POST", "/graphql", mutation, asJSON); status != 401 || !strings.Contains(body, "FORBIDDEN") {
		t.Errorf("a mutation without the token = %d %s", status, body)
	}
	if status, body := w.call("POST", "/graphql", mutation, asJSON, "Authorization: Bearer wrong"); status != 401 {
		t.Errorf("a mutation with a wrong token = %d %s", status, body)
	}
	if status, body := w.call("GET", "/graphql?query="+url.QueryEscape(`mutation { restore(ref: "x") { id } }`), "", w.bearer()); status != 405 {
		t.Errorf("a mutation by GET = %d %s", status, body)
	}
	if w.Size() != 1 {
		t.Fatalf("the ledger has %d entries, want genesis alone", w.Size())
	}
	status, body := w.call("POST", "/graphql", mutation, asJSON, w.bearer())
	if want := `{"data":{"record":{"index":1,"evidence":"claimed"}},"extensions":{"size":1,"checkpoint":"`; status != 200 || !strings.HasPrefix(body, want) {
		t.Errorf("a mutation = %d %s, want %s", status, body, want)
	}
	e, err := w.Entry(t.Context(), 1)
	if err != nil || string(e.Envelope.Raw) != env {
		t.Errorf("the entry holds %s, %v; want the envelope byte for byte", e.Envelope.Raw, err)
	}
	if status, _ := w.call("POST", "/graphql", asQuery(t, `{ checkpoint { size } }`), asJSON); status != 200 {
		t.Errorf("a query without the token = %d", status)
	}
}

// TestReadYourOwnWrites: whoever recorded something sees it in the next
// answer.
func TestReadYourOwnWrites(t *testing.T) {
	w := newWorld(t, server.Options{})
	for i := range 20 {
		env := w.Sign(t, schema.ModelV1, schema.Model{Name: "m", Version: fmt.Sprint(i)}, ledgertest.Subject(fmt.Sprint(i)))
		if _, err := w.client.Append(t.Context(), schema.Batch{Source: "s", Envelopes: []schema.Envelope{env}}); err != nil {
			t.Fatal(err)
		}
		var got struct{ Model struct{ Version string } }
		if err := w.client.Query(t.Context(), `{ model(ref: "m") { version } }`, nil, &got); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprint(i); got.Model.Version != want {
			t.Errorf("after recording version %s the newest is %s", want, got.Model.Version)
		}
	}
	// What went into the ledger beside the server is waited for.
	r, err := w.Append(t.Context(), schema.Batch{Source: "s", Envelopes: []schema.Envelope{ledgertest.Claim(t, "beside")}})
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"query":"{ entry(index: %d) { index } }","extensions":{"waitForSize":%d}}`, r.Entries[0].Index, r.Size)
	status, got := w.call("POST", "/graphql", body, asJSON)
	if want := fmt.Sprintf(`{"data":{"entry":{"index":%d}},"extensions":{"size":%d,"checkpoint":"`, r.Entries[0].Index, r.Size); status != 200 || !strings.HasPrefix(got, want) {
		t.Errorf("waiting for size %d = %d %s, want %s", r.Size, status, got, want)
	}
}

// TestBundleFromAfar builds a bundle from what a server sends and checks it
// with the log's key.
func TestBundleFromAfar(t *testing.T) {
	w := newWorld(t, server.Options{})
	var envelopes []schema.Envelope
	for i := range 600 { // more than two tiles
		envelopes = append(envelopes, ledgertest.Claim(t, fmt.Sprint(i)))
	}
	if _, err := w.client.Append(t.Context(), schema.Batch{Source: "s", Envelopes: envelopes}); err != nil {
		t.Fatal(err)
	}
	l, err := w.client.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []int64{0, 1, 255, 256, 600} {
		b, err := verify.Build(t.Context(), l, verify.Claim{Ref: fmt.Sprint("entry:", index), Entry: index, Size: l.Size()}, index)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Verify(t.Context(), w.Verifier, nil); err != nil {
			t.Errorf("the bundle of entry %d: %v", index, err)
		}
	}
	if _, err := l.ProveInclusion(t.Context(), 601, 601); err == nil {
		t.Error("an entry beyond the end was proved")
	}
}

// restorer plans what the test says.
type restorer struct {
	do func(ctx context.Context, dir string, done func(int)) (graphql.Outcome, error)
}

func (r restorer) Plan(context.Context, *lineage.View, lineage.Ref) (*graphql.Plan, error) {
	return &graphql.Plan{Steps: []graphql.PlanStep{{Action: "lay out", Path: "a", Size: 5}, {Action: "lay out", Path: "b", Size: -1}}, Bytes: 5, Do: r.do}, nil
}

func restoreWorld(t *testing.T, places map[string]string, do func(context.Context, string, func(int)) (graphql.Outcome, error)) *world {
	t.Helper()
	w := newWorld(t, server.Options{Restorer: restorer{do}, Places: places})
	env := w.Sign(t, schema.ModelV1, schema.Model{Name: "m", Version: "1"}, ledgertest.Subject("m"))
	if _, err := w.client.Append(t.Context(), schema.Batch{Source: "s", Envelopes: []schema.Envelope{env}}); err != nil {
		t.Fatal(err)
	}
	return w
}

type restored struct {
	ID, State, Verdict, Problem, Place string
	Done, Total                        int
}

func (w *world) restore(target string) (restored, error) {
	w.t.Helper()
	var started struct{ Restore restored }
	vars := map[string]any{"target": nil}
	if target != "" {
		vars["target"] = target
	}
	err := w.client.Query(w.t.Context(), `mutation($target: String) { restore(ref: "m", target: $target) { id state verdict problem place done total } }`, vars, &started)
	return started.Restore, err
}

// ended asks until a restoration does not run any more.
func (w *world) ended(id string) restored {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	for {
		var got struct{ Restoration *restored }
		err := w.client.Query(ctx, `query($id: ID!) { restoration(id: $id) { id state verdict problem place done total } }`, map[string]any{"id": id}, &got)
		if err != nil || got.Restoration == nil {
			w.t.Fatalf("restoration %s: %v, %v", id, got.Restoration, err)
		}
		if got.Restoration.State != graphql.Running {
			return *got.Restoration
		}
	}
}

func TestRestore(t *testing.T) {
	place := t.TempDir()
	w := restoreWorld(t, map[string]string{"shared": place}, func(_ context.Context, dir string, done func(int)) (graphql.Outcome, error) {
		if err := os.WriteFile(filepath.Join(dir, "a"), []byte("bytes"), 0o644); err != nil {
			return graphql.Outcome{}, err
		}
		done(0)
		done(1)
		return graphql.Outcome{Verdict: "COMPLETE"}, nil
	})
	var planned struct {
		RestorePlan struct {
			Bytes int
			Steps []struct{ Path string }
		}
	}
	if err := w.client.Query(t.Context(), `{ restorePlan(ref: "m@1") { bytes steps { path } } }`, nil, &planned); err != nil || planned.RestorePlan.Bytes != 5 || len(planned.RestorePlan.Steps) != 2 {
		t.Errorf("the plan is %+v, %v", planned, err)
	}
	started, err := w.restore("")
	if err != nil {
		t.Fatal(err)
	}
	got := w.ended(started.ID)
	want := restored{ID: started.ID, State: "DONE", Verdict: "COMPLETE", Place: "restorations/" + started.ID, Done: 2, Total: 2}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("restoration (-want +got):\n%s", diff)
	}
	status, body := w.call("GET", "/v1/restorations/"+started.ID+".tar", "", w.bearer())
	dir := t.TempDir()
	if status != 200 {
		t.Fatalf("its tar file = %d %s", status, body)
	}
	if err := client.Unpack(t.Context(), strings.NewReader(body), dir); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(raw) != "bytes" {
		t.Errorf("a holds %q, %v", raw, err)
	}
	started, err = w.restore("shared")
	if err != nil {
		t.Fatal(err)
	}
	w.ended(started.ID)
	if _, err := os.Stat(filepath.Join(place, started.ID, "a")); err != nil {
		t.Errorf("in the named place: %v", err)
	}
	for _, bad := range []string{"/etc", "../x", "other", place} {
		var refused *client.QueryError
		if _, err := w.restore(bad); !errors.As(err, &refused) || refused.Errors[0].Extensions.Code != graphql.CodeBadInput {
			t.Errorf("restoring to %q: %v, want it refused", bad, err)
		}
	}
	for _, path := range []string{"/v1/restorations/none.tar", "/v1/restorations/..%2f..%2fserver.json", "/v1/restorations/" + started.ID} {
		if status, body := w.call("GET", path, "", w.bearer()); status != 404 {
			t.Errorf("GET %s = %d %s, want 404", path, status, body)
		}
	}
}

func TestRestoreFails(t *testing.T) {
	w := restoreWorld(t, nil, func(_ context.Context, dir string, done func(int)) (graphql.Outcome, error) {
		done(0)
		panic("a secret")
	})
	started, err := w.restore("")
	if err != nil {
		t.Fatal(err)
	}
	got := w.ended(started.ID)
	if got.State != "FAILED" || got.Done != 1 || got.Problem == "" || strings.Contains(got.Problem, "secret") {
		t.Errorf("restoration = %+v, want it failed after one step, with a reason that leaks nothing", got)
	}
}

// TestRestorationsSurvive: stopping does not end a restoration. The next server
// does it from its beginning, of the ledger as it was, in the same folder.
func TestRestorationsSurvive(t *testing.T) {
	running := make(chan struct{})
	w := restoreWorld(t, nil, func(ctx context.Context, dir string, done func(int)) (graphql.Outcome, error) {
		done(0)
		if err := os.WriteFile(filepath.Join(dir, "half"), nil, 0o644); err != nil {
			return graphql.Outcome{}, err
		}
		close(running)
		<-ctx.Done()
		return graphql.Outcome{}, ctx.Err()
	})
	started, err := w.restore("")
	if err != nil {
		t.Fatal(err)
	}
	<-running
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	planned := make(chan int64, 1)
	next := w.again(t, server.Options{Restorer: planning{planned, restorer{func(_ context.Context, dir string, done func(int)) (graphql.Outcome, error) {
		if _, err := os.Stat(filepath.Join(dir, "half")); err == nil {
			t.Error("what the first attempt left is still there")
		}
		done(1)
		return graphql.Outcome{Verdict: "COMPLETE"}, os.WriteFile(filepath.Join(dir, "whole"), nil, 0o644)
	}}}})
	if got := next.ended(started.ID); got.State != graphql.Done || got.Verdict != "COMPLETE" || got.Done != 2 {
		t.Errorf("after a restart: %+v", got)
	}
	if size := <-planned; size != 2 {
		t.Errorf("planned by the first %d entries, want those of before", size)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "restorations", started.ID, "whole")); err != nil {
		t.Error(err)
	}
}

// TestRestorationGivenUp is one that no server lives to end.
func TestRestorationGivenUp(t *testing.T) {
	block := func(ctx context.Context, _ string, _ func(int)) (graphql.Outcome, error) {
		<-ctx.Done()
		return graphql.Outcome{}, ctx.Err()
	}
	w := restoreWorld(t, nil, block)
	started, err := w.restore("")
	if err != nil {
		t.Fatal(err)
	}
	next := w
	for range 5 {
		if err := next.stop(); err != nil {
			t.Fatal(err)
		}
		next = w.again(t, server.Options{Restorer: restorer{block}})
	}
	if got := next.ended(started.ID); got.State != graphql.Failed || !strings.Contains(got.Problem, "begun 5 times") {
		t.Errorf("after five servers: %+v", got)
	}
}

// planning says by which size of the ledger it was planned.
type planning struct {
	size chan int64
	restorer
}

func (p planning) Plan(ctx context.Context, v *lineage.View, ref lineage.Ref) (*graphql.Plan, error) {
	p.size <- v.Size()
	return p.restorer.Plan(ctx, v, ref)
}

// TestCosignedInAnswers finds what witnesses added in the API and in its
// bundles, as long as it covers the answer.
func TestCosignedInAnswers(t *testing.T) {
	w := newWorld(t, server.Options{})
	ask := func() (size, cosigned int64, bundle *verify.Bundle) {
		t.Helper()
		status, body := w.call("POST", "/graphql", asQuery(t, `{ checkpoint { size cosigned { size note } } entry(index: 0) { proof } }`), asJSON)
		var got struct {
			Data struct {
				Checkpoint struct {
					Size     int64
					Cosigned *struct {
						Size int64
						Note string
					}
				}
				Entry struct{ Proof string }
			}
		}
		if err := json.Unmarshal([]byte(body), &got); status != 200 || err != nil {
			t.Fatalf("%d %s: %v", status, body, err)
		}
		bundle, err := verify.ParseBundle([]byte(got.Data.Entry.Proof))
		if err != nil {
			t.Fatal(err)
		}
		if c := got.Data.Checkpoint.Cosigned; c != nil {
			cosigned = c.Size
		}
		return got.Data.Checkpoint.Size, cosigned, bundle
	}
	if size, cosigned, _ := ask(); size != 1 || cosigned != 0 {
		t.Errorf("without witnesses: size %d, cosigned %d", size, cosigned)
	}
	const line = "— witness.example AAAAAAAAAAAAAAAAAAAA\n" // whose word counts is the verifier's to say
	signed := append(w.Checkpoint(), line...)
	if err := w.Cosign(t.Context(), signed); err != nil {
		t.Fatal(err)
	}
	size, cosigned, bundle := ask()
	if size != 1 || cosigned != 1 || bundle.Checkpoint != string(signed) {
		t.Errorf("size %d, cosigned %d, and the bundle is under\n%s", size, cosigned, bundle.Checkpoint)
	}
	if _, err := bundle.Verify(t.Context(), w.Verifier, nil); err != nil {
		t.Error(err)
	}
}
