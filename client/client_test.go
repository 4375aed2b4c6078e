package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

// liar is a server that answers what the test says, whatever is asked.
func liar(t *testing.T, answers map[string]http.HandlerFunc) *client.Client {
	t.Helper()
	mux := http.NewServeMux()
	for pattern, h := range answers {
		mux.HandleFunc(pattern, h)
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	c, err := client.New(s.URL, "token")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func says(status int, header, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if name, value, ok := strings.Cut(header, ": "); ok {
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// noteOf is an unsigned checkpoint of the given size: signatures are not the
// client's to check.
func noteOf(size int64) string {
	return fmt.Sprintf("retrace.example/test\n%d\n%s=\n\n— x AAAA\n", size, strings.Repeat("A", 43))
}

func line(t *testing.T, index int64, change func(*client.EntryLine)) string {
	t.Helper()
	body := schema.Body{Header: schema.Header{Namespace: "default"}, Envelope: ledgertest.Claim(t, "x").Raw}
	raw, err := body.Encode()
	if err != nil {
		t.Fatal(err)
	}
	sum := schema.Commitment(raw)
	l := client.EntryLine{Index: index, State: schema.Present, Commitment: sum[:], Body: raw}
	if change != nil {
		change(&l)
	}
	out, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	return string(out) + "\n"
}

// TestEntriesOfALiar: whatever a server sends instead of the entries asked for
// is an error, never fewer or other entries.
func TestEntriesOfALiar(t *testing.T) {
	tests := []struct{ name, page, says string }{
		{"nothing", "", "no entries"},
		{"another entry", line(t, 7, nil), "entry 7 instead"},
		{"one entry twice", line(t, 0, nil) + line(t, 0, nil), "entry 0 instead"},
		{"cut off in a line", line(t, 0, nil) + line(t, 1, nil)[:50], "reading entry 1"},
		{"no JSON", "x", "reading entry 0"},
		{"changed body", line(t, 0, func(l *client.EntryLine) { l.Body[0]++ }), "commitment"},
		{"short commitment", line(t, 0, func(l *client.EntryLine) { l.Commitment = l.Commitment[:3] }), "3 bytes"},
		{"unknown state", line(t, 0, func(l *client.EntryLine) { l.State = "LOST" }), "LOST"},
		{"body that is none", line(t, 0, func(l *client.EntryLine) { l.Body = []byte("x") }), "too short"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := liar(t, map[string]http.HandlerFunc{
				"/checkpoint": says(200, "", noteOf(2)), "/v1/entries": says(200, "", tt.page),
			})
			l, err := c.Ledger(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var last error
			for _, err := range l.Entries(t.Context(), 0) {
				last = err
			}
			if last == nil || !strings.Contains(last.Error(), tt.says) {
				t.Errorf("error %v, want %q", last, tt.says)
			}
		})
	}
	c := liar(t, map[string]http.HandlerFunc{
		"/checkpoint": says(200, "", noteOf(2)),
		"/v1/entries": says(200, "", line(t, 0, nil)+line(t, 1, func(l *client.EntryLine) { l.State, l.Body = schema.Erased, nil })),
	})
	l, err := c.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range l.Entries(t.Context(), 0) {
		if err != nil {
			t.Error(err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d entries, want 2", n)
	}
}

func TestCheckpointOfALiar(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"no note":   says(200, "", "hello"),
		"huge":      says(200, "", strings.Repeat("x", 1<<20)),
		"not there": says(404, "", "nothing"),
		"redirect":  says(302, "Location: http://evil.example/", ""),
		"failing":   says(500, "", "boom"),
	} {
		if _, err := liar(t, map[string]http.HandlerFunc{"/checkpoint": h}).Ledger(t.Context()); err == nil {
			t.Errorf("%s: it was taken for a checkpoint", name)
		}
	}
}

// TestTilesOfALiar: tiles that do not lead to the checkpoint's root prove
// nothing.
func TestTilesOfALiar(t *testing.T) {
	c := liar(t, map[string]http.HandlerFunc{
		"/checkpoint": says(200, "", noteOf(2)), "/tile/": says(200, "", strings.Repeat("x", 64)),
	})
	l, err := c.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p, err := l.ProveInclusion(t.Context(), 0, 2); err == nil {
		t.Errorf("false tiles gave the proof %v", p)
	}
}

// TestContentOfALiar: bytes that are not those asked for are not laid out.
func TestContentOfALiar(t *testing.T) {
	key := schema.BytesKey([]byte("right"))
	other := schema.BytesKey([]byte("other"))
	for name, h := range map[string]http.HandlerFunc{
		"other bytes":              says(200, client.KeyHeader+": "+string(key), "wrong"),
		"other key":                says(200, client.KeyHeader+": "+string(other), "other"),
		"no key":                   says(200, "", "right"),
		"a folder instead":         says(200, client.KeyHeader+": retraceTree1:"+strings.Repeat("0", 64), "right"),
		"cut off":                  says(200, "Content-Length: 5", "righ"),
		"refused without a reason": says(503, "", ""),
	} {
		path := filepath.Join(t.TempDir(), "x")
		if err := liar(t, map[string]http.HandlerFunc{"/v1/content/": h}).Content().Fetch(t.Context(), key, path); err == nil {
			t.Errorf("%s: it was taken", name)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
			t.Errorf("%s: it left %v, %v", name, left, err)
		}
	}
	path := filepath.Join(t.TempDir(), "x")
	if err := liar(t, map[string]http.HandlerFunc{"/v1/content/": says(200, client.KeyHeader+": "+string(key), "right")}).Content().Fetch(t.Context(), key, path); err != nil {
		t.Errorf("the right bytes: %v", err)
	}
}

// TestRefusals: errors of the server keep field and reason.
func TestRefusals(t *testing.T) {
	c := liar(t, map[string]http.HandlerFunc{
		"/v1/statements": says(422, "Content-Type: application/problem+json", `{"status":422,"code":"BAD_INPUT","field":"envelopes.0.payload","detail":"missing"}`),
		"/v1/cursor":     says(502, "Content-Type: text/html", "<html>proxy</html>"),
		"/graphql":       says(200, "Content-Type: application/graphql-response+json", `{"errors":[{"message":"no such model","extensions":{"code":"NOT_FOUND"}},{"message":"x"}],"data":null}`),
	})
	_, err := c.Append(t.Context(), schema.Batch{})
	var fe *schema.FieldError
	if !errors.As(err, &fe) || fe.Field != "envelopes.0.payload" || fe.Reason != "missing" {
		t.Errorf("Append = %v, want the field and the reason", err)
	}
	var refused *client.Error
	if _, err := c.Cursor(t.Context(), "", "s"); !errors.As(err, &refused) || refused.Status != 502 || !strings.Contains(err.Error(), "proxy") {
		t.Errorf("Cursor = %v, want what the proxy said", err)
	}
	var query *client.QueryError
	if err := c.Query(t.Context(), "{x}", nil, nil); !errors.As(err, &query) || query.Errors[0].Extensions.Code != "NOT_FOUND" || !strings.Contains(err.Error(), "1 more") {
		t.Errorf("Query = %v, want both errors", err)
	}
}

func TestNew(t *testing.T) {
	for _, bad := range []string{"", "127.0.0.1:8470", "ftp://x", "http://", "http://ledger.example"} {
		if _, err := client.New(bad, "token"); err == nil {
			t.Errorf("New(%q) succeeded", bad)
		}
	}
	for _, good := range []string{"http://127.0.0.1:8470", "http://localhost:1/", "http://[::1]:1", "https://ledger.example"} {
		if _, err := client.New(good, "token"); err != nil {
			t.Errorf("New(%q): %v", good, err)
		}
	}
}

func TestDiscoverNothing(t *testing.T) {
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Skipf("no command to run: %v", err)
	}
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	write := func(text string, mode os.FileMode) string {
		dir := t.TempDir()
		name := filepath.Join(dir, client.AddressFile)
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	address := func(url string, pid int) string {
		return fmt.Sprintf(`{"address":%q,"token":"t","pid":%d}`, url, pid)
	}
	tests := []struct {
		name, dir string
		none      bool // it is as if no server ran
	}{
		{"no file", t.TempDir(), true},
		{"of a process that ended", write(address("http://127.0.0.1:1", ended.Process.Pid), 0o600), true},
		{"nobody listens", write(address(closed.URL, os.Getpid()), 0o600), true},
		{"readable by others", write(address(closed.URL, os.Getpid()), 0o644), false},
		{"no JSON", write("x", 0o600), false},
		{"elsewhere", write(address("http://ledger.example", os.Getpid()), 0o600), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := client.Discover(t.Context(), tt.dir)
			if err == nil || c != nil || errors.Is(err, client.ErrNoServer) != tt.none {
				t.Errorf("Discover = %v, %v; want no server: %v", c, err, tt.none)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	c := liar(t, map[string]http.HandlerFunc{"/checkpoint": says(200, "", noteOf(1))})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Ledger(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Ledger = %v, want it cancelled", err)
	}
}

// FuzzUnpack: no stream writes outside the folder.
func FuzzUnpack(f *testing.F) {
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
		f.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		f.Fatal(err)
	}
	var b strings.Builder
	if err := client.Pack(f.Context(), dir, &b, nil); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(b.String()))
	f.Add([]byte(strings.ReplaceAll(b.String(), "link", "../x")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		parent := t.TempDir()
		inside := filepath.Join(parent, "inside")
		if err := os.Mkdir(inside, 0o755); err != nil {
			t.Fatal(err)
		}
		err := client.Unpack(t.Context(), strings.NewReader(string(raw)), inside)
		if left, dirErr := os.ReadDir(parent); dirErr != nil || len(left) != 1 {
			t.Errorf("it left %v beside the folder, %v (%v)", left, dirErr, err)
		}
	})
}
