package graphql_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
)

const (
	responseType = "application/graphql-response+json; charset=utf-8"
	jsonType     = "application/json; charset=utf-8"
)

// TestHTTP follows the cases of GraphQL over HTTP.
func TestHTTP(t *testing.T) {
	w := newWorld(t, &graphql.Options{Limits: graphql.Limits{BodyBytes: 4096, QueryBytes: 1024}})
	s := httptest.NewServer(w.api)
	t.Cleanup(s.Close)
	const good = `{"query":"{ checkpoint { size } }"}`
	get := func(q string) string { return "/?" + q }
	tests := []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		media, contains          string
	}{
		{name: "query", body: good, status: 200, media: responseType, contains: `{"data":{"checkpoint":{"size":1}},"extensions":{"size":1,"checkpoint":"retrace.example/test\n1\n`},
		{name: "legacy client", body: good, headers: []string{"Accept: application/json"}, status: 200, media: jsonType},
		{name: "both types", body: good, headers: []string{"Accept: application/graphql-response+json, application/json;q=0.9"}, status: 200, media: responseType},
		{name: "prefers legacy", body: good, headers: []string{"Accept: application/graphql-response+json;q=0.5, application/json"}, status: 200, media: jsonType},
		{name: "anything", body: good, headers: []string{"Accept: */*"}, status: 200, media: responseType},
		{name: "only HTML", body: good, headers: []string{"Accept: text/html"}, status: 406},
		{name: "charset", body: good, headers: []string{"Content-Type: application/json; charset=utf-8"}, status: 200, media: responseType},
		{name: "other charset", body: good, headers: []string{"Content-Type: application/json; charset=latin1"}, status: 415},
		{name: "no content type", body: good, headers: []string{"Content-Type: "}, status: 415},
		{name: "form", body: "query=x", headers: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 415},
		{name: "text", body: good, headers: []string{"Content-Type: text/plain"}, status: 415},
		{name: "truncated JSON", body: good[:10], status: 400, media: responseType, contains: "not JSON"},
		{name: "empty body", body: "", status: 400, media: responseType},
		{name: "array", body: "[" + good + "]", status: 422, media: responseType},
		{name: "no query", body: `{}`, status: 422, media: responseType, contains: "query is missing"},
		{name: "null query", body: `{"query":null}`, status: 422, media: responseType, contains: "query is missing"},
		{name: "query is a number", body: `{"query":1}`, status: 422, media: responseType, contains: "query has the wrong type"},
		{name: "variables are a list", body: `{"query":"{__typename}","variables":[]}`, status: 422, media: responseType, contains: "variables has the wrong type"},
		{name: "one member twice", body: `{"query":"{__typename}","query":"{__typename}"}`, status: 422, media: responseType},
		{name: "unknown member", body: `{"query":"{__typename}","more":1}`, status: 200, media: responseType},
		{name: "syntax", body: `{"query":"{"}`, status: 400, media: responseType},
		{name: "unknown field", body: `{"query":"{ nothing }"}`, status: 422, media: responseType, contains: "nothing"},
		{name: "unknown operation", body: `{"query":"query A { __typename }","operationName":"B"}`, status: 422, media: responseType},
		{name: "two operations", body: `{"query":"query A { __typename } query B { __typename }"}`, status: 422, media: responseType},
		{name: "bad variable", body: `{"query":"query($i: Long!) { entry(index: $i) { index } }","variables":{"i":"x"}}`, status: 422, media: responseType, contains: `{"errors"`},
		{name: "variable left out", body: `{"query":"query($i: Long!) { entry(index: $i) { index } }"}`, status: 422, media: responseType},
		{name: "subscription", body: `{"query":"subscription { entries { index } }"}`, status: 422, media: responseType},
		{name: "partial", body: `{"query":"{ checkpoint { size } model(ref: \"none\") { name } }"}`, status: 200, media: responseType, contains: `"model":null`},
		{name: "error for a legacy client", body: `{"query":"{ nothing }"}`, headers: []string{"Accept: application/json"}, status: 422, media: responseType},
		{name: "body too large", body: `{"query":"` + strings.Repeat(" ", 5000) + `"}`, status: 413, contains: "4096"},
		{name: "query too long", body: `{"query":"` + strings.Repeat(" ", 2000) + `"}`, status: 422, media: responseType, contains: "the limit is 1024"},
		{name: "PUT", method: "PUT", body: good, status: 405},
		{name: "GET", method: "GET", path: get("query=" + url.QueryEscape("query Q($i: Long!) { entry(index: $i) { index } }") + "&operationName=Q&variables=" + url.QueryEscape(`{"i":0}`)), status: 200, media: responseType, contains: `"index":0`},
		{name: "GET without a query", method: "GET", path: "/", status: 422, media: responseType},
		{name: "GET with bad variables", method: "GET", path: get("query={__typename}&variables=x"), status: 422, media: responseType},
		{name: "mutation by GET", method: "GET", path: get("query=" + url.QueryEscape(`mutation { record(statement: "{}") { index } }`)), status: 405, media: responseType},
		{name: "mutation without the token", body: `{"query":"mutation { record(statement: \"{}\") { index } }"}`, status: 401, media: responseType},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			method, path := "POST", "/"
			if tt.method != "" {
				method = tt.method
			}
			if tt.path != "" {
				path = tt.path
			}
			req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			for _, h := range tt.headers {
				name, value, _ := strings.Cut(h, ": ")
				req.Header.Set(name, value)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			raw, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status || (tt.media != "" && resp.Header.Get("Content-Type") != tt.media) || !strings.Contains(string(raw), tt.contains) {
				t.Errorf("got %d %s %s, want %d %s and %q", resp.StatusCode, resp.Header.Get("Content-Type"), raw, tt.status, tt.media, tt.contains)
			}
			if tt.media == "" && resp.Header.Get("Content-Type") == responseType {
				t.Errorf("an answer that is no GraphQL response says that it is")
			}
			if resp.StatusCode == http.StatusMethodNotAllowed && resp.Header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
			if tt.media != "" {
				var whole struct {
					Data   json.RawMessage
					Errors []struct {
						Message    string
						Extensions struct{ Code string }
					}
				}
				if err := json.Unmarshal(raw, &whole); err != nil {
					t.Fatalf("%s: %v", raw, err)
				}
				if resp.StatusCode >= 400 && (whole.Data != nil || len(whole.Errors) == 0) {
					t.Errorf("a refused request was answered with %s", raw)
				}
			}
		})
	}
}

// TestHostileQueries: every way of asking for too much ends soon, with the
// limit in the error.
func TestHostileQueries(t *testing.T) {
	w := newWorld(t, nil)
	w.story()
	deep := strings.Repeat("{ history ", 30)
	fragments := "query { ...F0 } "
	for i := range 20 { // each spread twice: 2^20 selections
		fragments += strings.ReplaceAll(strings.ReplaceAll("fragment F@ on Query { ...F# ...F# } ", "@", string(rune('A'+i))), "#", string(rune('A'+i+1)))
	}
	fragments = strings.ReplaceAll(fragments, "...F0", "...FA") + "fragment FU on Query { checkpoint { size } }"
	aliases := func(n int, field string) string {
		var b strings.Builder
		b.WriteByte('{')
		for i := range n {
			b.WriteString(" a")
			b.WriteString(string(rune('a' + i%26)))
			b.WriteString(itoa(i))
			b.WriteString(": ")
			b.WriteString(field)
		}
		b.WriteByte('}')
		return b.String()
	}
	tests := []struct{ name, query, code, says string }{
		{"deep", `{ name(name: "model:forecast@1") ` + deep + " { name }" + strings.Repeat("}", 30) + "}", graphql.CodeLimit, "15"},
		{"long", "{" + strings.Repeat(" checkpoint { size }", 10000) + "}", graphql.CodeLimit, "65536"},
		{"aliases", aliases(2500, "checkpoint{size}"), graphql.CodeLimit, "2000"},
		{"fragments of fragments", fragments, graphql.CodeLimit, ""},
		{"fragment cycle", "{ ...A } fragment A on Query { ...A }", graphql.CodeBadInput, ""},
		{"same field many times", "{" + strings.Repeat("checkpoint{size}", 3000) + "}", graphql.CodeLimit, ""},
		{"page", "{ models(first: 100000) { totalCount } }", graphql.CodeLimit, "1000"},
		{"braces", strings.Repeat("{", 60000), graphql.CodeBadInput, ""},
		{"lists", "{ audit(images: " + strings.Repeat("[", 30000) + ") { reason } }", graphql.CodeBadInput, ""},
		{"number beyond 64 bits", "{ entry(index: 99999999999999999999) { index } }", graphql.CodeBadInput, ""},
		{"default beyond 64 bits", "query($i: Long = 99999999999999999999) { entry(index: $i) { index } }", graphql.CodeBadInput, "cannot be read"},
		{"escape in a default", `query($r: String = "\u{zz}") { model(ref: $r) { name } }`, graphql.CodeBadInput, ""},
		{"bad escape", `{ model(ref: "\ud800\q") { name } }`, graphql.CodeBadInput, ""},
		{"not UTF-8", "{ model(ref: \"\xff\xfe\") { name } }", "", ""},
		{"NUL", "{ model(ref: \"a\\u0000b\") { name } }", graphql.CodeNotFound, ""},
		{"long reference", `{ model(ref: "` + strings.Repeat("x", 60000) + `") { name } }`, graphql.CodeNotFound, ""},
		{"path as a reference", `{ resource(ref: "../../etc/passwd") { name } }`, graphql.CodeNotFound, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			resp := w.api.Exec(t.Context(), graphql.Request{Query: tt.query})
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			if len(resp.Errors) == 0 {
				t.Fatalf("answered with %.200s", resp.Data)
			}
			e := resp.Errors[0]
			if (tt.code != "" && e.Extensions["code"] != tt.code) || !strings.Contains(e.Message, tt.says) {
				t.Errorf("error %.300q with %v, want %s and %q", e.Message, e.Extensions, tt.code, tt.says)
			}
			if len(e.Message) > 1000+len("x")*60000 {
				t.Errorf("the error has %d bytes", len(e.Message))
			}
		})
	}
}

func itoa(i int) string {
	raw, _ := json.Marshal(i)
	return string(raw)
}

// TestBudget: what many aliases read together is bounded too.
func TestBudget(t *testing.T) {
	w := newWorld(t, &graphql.Options{Limits: graphql.Limits{Nodes: 20}})
	w.story()
	if resp := w.api.Exec(t.Context(), graphql.Request{Query: `{ lineage(ref: "forecast") { size } }`}); len(resp.Errors) > 0 {
		t.Fatalf("one lineage: %v", resp.Errors)
	}
	resp := w.api.Exec(t.Context(), graphql.Request{Query: `{ a: lineage(ref: "forecast") { size } b: lineage(ref: "forecast") { size } c: lineage(ref: "forecast") { size } d: lineage(ref: "forecast") { size } }`})
	if len(resp.Errors) == 0 || !strings.Contains(resp.Errors[0].Message, "limit of 20 nodes") {
		t.Errorf("four: %v, want the limit", resp.Errors)
	}
}

func TestDeadline(t *testing.T) {
	w := newWorld(t, &graphql.Options{Limits: graphql.Limits{Time: 20 * time.Millisecond}})
	resp := w.api.Exec(t.Context(), graphql.Request{Query: `{ __typename }`, WaitForSize: 100})
	if len(resp.Errors) == 0 || resp.Errors[0].Extensions["code"] != graphql.CodeTimeout || resp.Data != nil {
		t.Errorf("waiting for what never comes: %v", resp.Errors)
	}
}

// TestPagesAreStable reads a list in pages while the ledger grows.
func TestPagesAreStable(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 7 {
		w.record(w.model("m", itoa(i), "", ledgertest.Subject(itoa(i))))
	}
	var got []string
	after := any(nil)
	for page := range 10 {
		resp := w.api.Exec(t.Context(), graphql.Request{
			Query:     `query($after: String) { models(first: 2, after: $after) { totalCount nodes { version } pageInfo { hasNextPage hasPreviousPage endCursor } } }`,
			Variables: map[string]any{"after": after},
		})
		if len(resp.Errors) > 0 {
			t.Fatal(resp.Errors)
		}
		var data struct {
			Models struct {
				TotalCount int
				Nodes      []struct{ Version string }
				PageInfo   struct {
					HasNextPage, HasPreviousPage bool
					EndCursor                    string
				}
			}
		}
		if err := json.Unmarshal(resp.Data, &data); err != nil {
			t.Fatal(err)
		}
		for _, n := range data.Models.Nodes {
			got = append(got, n.Version)
		}
		if data.Models.TotalCount != 7 || data.Models.PageInfo.HasPreviousPage != (page > 0) {
			t.Errorf("page %d: %+v, want 7 in all", page, data.Models)
		}
		if !data.Models.PageInfo.HasNextPage {
			break
		}
		after = data.Models.PageInfo.EndCursor
		w.record(w.model("m", "late"+itoa(page), "", ledgertest.Subject("late")))
	}
	if diff := cmp.Diff([]string{"0", "1", "2", "3", "4", "5", "6"}, got); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
}
