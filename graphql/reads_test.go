package graphql_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// countingLog counts the entries that are read from the ledger.
type countingLog struct {
	followed
	entries atomic.Int64
}

func (l *countingLog) Entry(ctx context.Context, index int64) (schema.Entry, error) {
	l.entries.Add(1)
	return l.followed.Entry(ctx, index)
}

// TestReadsPerQuery holds what an answer reads from the stores to what it says,
// however often it says it: 20 models that share 10 inputs and a commit are asked
// for with all their inputs, so that an answer names each shared one 20 times.
func TestReadsPerQuery(t *testing.T) {
	const models, shared = 20, 10
	w := newWorld(t, nil)
	var uses []schema.Descriptor
	for i := range shared {
		uses = append(uses, file(fmt.Sprintf("in/%d", i), fmt.Sprint("in", i)))
	}
	for i := range models {
		run, out := fmt.Sprintf("run-%d", i), file("out", fmt.Sprint("out", i))
		w.record(w.step(run, nil, uses, out))
		w.record(w.model("m", strconv.Itoa(i), run, out))
	}
	// An index of its own, which was followed and not yet asked anything.
	dir := t.TempDir()
	graph, err := lineage.Open(dir, w.Ledger, verify.Signers, verify.Trusted)
	if err != nil {
		t.Fatal(err)
	}
	if err := graph.Follow(t.Context(), w.Ledger); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := graph.Close(); err != nil {
			t.Error(err)
		}
	})
	log := &countingLog{followed: followed{w}}
	api, err := graphql.New(graph, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(query string) (index, entries int64) {
		t.Helper()
		before, entriesBefore := graph.Reads(), log.entries.Load()
		resp := api.Exec(t.Context(), graphql.Request{Query: query})
		if len(resp.Errors) > 0 {
			t.Fatal(resp.Errors)
		}
		return graph.Reads() - before, log.entries.Load() - entriesBefore
	}
	const query = `{ models(first: 100) { nodes { name version evidence step { name uses { resource { id name digest } role } generates { resource { id } } } inputs { id kind name digest } lineage { edges { from { id } to { id name } step { name } evidence } } } } }`
	index, entries := ask(query)
	t.Logf("cold: %d reads of the index, %d of the ledger", index, entries)
	// What there is: a step, a naming and an output a model, and what they share.
	if things := int64(3*models + shared); index > 3*things {
		t.Errorf("an answer about %d things read the index %d times", things, index)
	}
	if entries != 0 {
		t.Errorf("it read %d entries of the ledger; all that it says is in the index", entries)
	}
	again, _ := ask(query)
	t.Logf("warm: %d reads of the index", again)
	if again > models/2 {
		t.Errorf("the same answer read the index %d times when asked again", again)
	}
	// Each body is read once for an answer, and none that nobody asks for.
	if _, entries = ask(`{ entries(first: 10) { nodes { index summary statement proof } } }`); entries > 3*10 {
		t.Errorf("ten entries with statements and proofs read %d entries", entries)
	}
	if _, entries = ask(`{ entries(first: 10) { nodes { index summary evidence } } }`); entries != 0 {
		t.Errorf("ten entries without their bodies read %d entries", entries)
	}
}

// TestResourcesPages reads all resources a few at a time, from both ends.
func TestResourcesPages(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 7 {
		w.record(w.step(fmt.Sprintf("run-%d", i), nil, nil, file("out", fmt.Sprint("out", i))))
	}
	walk := func(page, place, next, cursor string) (ids []string) {
		at := ""
		for range 100 {
			var got struct {
				Resources struct {
					Nodes    []struct{ ID string }
					PageInfo map[string]any
				}
			}
			resp := w.api.Exec(t.Context(), graphql.Request{Query: fmt.Sprintf(`{ resources(%s: 3%s) { nodes { id } pageInfo { %s %s } } }`, page, at, next, cursor)})
			if err := json.Unmarshal(resp.Data, &got); err != nil || len(resp.Errors) > 0 {
				t.Fatal(err, resp.Errors)
			}
			var page []string
			for _, n := range got.Resources.Nodes {
				page = append(page, n.ID)
			}
			if place == "after" {
				ids = append(ids, page...)
			} else {
				ids = append(page, ids...)
			}
			if got.Resources.PageInfo[next] != true {
				return ids
			}
			at = fmt.Sprintf(`, %s: "%s"`, place, got.Resources.PageInfo[cursor])
		}
		t.Fatal("the list does not end")
		return nil
	}
	forward := walk("first", "after", "hasNextPage", "endCursor")
	backward := walk("last", "before", "hasPreviousPage", "startCursor")
	if !slices.Equal(forward, backward) || len(forward) != 8 {
		t.Errorf("%d resources from the beginning, %d from the end, want the genesis and 7:\n%v\n%v", len(forward), len(backward), forward, backward)
	}
}
