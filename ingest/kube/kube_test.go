package kube_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/ingest/kube/kubetest"
)

var server *kubetest.Server
var missing error

func TestMain(m *testing.M) {
	server, missing = kubetest.Start()
	code := m.Run()
	if server != nil {
		server.Stop()
	}
	os.Exit(code)
}

var configMaps = kube.Type{Version: "v1", Plural: "configmaps", Kind: "ConfigMap"}

func newClient(t *testing.T) *kube.Client {
	t.Helper()
	c, err := kube.NewClient(kube.Settings{Kubeconfig: kubetest.Need(t, server, missing).Kubeconfig})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func putConfigMap(t *testing.T, namespace, name, value string) {
	t.Helper()
	server.Do(t, "POST", "/api/v1/namespaces/"+namespace+"/configmaps", map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name}, "data": map[string]any{"v": value},
	})
}

// read is one read: the names of objects, with a minus before those that were
// deleted, and the last cursor.
func read(t *testing.T, r *kube.Reader, from string) (names []string, cursor string, listed int) {
	t.Helper()
	cursor, listed = from, -1
	for c, err := range r.Changes(t.Context(), from) {
		if err != nil {
			t.Fatal(err)
		}
		cursor = c.Cursor
		if c.Listing != nil {
			listed = c.Listing.Count
		}
		if c.Object.Meta.Name == "" {
			continue
		}
		name := c.Object.Meta.Name
		if c.Deleted {
			name = "-" + name
		}
		names = append(names, name)
	}
	return names, cursor, listed
}

func TestChanges(t *testing.T) {
	c := newClient(t)
	namespace := server.Namespace(t, "changes")
	r := kube.NewReader(c, configMaps, namespace)
	for i := range 250 { // three pages
		putConfigMap(t, namespace, fmt.Sprintf("c-%03d", i), "x")
	}
	names, cursor, listed := read(t, r, "")
	if len(names) != 250 || names[0] != "c-000" || names[249] != "c-249" || listed != 250 {
		t.Fatalf("the first read gives %d objects (%d listed), the first %q", len(names), listed, names[0])
	}
	start := time.Now()
	if names, _, listed := read(t, r, cursor); len(names) != 0 || listed != -1 {
		t.Errorf("a read that is caught up gives %v (%d listed)", names, listed)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s to see that there is nothing new", took)
	}

	putConfigMap(t, namespace, "d", "x")
	server.Do(t, "PATCH", "/api/v1/namespaces/"+namespace+"/configmaps/c-001", map[string]any{"data": map[string]any{"v": "y"}})
	server.Do(t, "DELETE", "/api/v1/namespaces/"+namespace+"/configmaps/c-000", nil)
	names, cursor, _ = read(t, r, cursor)
	if fmt.Sprint(names) != "[d c-001 -c-000]" {
		t.Errorf("what happened since is %v", names)
	}
	if names, _, _ := read(t, r, cursor); len(names) != 0 {
		t.Errorf("read again: %v", names)
	}
}

// TestChangesResume stops in the middle of the first list: what comes after is
// what would have come, and what changed before that place is told of too.
func TestChangesResume(t *testing.T) {
	c := newClient(t)
	namespace := server.Namespace(t, "resume")
	r := kube.NewReader(c, configMaps, namespace)
	for i := range 150 {
		putConfigMap(t, namespace, fmt.Sprintf("c-%03d", i), "x")
	}
	n, cursor := 0, ""
	for change, err := range r.Changes(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		cursor = change.Cursor
		if n++; n == 120 {
			break
		}
	}
	server.Do(t, "PATCH", "/api/v1/namespaces/"+namespace+"/configmaps/c-005", map[string]any{"data": map[string]any{"v": "y"}})
	names, _, listed := read(t, r, cursor)
	if len(names) != 31 || names[0] != "c-120" || names[29] != "c-149" || names[30] != "c-005" || listed != 150 {
		t.Errorf("after 120 of 150, with one of them changed: %v (%d listed)", names, listed)
	}
}

// expired is what an API server answers to a watch from a version that it has
// forgotten.
const expired = `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: 1 (4711)","reason":"Expired","code":410}`

// TestChangesGone resumes from a version that the server has forgotten, which it
// says either at once or in the watch: all is given again.
func TestChangesGone(t *testing.T) {
	direct := newClient(t)
	behind, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		how    string
		status int
		body   string
	}{
		{"at once", http.StatusGone, expired},
		{"in the watch", http.StatusOK, `{"type":"ERROR","object":` + expired + `}` + "\n"},
	} {
		proxy := httputil.NewSingleHostReverseProxy(behind)
		proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("resourceVersion") != "1" {
				r.Header.Set("Authorization", "Bearer "+kubetest.Token) // a client sends none without TLS
				proxy.ServeHTTP(w, r)
				return
			}
			w.WriteHeader(c.status)
			fmt.Fprint(w, c.body)
		}))
		defer front.Close()
		namespace := server.Namespace(t, "gone")
		r := kube.NewReader(clientOf(t, front.URL), configMaps, namespace)
		putConfigMap(t, namespace, "a", "x")
		if names, _, listed := read(t, r, `{"version":"1"}`); fmt.Sprint(names) != "[a]" || listed != 1 {
			t.Errorf("from a version that is gone, said %s: %v (%d listed), want all", c.how, names, listed)
		}
	}
	r := kube.NewReader(direct, configMaps, "")
	for _, err := range r.Changes(t.Context(), "nonsense") {
		if err == nil {
			t.Error("a cursor of something else was taken")
		}
	}
}

// clientOf is a client of the server at an address.
func clientOf(t *testing.T, address string) *kube.Client {
	t.Helper()
	c, err := kube.NewClient(kube.Settings{Kubeconfig: kubetest.Kubeconfig(t, address), Context: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWait(t *testing.T) {
	c := newClient(t)
	namespace := server.Namespace(t, "wait")
	r := kube.NewReader(c, configMaps, namespace)
	putConfigMap(t, namespace, "a", "x")
	_, cursor, _ := read(t, r, "")
	told := make(chan error, 1)
	go func() { told <- r.Wait(t.Context(), cursor) }()
	select {
	case err := <-told:
		t.Fatalf("Wait returned %v before anything happened", err)
	case <-time.After(300 * time.Millisecond):
	}
	putConfigMap(t, namespace, "b", "x")
	select {
	case err := <-told:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Wait did not see a new object")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, cursor, _ = read(t, r, cursor)
	if err := r.Wait(ctx, cursor); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait with a context that ends = %v", err)
	}
}

func TestServes(t *testing.T) {
	c := newClient(t)
	unknown := kube.Type{Group: "nobody.example.com", Version: "v1", Plural: "things", Kind: "Thing"}
	for want, typ := range map[bool]kube.Type{true: configMaps, false: unknown} {
		if got, err := c.Serves(t.Context(), typ); err != nil || got != want {
			t.Errorf("Serves(%s) = %t, %v", typ, got, err)
		}
	}
	if _, err := c.Get(t.Context(), configMaps, "default", "nobody"); !errors.Is(err, kube.ErrNotFound) {
		t.Errorf("getting what is not there: %v", err)
	}
}

// FuzzCursor has a reader take cursors of anything.
func FuzzCursor(f *testing.F) {
	for _, s := range []string{"", `{"version":"12"}`, `{"after":"ns/name","version":"12"}`, `{"version":12}`, `{"version":"1"`, "null"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { kube.RoundTrip(s) })
}
