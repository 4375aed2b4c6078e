package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

// edit returns the JSON of v with old replaced by new, which must be there.
func edit(t testing.TB, doc, old, new string) string {
	t.Helper()
	if !strings.Contains(doc, old) {
		t.Fatalf("%s is not in %s", old, doc)
	}
	return strings.Replace(doc, old, new, 1)
}

func TestParseStatementRefuses(t *testing.T) {
	const good = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"m","digest":{"sha256":"` + hex64 + `"}}],"predicateType":"https://example.com/p/v1","predicate":{"x":1}}`
	if _, err := ParseStatement([]byte(good)); err != nil {
		t.Fatalf("ParseStatement(%s): %v", good, err)
	}
	for _, tt := range []struct{ old, new, want string }{
		{good, ``, "not valid JSON at byte 0: unexpected EOF"},
		{`}]`, `}`, "subject.1: a JSON string is not allowed here"},
		{`"predicate":{"x":1}}`, `"predicate":{"x":1`, "predicate: not valid JSON at byte 216: unexpected EOF"},
		{`https://in-toto.io/Statement/v1`, `https://in-toto.io/Statement/v2`, `_type: "https://in-toto.io/Statement/v2" is not an in-toto statement; want "https://in-toto.io/Statement/v1"`},
		{`"_type":"https://in-toto.io/Statement/v1",`, ``, `_type: missing; want "https://in-toto.io/Statement/v1"`},
		{`"https://example.com/p/v1"`, `""`, "predicateType: missing"},
		{`"https://example.com/p/v1"`, `7`, "predicateType: a JSON number is not allowed here"},
		{`[{"name":"m","digest":{"sha256":"` + hex64 + `"}}]`, `[]`, "subject: missing or empty; a statement is about at least one subject"},
		{`[{"name":"m","digest":{"sha256":"` + hex64 + `"}}]`, `{}`, "subject: a JSON object is not allowed here"},
		{`,"digest":{"sha256":"` + hex64 + `"}`, ``, "subject.0.digest: missing; a subject is matched by its digest"},
		{`{"sha256":"` + hex64 + `"}`, `{}`, "subject.0.digest: missing; a subject is matched by its digest"},
		{hex64, hex64[1:], `subject.0.digest.sha256: "` + hex64[1:] + `" is not a sha256 digest: want 64 lower-case hex digits`},
		{hex64, `../../etc/passwd`, `subject.0.digest.sha256: "../../etc/passwd" is not a sha256 digest: want 64 lower-case hex digits`},
		{`"sha256"`, `"gitCommit"`, ""},
		{`"sha256":"` + hex64 + `"`, `"gitCommit":"` + hex40 + `0"`, `subject.0.digest.gitCommit: "` + hex40 + `0" has 41 hex digits; a gitCommit digest has 40 or 64`},
		{`"sha256":"` + hex64 + `"`, `"sha256":7`, "subject.0.digest.sha256: a JSON number is not allowed here"},
		{`"name":"m"`, `"name":"m","name":"n"`, "subject.0.name: not valid JSON at byte 66: duplicate object member name"},
		{`"name":"m"`, "\"name\":\"\xff\"", "subject.0.name: not valid JSON at byte 63: invalid UTF-8"},
		{`"name":"m"`, `"name":"m","content":"aGVsbG8K"`, "subject.0.content: does not have the sha256 digest stated beside it"},
		{`"name":"m"`, `"name":"m","Name":"n"`, ""}, // another field, as in-toto asks to ignore
		{`{"x":1}`, `[1]`, "predicate: must be a JSON object"},
		{`{"x":1}`, `null`, "predicate: must be a JSON object"},
		{`,"predicate":{"x":1}`, ``, ""},
	} {
		_, err := ParseStatement([]byte(edit(t, good, tt.old, tt.new)))
		if got := message(err); got != tt.want {
			t.Errorf("%s instead of %s\n got: %s\nwant: %s", tt.new, tt.old, got, tt.want)
		}
		var fe *FieldError
		if err != nil && !errors.As(err, &fe) {
			t.Errorf("%s instead of %s: %T is not a *FieldError", tt.new, tt.old, err)
		}
	}
}

func TestTooManySubjects(t *testing.T) {
	one := `{"digest":{"sha256":"` + hex64 + `"}}`
	doc := func(n int) []byte {
		return []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[` + one + strings.Repeat(","+one, n-1) + `],"predicateType":"p"}`)
	}
	if _, err := ParseStatement(doc(MaxSubjects)); err != nil {
		t.Errorf("%d subjects: %v", MaxSubjects, err)
	}
	if _, err := ParseStatement(doc(MaxSubjects + 1)); message(err) != "subject: has 16385 subjects; the limit is 16384" {
		t.Errorf("%d subjects: %v", MaxSubjects+1, err)
	}
	if _, err := ParseStatement(make([]byte, MaxEnvelope+1)); message(err) != "statement is 4194305 bytes; the limit is 4194304" {
		t.Errorf("a long statement: %v", err)
	}
}

func TestNewStatementRefusesWhatCannotBeRead(t *testing.T) {
	digest := Descriptor{Digest: DigestSet{SHA256: hex64}}
	for want, build := range map[string]func() (Statement, error){
		"building a " + TagV1 + " statement: predicate.tag: missing": func() (Statement, error) {
			return NewStatement(TagV1, Tag{Repository: "r"}, digest)
		},
		"building a " + TagV1 + " statement: subject: missing or empty; a statement is about at least one subject": func() (Statement, error) {
			return NewStatement(TagV1, Tag{Repository: "r", Tag: "t"})
		},
		"building a x statement: subject.0.digest: missing; a subject is matched by its digest": func() (Statement, error) {
			return NewStatement("x", struct{}{}, Descriptor{URI: "file:///x"})
		},
		"building a x statement: predicate: must be a JSON object": func() (Statement, error) {
			return NewStatement("x", []int{1}, digest)
		},
	} {
		if _, err := build(); message(err) != want {
			t.Errorf("NewStatement\n got: %v\nwant: %s", err, want)
		}
	}
}

// TestPredicatesRefuse edits the examples of docs/formats.md into statements
// that decode and make no sense.
func TestPredicatesRefuse(t *testing.T) {
	for _, tt := range []struct{ predicateType, old, new, want string }{
		{GenesisV1, `"format":1`, `"format":2`, "predicate.format: 2 is not a format this program knows; it reads 1"},
		{GenesisV1, `"format":1`, `"format":"1"`, "predicate.format: a JSON string is not allowed here"},
		{GenesisV1, `"format":1`, `"format":1,"extra":0`, "predicate.extra: unknown field"},
		{TrustV1, `"action":"trust"`, `"action":"believe"`, `predicate.action: "believe" is neither trust nor revoke nor recognize nor rotate`},
		{TrustV1, `"notAfter":"2027-01-01T00:00:00Z"`, `"notAfter":"tomorrow"`, "*predicate.notAfter: "},
		{CoverageV1, `"to":"2026-01-02T04:00:00Z"`, `"to":"2025-01-02T04:00:00Z"`, "predicate.to: 2025-01-02T04:00:00Z is before from, 2026-01-02T03:00:00Z"},
		{CoverageV1, `"count":12`, `"count":-1`, "predicate.count: -1 is negative"},
		{CoverageV1, `"previous":"`, `"previous":"0`, "*predicate.previous: "},
		{CommitV1, `"4b825dc642cb6eb9a060e54bf8d69288fbee4904"`, `"4b825d"`, `predicate.tree: "4b825d" has 6 hex digits; a gitTree digest has 40 or 64`},
		{CommitV1, `["1f7391f92b6a3792204e07e99f71f643cc35e7e1"]`, `["HEAD"]`, `predicate.parents.0: "HEAD" is not a digest: only lower-case hex digits are allowed`},
		{RefV1, `"refs/tags/v3"`, `"v3"`, `predicate.ref: "v3" is not a full ref name`},
		{RefV1, `"old":"1f`, `"old":"`, `predicate.old: "7391f92b6a3792204e07e99f71f643cc35e7e1" has 38 hex digits; a gitCommit digest has 40 or 64`},
		{ImageV1, `"size":1234`, `"size":-1`, "predicate.size: -1 is negative"},
		{ImageV1, `"config":"sha256:`, `"config":"`, "*predicate.config: "},
		{TagV1, `"tag":"latest"`, `"tag":""`, "predicate.tag: missing"},
		{SnapshotV1, `"path":"data/x.csv"`, `"path":"../x.csv"`, `predicate.files.1.path: "../x.csv" is not a clean relative path`},
		{SnapshotV1, `"path":"data/x.csv"`, `"path":"data/y.csv"`, "*subject.0.digest.retraceTree1: is not the digest of the files listed, "},
		{SnapshotV1, `"size":4`, `"size":5`, "*subject.0.digest.retraceTree1: is not the digest of the files listed, "},
		{SnapshotV1, `"type":"link"`, `"type":"fifo"`, `predicate.files.2.type: "fifo" is none of file, folder and link`},
		{SnapshotV1, `"store":"store"`, `"volume":{"name":"raw"}`, "predicate.volume.uri: missing; a snapshot without one has an error, or is deleted"},
		{SnapshotV1, `"store":"store"`, `"volume":{"name":"raw","uri":"csi://d/h","deletionPolicy":"Keep"}`, `predicate.volume.deletionPolicy: "Keep" is neither Retain nor Delete`},
		{SnapshotV1, `"store":"store"`, `"volume":{"name":"raw","uri":"csi://d/h"}`, `subject.0.name: "/srv/data" is not the snapshot, "snapshot:dir:///srv/data#raw"`},
		{ClaimV1, `"claim":"pvc://ml/restored"`, `"claim":"ml/restored"`, `predicate.claim: "ml/restored" is not pvc://NAMESPACE/NAME`},
		{ClaimV1, `"deleted":true,"from":[`, `"deleted":true,"from":[{"digest":{"sha256":"00"},"uri":"csi://d/h"},`, "*predicate.from.0: want a location and no digest"},
		{TakingV1, `"action":"take"`, `"action":"steal"`, `predicate.action: "steal" is neither take nor delete`},
		{TakingV1, `"uid":"`, `"uid":"","reason2":"`, "*predicate.reason2: unknown field"},
		{ModelV1, `"name":"forecast"`, `"name":"a@b"`, `predicate.name: "a@b" is not a model name: 1 to 256 characters, none of @ : # = or space, not beginning with / or .`},
		{ModelV1, `"version":"3"`, `"version":"3 4"`, `predicate.version: "3 4" is not a version: one or more characters, no spaces, no @`},
		{DeploymentV1, `prod/forecast/Deployment/api`, `api`, `predicate.workload: "api" is not CLUSTER/NAMESPACE/KIND/NAME`},
		{RetractionV1, `"index":41,`, ``, "predicate.index: 0 cannot be retracted; want the index of an entry after genesis"},
		{ErasureV1, `"resources":[`, `"resources":["sha512:00",`, "predicate.resources.1: is not after the one before it; want them sorted, each once"},
		{ErasureV1, `"resources":[`, `"resources":["",`, "predicate.resources.0: is empty"},
		{ErasureV1, `"index":42`, `"index":-42`, "predicate.index: -42 cannot be erased; want the index of an entry after genesis"},
		{RestoreV1, `"INCOMPLETE"`, `"FINE"`, `predicate.result: "FINE" is neither COMPLETE nor INCOMPLETE`},
		{ReproductionV1, `"DIVERGED"`, `"BIT_EXACTLY"`, `predicate.verdict: "BIT_EXACTLY" is none of BIT_EXACT, DIVERGED and NOT_REPLAYABLE`},
		{ProvenanceV1, `"dir":"."`, `"dir":"../.."`, `predicate.buildDefinition.externalParameters.dir: "../.." is not a clean relative path`},
		{ProvenanceV1, `"outputs":["out/model.json"]`, `"outputs":["/../model.json"]`, `predicate.buildDefinition.externalParameters.outputs.0: "../model.json" is not a clean relative path`},
		{ProvenanceV1, `"annotations":{"content":"store","path":"out/model.json"`, `"annotations":{"content":"store","path":"../model.json"`, "*subject.1.annotations.path: "},
		{ProvenanceV1, `"argv":["python","train.py","--epochs","3"]`, `"argv":["true"]`, "*subject.0.digest.sha256: is not the digest of the predicate, "},
		{ProvenanceV1, `"name":"run:01JGJX4T5Z"`, `"name":"run:other"`, `subject.0.name: "run:other" is not the run itself, "run:01JGJX4T5Z"`},
		{ProvenanceV1, `"dir":".",`, `"dir":".","cwd":"/",`, "predicate.buildDefinition.externalParameters.cwd: unknown field"},
	} {
		s := example(t, tt.predicateType)
		raw, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		changed := edit(t, string(raw), tt.old, tt.new)
		_, err = ParseDocument([]byte(changed))
		got := message(err)
		if prefix, ok := strings.CutPrefix(tt.want, "*"); ok && err != nil && strings.HasPrefix(got, prefix) {
			continue
		}
		if got != tt.want {
			t.Errorf("%s: %s instead of %s\n got: %s\nwant: %s", tt.predicateType, tt.new, tt.old, got, tt.want)
		}
	}
}

// FuzzStatement: no input panics; what parses and has facts encodes to
// something that parses and has facts.
func FuzzStatement(f *testing.F) {
	for _, s := range formatExamples(f) {
		raw, err := s.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := ParseStatement(raw)
		if err != nil {
			return
		}
		facts, err := s.Facts()
		if err != nil {
			return
		}
		checkFacts(t, facts)
		again, err := s.Encode()
		if err != nil {
			t.Fatalf("a statement that parsed is not encoded: %v", err)
		}
		back, err := ParseStatement(again)
		if err != nil {
			t.Fatalf("%s parses, its encoding %s does not: %v", raw, again, err)
		}
		if third, err := back.Encode(); err != nil || !bytes.Equal(again, third) {
			t.Errorf("the encoding %s encodes to %s (%v)", again, third, err)
		}
	})
}

// checkFacts holds facts to what indexes rest on: every resource once, and
// everything that is joined is a resource.
func checkFacts(t *testing.T, f *Facts) {
	t.Helper()
	known := map[Key]bool{}
	for _, r := range f.Resources {
		if r.Key == "" || known[r.Key] {
			t.Errorf("resource %q is empty or listed twice", r.Key)
		}
		known[r.Key] = true
	}
	need := func(k Key) {
		if !known[k] {
			t.Errorf("%q is joined and not a resource", k)
		}
	}
	f.Visit(need, need, func(r Relation) { need(r.From); need(r.To) })
	for _, n := range f.Names {
		need(n.Key)
	}
}

func FuzzParseDocument(f *testing.F) {
	for _, s := range formatExamples(f) {
		raw, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(bytes.Join([][]byte{raw, raw}, []byte("\n")))
	}
	for _, file := range corpusSeeds("slsa", "sigstore/*", "tekton", "openlineage", "argo") {
		if raw, err := os.ReadFile(file); err == nil {
			f.Add(raw)
		}
	}
	for _, version := range []string{"0.1", "0.2", "0.3"} {
		f.Add([]byte(bundleOf(version, bareStatement)))
	}
	for _, predicate := range []string{ModelSignatureV1, VSAv1, VSAv02, SCAIv03, LinkV03} {
		f.Add([]byte(statementOf(predicate, `{"resources":[{"name":"a:0:1","algorithm":"sha256","digest":"`+hello+`"}],"serialization":{"method":"shards","hash_type":"sha256"},"attributes":[{"attribute":"a"}],"name":"n"}`)))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		docs, err := ParseDocument(raw)
		if err != nil {
			checkReason(t, "input", err)
			return
		}
		if len(docs) == 0 {
			t.Error("no document and no error")
		}
		for _, d := range docs {
			checkFacts(t, d.Facts)
			if !d.Bare() && !bytes.Contains(raw, d.Envelope.Raw) {
				t.Error("an envelope was not kept byte for byte")
			}
		}
	})
}
