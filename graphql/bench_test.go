package graphql_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/schema"
)

// BenchmarkLineage asks for a lineage of 2,000 edges over HTTP, beside encoding
// the same answer as JSON (DESIGN 8: at most three times as long).
func BenchmarkLineage(b *testing.B) {
	w := newWorld(b, nil)
	var last schema.Descriptor
	for i := range 100 {
		var uses []schema.Descriptor
		for j := range 19 {
			uses = append(uses, file(fmt.Sprintf("in/%d/%d", i, j), fmt.Sprint(i, j)))
		}
		if i > 0 {
			uses = append(uses, last)
		}
		last = file(fmt.Sprintf("out/%d", i), fmt.Sprint("out", i))
		w.record(w.step(fmt.Sprintf("run-%d", i), nil, uses, last))
	}
	w.record(w.model("m", "1", "run-99", last))
	s := httptest.NewServer(w.api)
	b.Cleanup(s.Close)
	query, err := json.Marshal(graphql.Request{Query: `{ lineage(ref: "m") { edges { from { id kind name digest } to { id kind name digest } step { id } relation evidence } truncated size } }`})
	if err != nil {
		b.Fatal(err)
	}
	ask := func() []byte {
		resp, err := http.Post(s.URL, "application/json", strings.NewReader(string(query)))
		if err != nil {
			b.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			b.Fatal(resp.Status, err, string(raw[:min(len(raw), 500)]))
		}
		return raw
	}
	type node struct{ ID, Kind, Name, Digest string }
	var answer struct {
		Data struct {
			Lineage struct {
				Edges []struct {
					From, To           node
					Step               struct{ ID string }
					Relation, Evidence string
				}
				Truncated bool
				Size      int64
			}
		}
	}
	if err := json.Unmarshal(ask(), &answer); err != nil || len(answer.Data.Lineage.Edges) != 1999 {
		b.Fatalf("%d edges, %v; want 1999", len(answer.Data.Lineage.Edges), err)
	}
	b.Run("graphql", func(b *testing.B) {
		for b.Loop() {
			ask()
		}
	})
	b.Run("json", func(b *testing.B) {
		for b.Loop() {
			if _, err := json.Marshal(answer); err != nil {
				b.Fatal(err)
			}
		}
	})
}
