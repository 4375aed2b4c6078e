package graphql_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/retrace-ledger/retrace/graphql"
)

// ask answers a query, which must succeed, into data.
func (w *world) ask(query string, variables map[string]any, data any) {
	w.t.Helper()
	req := graphql.Request{Query: query}
	raw, err := json.Marshal(variables) // as callers send them
	if err == nil {
		err = json.Unmarshal(raw, &req.Variables)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	resp := w.api.Exec(w.t.Context(), req)
	if len(resp.Errors) > 0 {
		w.t.Fatalf("%s: %v", query, resp.Errors)
	}
	if err := json.Unmarshal(resp.Data, data); err != nil {
		w.t.Fatal(err)
	}
}

// TestNodes finds everything that has an id by it again.
func TestNodes(t *testing.T) {
	w := newWorld(t, nil)
	w.story()
	var found struct {
		Entry, Resource, Model, Old struct{ ID string }
		Models                      struct{ Nodes []struct{ ID string } }
		Step                        struct{ ProducedBy []struct{ ID string } }
	}
	w.ask(`{ entry(index: 3) { id } resource(ref: "run:train-1") { id } model(ref: "forecast@2") { id } models { nodes { id } }
		step: model(ref: "forecast@1") { producedBy { id } } }`, nil, &found)
	ids := []string{found.Entry.ID, found.Resource.ID, found.Model.ID, found.Step.ProducedBy[0].ID, "bm90aGluZzp4", "never one of ours", found.Models.Nodes[0].ID}
	var got struct {
		Nodes []*struct {
			Typename string `json:"__typename"`
			ID       string
			Index    int64
			Version  string
			Run      string
			Digest   string
		}
		Node *struct{ ID string }
	}
	query := `query($ids: [ID!]!, $one: ID!) { nodes(ids: $ids) { __typename id ... on Entry { index } ... on Model { version } ... on Step { run } ... on Resource { digest } } node(id: $one) { id } }`
	ids = slices.Delete(ids, 4, 5) // an id that is well-formed and of nothing is an error
	w.ask(query, map[string]any{"ids": ids, "one": ids[0]}, &got)
	if got.Node == nil || got.Node.ID != ids[0] {
		t.Errorf("node: %+v", got.Node)
	}
	want := []string{"Entry 3", "Resource", "Model 2", "Step train-1", "", "Model 1"}
	for i, n := range got.Nodes {
		switch {
		case n == nil:
			if want[i] != "" {
				t.Errorf("node %d is null, want %s", i, want[i])
			}
			continue
		case n.ID != ids[i]:
			t.Errorf("node %d has the id %s, it was asked for by %s", i, n.ID, ids[i])
		}
		text := n.Typename
		switch n.Typename {
		case "Entry":
			text = fmt.Sprint("Entry ", n.Index)
		case "Model":
			text += " " + n.Version
		case "Step":
			text += " " + n.Run
		}
		if text != want[i] {
			t.Errorf("node %d is %s, want %s", i, text, want[i])
		}
	}
	// An earlier ledger does not know the later ones.
	var then struct{ Nodes []*struct{ ID string } }
	w.ask(`query($ids: [ID!]!) { nodes(ids: $ids, asOfSize: 4) { id } }`, map[string]any{"ids": []string{found.Entry.ID, found.Model.ID}}, &then)
	if then.Nodes[0] == nil || then.Nodes[1] != nil {
		t.Errorf("as of size 4: %+v", then.Nodes)
	}
	for _, id := range []string{"bm90aGluZzp4", "ZW50cnk6eA"} {
		resp := w.api.Exec(t.Context(), graphql.Request{Query: `query($id: ID!) { node(id: $id) { id } }`, Variables: map[string]any{"id": id}})
		if len(resp.Errors) != 1 || resp.Errors[0].Extensions["code"] != graphql.CodeBadInput {
			t.Errorf("%s: %v", id, resp.Errors)
		}
	}
}

// TestPagesBothWays reads every list forwards and backwards, by pages of every
// size: all items, each once, in order.
func TestPagesBothWays(t *testing.T) {
	w := newWorld(t, nil)
	w.story()
	for list, node := range map[string]string{
		"entries": "id", "models": "id", `names(prefix: "model:")`: "name", `names`: "name", "entries(orderBy: NEWEST_FIRST)": "id", "models(orderBy: NEWEST_FIRST)": "id", "steps": "id", `search(text: "forecast")`: "id",
	} {
		whole := w.pages(list, node, "first", "after", 1000)
		for size := 1; size < 4; size++ {
			if got := w.pages(list, node, "first", "after", size); !slices.Equal(got, whole) {
				t.Errorf("%s forwards by %d: %v, want %v", list, size, got, whole)
			}
			if got := w.pages(list, node, "last", "before", size); !slices.Equal(got, whole) {
				t.Errorf("%s backwards by %d: %v, want %v", list, size, got, whole)
			}
		}
	}
}

// pages reads a list page by page and returns what it holds, in its order.
func (w *world) pages(list, node, count, place string, size int) []string {
	w.t.Helper()
	field, args := list, ""
	if i := slices.Index([]byte(list), '('); i > 0 {
		field, args = list[:i], list[i+1:len(list)-1]+", "
	}
	var all []string
	var at *string
	for range 100 {
		var data map[string]struct {
			Edges []struct {
				Cursor string
				Node   map[string]any
			}
			PageInfo struct {
				HasNextPage, HasPreviousPage bool
				StartCursor, EndCursor       *string
			}
		}
		w.ask(fmt.Sprintf(`query($at: String) { %s(%s%s: %d, %s: $at) { edges { cursor node { %s } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }`,
			field, args, count, size, place, node), map[string]any{"at": at}, &data)
		page := data[field]
		var items []string
		for _, e := range page.Edges {
			items = append(items, e.Node[node].(string))
		}
		forwards := place == "after"
		more, had := page.PageInfo.HasNextPage, page.PageInfo.HasPreviousPage
		if forwards {
			all = append(all, items...)
			at = page.PageInfo.EndCursor
		} else {
			all = append(items, all...)
			at = page.PageInfo.StartCursor
			more, had = had, more
		}
		if had != (len(all) > len(items)) {
			w.t.Errorf("%s: a page says of the one before it %v", list, had)
		}
		if !more {
			return all
		}
	}
	w.t.Fatalf("%s: the pages do not end", list)
	return nil
}
