package schema

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	bareStatement = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + hex64 + `"}}],"predicateType":"https://example.com/p/v1"}`
	// wholeEnvelope is an envelope of {"_type":…} as above, laid out by hand.
	wholeEnvelope = `{ "payloadType": "application/vnd.in-toto+json",
  "payload": "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCJzdWJqZWN0IjpbeyJkaWdlc3QiOnsic2hhMjU2IjoiOWY4NmQwODE4ODRjN2Q2NTlhMmZlYWEwYzU1YWQwMTVhM2JmNGYxYjJiMGI4MjJjZDE1ZDZjMTViMGYwMGEwOCJ9fV0sInByZWRpY2F0ZVR5cGUiOiJodHRwczovL2V4YW1wbGUuY29tL3AvdjEifQ==",
  "signatures": [{"keyid": "k", "sig": "AA=="}] }`
	wholeBundle = `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":` + wholeEnvelope + `,"verificationMaterial":{"certificate":{"rawBytes":"` + certificate64 + `"}}}`
	// certificate64 is one that nobody but its own key signed.
	certificate64 = "MIIBczCCARmgAwIBAgIUN/55/8n/DW/4dOnehg1+Z6Zu+8AwCgYIKoZIzj0EAwIwDzENMAsGA1UEAwwEdGVzdDAeFw0yNjExMjcxOTI5MzdaFw0zNjExMjQxOTI5MzdaMA8xDTALBgNVBAMMBHRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAR43g1ZZ3sMZPRxZpteKX0Cqh1AqwqsIiWLSPa1x+JDKOl0HbpC2pSz5CP/I1cMFSH/b4tB8/sgKd+shG+k3gPDo1MwUTAdBgNVHQ4EFgQUhZoa4mc7poIHVXVcBBdwrN/Z30AwHwYDVR0jBBgwFoAUhZoa4mc7poIHVXVcBBdwrN/Z30AwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAws7FlhKa8gbFIK7FTACVZwttuieW38kXOK/AOe0MjYgCIHxTptqZ2yB4nXU6e9J+XbHyntnruuezJatHxVFxFNux"
)

func TestParseDocument(t *testing.T) {
	for _, tt := range []struct {
		what, raw string
		where     []string // of each document; "" for a file that is one
		kept      string   // the envelope's bytes; empty where a statement was bare
	}{
		{"a statement", bareStatement, []string{""}, ""},
		{"an envelope", wholeEnvelope, []string{""}, wholeEnvelope},
		{"an envelope between blank lines", "\n\n " + wholeEnvelope + "\n\n", []string{""}, wholeEnvelope},
		{"a bundle", wholeBundle, []string{""}, wholeBundle},
		{"two lines", bareStatement + "\n" + bareStatement, []string{"line 1", "line 2"}, ""},
		{"two envelopes of three lines", wholeEnvelope + "\n" + wholeEnvelope, []string{"line 1", "line 4"}, wholeEnvelope},
		{"an array", "[" + wholeEnvelope + "," + wholeEnvelope + "]", []string{"0", "1"}, wholeEnvelope},
		{"what gcloud prints", `{"image_summary":{},"provenance_summary":{"provenance":[{"kind":"BUILD","envelope":` + wholeEnvelope + `}]}}`,
			[]string{"provenance_summary.provenance.0.envelope"}, wholeEnvelope},
		{"what gh prints", `[{"attestation":{"bundle":` + wholeBundle + `},"verificationResult":{}}]`, []string{"0: attestation.bundle"}, wholeBundle},
		{"what npm serves", `{"attestations":[{"predicateType":"p","bundle":` + wholeBundle + `}]}`, []string{"attestations.0.bundle"}, wholeBundle},
	} {
		docs, err := ParseDocument([]byte(tt.raw))
		if err != nil {
			t.Errorf("%s: %v", tt.what, err)
			continue
		}
		var where []string
		for _, d := range docs {
			where = append(where, d.Where)
			if d.Bare() != (tt.kept == "") {
				t.Errorf("%s: bare = %v", tt.what, d.Bare())
			}
			if tt.kept != "" && string(d.Envelope.Raw) != tt.kept {
				t.Errorf("%s: the envelope is %s, want %s", tt.what, d.Envelope.Raw, tt.kept)
			}
			if string(d.Envelope.Payload) != bareStatement || d.Statement.PredicateType != "https://example.com/p/v1" {
				t.Errorf("%s: the statement is %s", tt.what, d.Envelope.Payload)
			}
		}
		if diff := cmp.Diff(tt.where, where); diff != "" {
			t.Errorf("%s: places (-want +got):\n%s", tt.what, diff)
		}
	}
}

func TestParseDocumentRefuses(t *testing.T) {
	const want = "; want an in-toto statement, a DSSE envelope or a Sigstore bundle"
	for _, tt := range []struct {
		raw, want   string
		unsupported bool
	}{
		{"", "empty: holds no JSON document", false},
		{" \n\n", "empty: holds no JSON document", false},
		{"hello", "line 1: not valid JSON: invalid character 'h' at start of value", false},
		{bareStatement + "\n{", "line 2: not valid JSON: unexpected EOF", false},
		{bareStatement + "\n\n" + edit(t, bareStatement, hex64, "ab"), `line 3: subject.0.digest.sha256: "ab" is not a sha256 digest: want 64 lower-case hex digits`, false},
		{`{"a":"{{.Name}}",}`, "line 1: not valid JSON: invalid character '}' at start of string (expecting '\"'); it looks like a template whose {{…}} were not filled in", false},
		{`7`, "JSON number: not supported" + want, true},
		{`[]`, "empty JSON array: not supported" + want, true},
		{`[1]`, "0: JSON number: not supported" + want, true},
		{`[[[[[]]]]]`, "0: 0: 0: 0: nested deeper than 3", false},
		{`{}`, "JSON object with the members none: not supported" + want, true},
		{`{"a":1,"b":[],"c":{},"d":4,"e":5,"f":6}`, "JSON object with the members a, b, c, d, e, …: not supported" + want, true},
		{`{"apiVersion":"tekton.dev/v1","kind":"PipelineRun","spec":{}}`, "Kubernetes object PipelineRun: not supported; record the provenance that Tekton Chains signs for it", true},
		{`{"spec":{},"status":{"taskSpec":{}}}`, "Kubernetes object TaskRun: not supported; record the provenance that Tekton Chains signs for it", true},
		{`{"apiVersion":"v1","kind":"ConfigMap"}`, "Kubernetes object ConfigMap: not supported" + want, true},
		{`{"spec":{},"status":[]}`, "Kubernetes object without a kind: not supported" + want, true},
		{"# a comment\napiVersion: v1\nkind: Pod\n", "Kubernetes object in YAML: not supported" + want, true},
		{"-----BEGIN PUBLIC KEY-----\n", "PEM file: not supported; a key is given to `retrace keys trust`", true},
		{"\x1f\x8b\x08", "gzip file: not supported; unpack it first", true},
		{`{"eventType":"COMPLETE","eventTime":"2026-01-01T00:00:00Z","run":{},"job":{}}`, "OpenLineage event: not supported" + want, true},
		{`{"bomFormat":"CycloneDX"}`, "CycloneDX bill of materials: not supported" + want, true},
		{`{"spdxVersion":"SPDX-2.3"}`, "SPDX bill of materials: not supported" + want, true},
		{`{"specversion":"1.0","type":"x"}`, "CloudEvent: not supported" + want, true},
		{`{"provenance_summary":{"provenance":[]}}`, "empty Google Cloud provenance summary: not supported" + want, true},
		{`{"provenance_summary":{"provenance":[{"kind":"BUILD"}]}}`, "provenance_summary.provenance.0.envelope: missing; the statement would be here", false},
		{`{"attestations":[{"bundle":null}]}`, "attestations.0.bundle: missing; the statement would be here", false},
		{`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","messageSignature":{}}`, "dsseEnvelope: missing; the bundle signs bytes with a bare message signature, which states nothing about them; sign a statement", false},
		{`{"payloadType":"text/plain","payload":"AA==","signatures":[]}`, `payloadType: "text/plain" is not an in-toto statement; want "application/vnd.in-toto+json"`, false},
		{`{"payloadType":"application/vnd.in-toto+json","payload":"AA==","signatures":[]}`, `not valid JSON at byte 0: invalid character '\x00' at start of value`, false},
		{`{"_type":7}`, "_type: a JSON number is not allowed here", false},
	} {
		_, err := ParseDocument([]byte(tt.raw))
		if got := message(err); got != tt.want {
			t.Errorf("ParseDocument(%q)\n got: %s\nwant: %s", tt.raw, got, tt.want)
		}
		if errors.Is(err, ErrUnsupported) != tt.unsupported {
			t.Errorf("ParseDocument(%q): unsupported = %v, want %v", tt.raw, !tt.unsupported, tt.unsupported)
		}
		checkReason(t, tt.raw, err)
	}
}

// TestForeignSteps reads steps of builders that the corpus has none of, or
// whose small print matters.
func TestForeignSteps(t *testing.T) {
	statement := func(predicateType, predicate string) string {
		return `{"_type":"https://in-toto.io/Statement/v0.1","subject":[{"name":"out","digest":{"sha256":"` + hex64 + `"}}],"predicateType":"` + predicateType + `","predicate":` + predicate + `}`
	}
	const commit = "gitCommit:" + hex40
	made := []Output{{Key: "sha256:" + hex64, Path: "out", Name: "out"}}
	start, end := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)
	for _, tt := range []struct {
		what, raw string
		want      Step
	}{
		{"v0.2 whose config source is no material", statement(ProvenanceV02,
			`{"builder":{"id":"b"},"buildType":"t","invocation":{"configSource":{"uri":"git+https://h/r","digest":{"sha1":"`+hex40+`"}},"parameters":{"a":{"b":"c","d":[1]}}},
			  "metadata":{"buildInvocationId":"i","buildStartedOn":"2026-01-02T03:04:05Z","buildFinishedOn":"2026-01-02T03:04:06Z"},"materials":[{}]}`),
			Step{Run: "i", Name: "t", BuildType: "t", Builder: "b", Started: start, Finished: end, Parameters: map[string]string{"a.b": "c", "a.d": "[1]"},
				Uses: []Use{{Key: commit, Role: RoleCode}}, Generates: made}},
		{"v0.2 with the invocation spelled as Go does", statement(ProvenanceV02, `{"builder":{"id":"b"},"buildType":"t","metadata":{"buildInvocationID":"I"}}`),
			Step{Run: "I", Name: "t", BuildType: "t", Builder: "b", Generates: made}},
		{"v0.1 that says which material defined it", statement(ProvenanceV01,
			`{"builder":{"id":"b"},"recipe":{"type":"t","definedInMaterial":1,"entryPoint":"build.yaml"},
			  "materials":[{"uri":"pkg:deb/x"},{"uri":"https://github.com/o/r","digest":{"sha1":"`+hex40+`"}}]}`),
			Step{Name: "build.yaml", BuildType: "t", Builder: "b", Uses: []Use{{Key: "uri:pkg:deb/x", Role: RoleInput}, {Key: commit, Role: RoleCode}}, Generates: made}},
		{"a link", statement(LinkV03, `{"name":"compile","command":["make"],"materials":[{"name":"a.c","digest":{"sha256":"`+hex64+`"}}]}`),
			Step{Name: "compile", BuildType: LinkV03, Argv: []string{"make"}, Uses: []Use{{Key: "sha256:" + hex64, Role: RoleInput, Name: "a.c"}}, Generates: made}},
		{"a workflow of GitHub's", statement(ProvenanceV1, `{"buildDefinition":{"buildType":"https://actions.github.io/buildtypes/workflow/v1",
			"externalParameters":{"workflow":{"path":".github/workflows/ci.yml","ref":"refs/heads/main"}},
			"resolvedDependencies":[{"uri":"git+https://github.com/o/r@refs/heads/main","digest":{"gitCommit":"`+hex40+`"}}]},"runDetails":{"builder":{"id":"b"}}}`),
			Step{Name: ".github/workflows/ci.yml", BuildType: "https://actions.github.io/buildtypes/workflow/v1", Builder: "b",
				Parameters: map[string]string{"workflow.path": ".github/workflows/ci.yml", "workflow.ref": "refs/heads/main"},
				Uses:       []Use{{Key: commit, Role: RoleInput}}, Generates: made}},
	} {
		docs, err := ParseDocument([]byte(tt.raw))
		if err != nil {
			t.Errorf("%s: %v", tt.what, err)
			continue
		}
		got := docs[0].Facts.Step
		if (got.Run == "") != (got.Predicate != "") {
			t.Errorf("%s: run %q and predicate %q; one of them identifies a step", tt.what, got.Run, got.Predicate)
		}
		got.Predicate = ""
		if diff := cmp.Diff(&tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.what, diff)
		}
	}
	for want, raw := range map[string]string{
		"predicate.builder.id: missing":  statement(ProvenanceV02, `{"buildType":"t"}`),
		"predicate.buildType: missing":   statement(ProvenanceV02, `{"builder":{"id":"b"}}`),
		"predicate.recipe.type: missing": statement(ProvenanceV01, `{"builder":{"id":"b"}}`),
		"predicate.recipe.definedInMaterial: 3 is not the place of one of the 0 materials": statement(ProvenanceV01, `{"builder":{"id":"b"},"recipe":{"type":"t","definedInMaterial":3}}`),
		"predicate: missing; a " + ProvenanceV1 + " statement has one":                     strings.Replace(bareStatement, "https://example.com/p/v1", ProvenanceV1, 1),
		"predicate.runDetails.builder.id: missing":                                         statement(ProvenanceV1, `{"buildDefinition":{"buildType":"t"}}`),
		"predicate.name: missing":                                                          statement(LinkV03, `{}`),
	} {
		if _, err := ParseDocument([]byte(raw)); message(err) != want {
			t.Errorf("%s\n got: %v\nwant: %s", raw, err, want)
		}
	}
}

func TestIsRepository(t *testing.T) {
	for uri, want := range map[string]bool{
		"git+https://h/r@refs/tags/v1":           true,
		"git://h/r":                              true,
		"https://h/r.git":                        true,
		"https://h/r.git@refs/heads/main":        true,
		"ssh://git@h/r.git":                      true,
		"https://github.com/o/r":                 true,
		"https://github.com/o/r/releases/tag/v1": false,
		"https://example.com/o/r":                false,
		"https://github.com/":                    false,
		"pkg:docker/alpine@3":                    false,
		"":                                       false,
		"http://[::1":                            false,
		"https://evil.example/https://github.com/o/r":      false,
		"https://github.com.evil.example/o/r":              false,
		"https://us-docker.pkg.dev/p/r/image:git":          false,
		"https://gitlab.com/o/r/-/archive/main/r-main.zip": false,
	} {
		if got := isRepository(uri); got != want {
			t.Errorf("isRepository(%q) = %v, want %v", uri, got, want)
		}
	}
}
