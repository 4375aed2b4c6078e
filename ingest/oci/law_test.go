package oci

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/ingesttest"
	"github.com/retrace-ledger/retrace/schema"
)

// TestLaw holds this kind to what every kind must do.
func TestLaw(t *testing.T) {
	ingesttest.Test(t, func(t *testing.T) *ingesttest.World {
		w := newWorld(t)
		digest := w.push("v1", image(t, "one", map[string]string{"org.opencontainers.image.version": "1"}))
		w.push("v1-again", image(t, "one", map[string]string{"org.opencontainers.image.version": "1"}))
		w.pushIndex("v2", index(image(t, "two", nil), image(t, "three", nil)))
		w.push("sha256-"+strings.TrimPrefix(digest, "sha256:")+".sig", image(t, "signature", nil))
		w.put("odd", "application/x-what", "{}")
		for i := range 6 {
			w.push(fmt.Sprint("w", i), image(t, fmt.Sprint(i), nil))
		}
		kind := Kind()
		return &ingesttest.World{
			Open: func(t *testing.T) ingest.Source {
				s, _, err := kind.Open(t.Context(), ingest.Place{URL: w.url}, ingest.Env{})
				if err != nil {
					t.Fatal(err)
				}
				return s
			},
			Change: func(*testing.T) {
				w.push("v1", image(t, "moved", nil))
				w.push("v9", image(t, "new", nil))
				w.delete("v1-again")
			},
			Break: func(*testing.T) {
				w.answer(func(rw http.ResponseWriter, _ *http.Request) bool {
					rw.WriteHeader(http.StatusInternalServerError)
					return true
				})
			},
			Fetcher: kind.NewFetcher(ingest.Env{}),
			// The odd tag points at something, but not at an image.
			Fetchable: func(r schema.Resource) bool { return r.Key != schema.BytesKey([]byte("{}")) },
		}
	})
}
