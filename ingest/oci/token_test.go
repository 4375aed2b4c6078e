package oci

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/retrace-ledger/retrace/ingest"
)

// TestToken reads a registry that wants a password, by a token in a file that is
// exchanged meanwhile; fetching uses it too.
func TestToken(t *testing.T) {
	w := newWorld(t)
	w.push("v1", image(t, "a", nil))
	password := "first"
	w.answer(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "Basic "+base64.StdEncoding.EncodeToString([]byte("ada:"+password)) {
			return false
		}
		rw.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		rw.WriteHeader(http.StatusUnauthorized)
		return true
	})
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("first\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	place := ingest.Place{URL: w.url, With: fmt.Appendf(nil, `{"username":"ada","token":{"file":%q}}`, file)}
	read := func() (int, error) {
		s, _, err := Kind().Open(t.Context(), place, ingest.Env{})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for e, err := range s.Observe(t.Context(), "") {
			if err != nil {
				return n, err
			}
			if e.Fact() {
				n++
			}
		}
		return n, nil
	}
	if n, err := read(); n != 2 || err != nil {
		t.Fatalf("%d facts, %v", n, err)
	}
	password = "second"
	if _, err := read(); err == nil {
		t.Error("the registry takes the old password")
	}
	if err := os.WriteFile(file, []byte("second"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := read(); n != 2 || err != nil {
		t.Errorf("after the token was exchanged: %d facts, %v", n, err)
	}
	w.answer(nil)
	r := resource(t, w.mustRead(""))
	w.answer(func(rw http.ResponseWriter, r *http.Request) bool {
		if _, given, _ := r.BasicAuth(); given == "second" {
			return false
		}
		rw.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		rw.WriteHeader(http.StatusUnauthorized)
		return true
	})
	if err := Kind().NewFetcher(ingest.Env{Places: []ingest.Place{place}}).Fetch(t.Context(), r, t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := (Fetcher{}).Fetch(t.Context(), r, t.TempDir()); err == nil {
		t.Error("fetched without the token")
	}
	place.With = []byte(`{"username":"ada"}`)
	if _, _, err := Kind().Open(t.Context(), place, ingest.Env{}); err == nil {
		t.Error("a username without a token is taken")
	}
}
