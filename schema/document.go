package schema

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Document is a statement found in a file, in the envelope that the ledger
// keeps.
type Document struct {
	// Where in the file it was, such as "line 3" or
	// "provenance_summary.provenance.0.envelope"; empty for a file that is the
	// document.
	Where     string
	Envelope  Envelope
	Statement Statement
	Facts     *Facts
}

// Bare says whether the document came without an envelope, so that nobody
// signed it.
func (d Document) Bare() bool { return len(d.Envelope.Signatures) == 0 }

// ParseDocument returns the statements in a file: an in-toto statement, a DSSE
// envelope, a Sigstore bundle, several of these one after the other (JSON
// Lines) or in an array, or inside what `gcloud artifacts docker images
// describe`, `gh attestation verify` and the npm registry print. Envelopes are
// returned byte for byte as they stand in the file; a bare statement is put
// into an envelope without signatures.
//
// It is all or nothing. An error says where in the file it is and holds a
// *FieldError, or wraps ErrUnsupported where the file is something else, and
// says what.
func ParseDocument(raw []byte) ([]Document, error) {
	raw = bytes.TrimPrefix(raw, byteOrderMark)
	if err := notJSON(raw); err != nil {
		return nil, err
	}
	values, err := splitValues(raw)
	if err != nil {
		return nil, err
	}
	if len(values) == 0 {
		return nil, fieldErrorf("", "empty: holds no JSON document")
	}
	var p documentParser
	for _, v := range values {
		where := ""
		if len(values) > 1 {
			where = "line " + strconv.Itoa(v.line)
		}
		if err := p.parse(where, v.raw, 0); err != nil {
			return nil, err
		}
	}
	return p.found, nil
}

// byteOrderMark begins files that some editors write.
var byteOrderMark = []byte("\ufeff")

// value is one JSON value of a file and the line it begins on, from 1.
type value struct {
	raw  []byte
	line int
}

// splitValues cuts a file into the JSON values it consists of.
func splitValues(raw []byte) ([]value, error) {
	var values []value
	line, counted := 1, int64(0)
	lineAt := func(offset int64) int {
		line += bytes.Count(raw[counted:offset], []byte{'\n'})
		counted = offset
		return line
	}
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	for {
		v, err := dec.ReadValue()
		if errors.Is(err, io.EOF) {
			return values, nil
		}
		if err != nil {
			return nil, syntaxError(raw, err)
		}
		end := dec.InputOffset()
		start := end - int64(len(v))
		values = append(values, value{raw[start:end:end], lineAt(start)})
	}
}

func syntaxError(raw []byte, err error) error {
	reason := err.Error()
	line := 1 + bytes.Count(raw, []byte{'\n'})
	field := ""
	var syn *jsontext.SyntacticError
	if errors.As(err, &syn) && syn.ByteOffset <= int64(len(raw)) {
		reason = syn.Err.Error()
		line = 1 + bytes.Count(raw[:syn.ByteOffset], []byte{'\n'})
		field = pointerPath(syn.JSONPointer)
	}
	if bytes.Contains(raw, []byte("{{")) {
		reason += "; it looks like a template whose {{…}} were not filled in"
	}
	return fmt.Errorf("line %d: %w", line, fieldErrorf(field, "not valid JSON: %s", reason))
}

// notJSON recognizes what people hand in by mistake, before a JSON parser
// would speak of its first byte.
func notJSON(raw []byte) error {
	text := bytes.TrimSpace(raw)
	switch {
	case bytes.HasPrefix(text, []byte("-----BEGIN ")):
		return unsupported("PEM file", "a key is given to `retrace keys trust`")
	case bytes.HasPrefix(text, []byte("apiVersion:")), bytes.Contains(text, []byte("\napiVersion:")):
		return unsupported("Kubernetes object in YAML", wanted)
	case bytes.HasPrefix(text, []byte{0x1f, 0x8b}):
		return unsupported("gzip file", "unpack it first")
	case bytes.HasPrefix(raw, []byte{0xff, 0xfe}), bytes.HasPrefix(raw, []byte{0xfe, 0xff}):
		return unsupported("UTF-16 text", "JSON is UTF-8")
	}
	return nil
}

const wanted = "want an in-toto statement, a DSSE envelope or a Sigstore bundle"

func unsupported(what, hint string) error {
	return fmt.Errorf("%s: %w; %s", what, ErrUnsupported, hint)
}

// maxNesting is how deep wrappers are looked into: an array of what `gh`
// prints, around a bundle.
const maxNesting = 3

type documentParser struct{ found []Document }

// probe holds the members by which documents are told apart.
type probe struct {
	Type        string         `json:"_type"`
	PayloadType jsontext.Value `json:"payloadType"`
	Payload     jsontext.Value `json:"payload"`
	DSSE        jsontext.Value `json:"dsseEnvelope"`
	MediaType   jsontext.Value `json:"mediaType"`

	GCloud *struct {
		Provenance []struct {
			Envelope jsontext.Value `json:"envelope"`
		} `json:"provenance"`
	} `json:"provenance_summary"`
	List []attestation `json:"attestations"` // of npm, and of GitHub's API
	GH   *attestation  `json:"attestation"`
}

type attestation struct {
	Bundle jsontext.Value `json:"bundle"`
	URL    string         `json:"bundle_url"`
}

func (p *documentParser) parse(where string, raw []byte, depth int) error {
	if depth > maxNesting {
		return at(where, fieldErrorf("", "nested deeper than %d", maxNesting))
	}
	switch kind := jsontext.Value(raw).Kind(); kind {
	case '[':
		return p.parseArray(where, raw, depth)
	case '{':
	default:
		return at(where, unsupported("JSON "+kindName(kind), wanted))
	}
	var d probe
	if err := decode(raw, &d); err != nil {
		return at(where, looksLike(raw, err))
	}
	switch {
	case d.Type != "":
		return p.bare(where, raw)
	case d.DSSE != nil, d.Payload != nil, d.PayloadType != nil, isSigstore(text(d.MediaType)):
		return p.envelope(where, raw)
	case d.GCloud != nil:
		for i, e := range d.GCloud.Provenance {
			if err := p.wrapped(join(where, fmt.Sprintf("provenance_summary.provenance.%d.envelope", i)), e.Envelope, depth); err != nil {
				return err
			}
		}
		return p.some(where, len(d.GCloud.Provenance), "Google Cloud provenance summary")
	case d.List != nil:
		for i, e := range d.List {
			if err := p.attestation(join(where, fmt.Sprintf("attestations.%d.bundle", i)), e, depth); err != nil {
				return err
			}
		}
		return p.some(where, len(d.List), "list of attestations")
	case d.GH != nil:
		return p.attestation(join(where, "attestation.bundle"), *d.GH, depth)
	}
	return at(where, looksLike(raw, nil))
}

func (p *documentParser) parseArray(where string, raw []byte, depth int) error {
	var elements []jsontext.Value
	if err := decode(raw, &elements); err != nil {
		return at(where, err)
	}
	for i, e := range elements {
		if err := p.parse(join(where, strconv.Itoa(i)), e, depth+1); err != nil {
			return err
		}
	}
	return p.some(where, len(elements), "JSON array")
}

// wrapped parses what a wrapper holds, which has to be there.
func (p *documentParser) wrapped(where string, raw jsontext.Value, depth int) error {
	if len(raw) == 0 || raw.Kind() == 'n' {
		return at(where, fieldErrorf("", "missing; the statement would be here"))
	}
	return p.parse(where, raw, depth+1)
}

// attestation parses what GitHub and npm put around a bundle.
func (p *documentParser) attestation(where string, a attestation, depth int) error {
	if a.URL != "" && (len(a.Bundle) == 0 || a.Bundle.Kind() == 'n') {
		return at(where, fieldErrorf("", "missing; only its address is given, in bundle_url: get it with `gh attestation download`"))
	}
	return p.wrapped(where, a.Bundle, depth)
}

func (p *documentParser) some(where string, n int, what string) error {
	if n == 0 {
		return at(where, unsupported("empty "+what, wanted))
	}
	return nil
}

func (p *documentParser) bare(where string, raw []byte) error {
	env, err := NewEnvelope(PayloadType, raw)
	if err != nil {
		return at(where, err)
	}
	return p.add(where, env)
}

func (p *documentParser) envelope(where string, raw []byte) error {
	if err := checkBundle(raw); err != nil {
		return at(where, err)
	}
	env, err := ParseEnvelope(raw)
	if err != nil {
		return at(where, err)
	}
	return p.add(where, env)
}

func (p *documentParser) add(where string, env Envelope) error {
	s, err := env.Statement()
	if err != nil {
		return at(where, err)
	}
	f, err := s.Facts()
	if err != nil {
		return at(where, err)
	}
	if err := required(s); err != nil {
		return at(where, err)
	}
	if err := filledIn(s, f); err != nil {
		return at(where, err)
	}
	p.found = append(p.found, Document{Where: where, Envelope: env, Statement: s, Facts: f})
	return nil
}

func at(where string, err error) error {
	if where == "" {
		return err
	}
	return fmt.Errorf("%s: %w", where, err)
}

func join(where, more string) string {
	if where == "" {
		return more
	}
	return where + ": " + more
}

// hints are members that give away what a JSON object is.
type hints struct {
	APIVersion  jsontext.Value `json:"apiVersion"`
	Kind        jsontext.Value `json:"kind"`
	Spec        jsontext.Value `json:"spec"`
	Status      jsontext.Value `json:"status"`
	Job         jsontext.Value `json:"job"`
	EventTime   jsontext.Value `json:"eventTime"`
	SchemaURL   jsontext.Value `json:"schemaURL"`
	BOMFormat   jsontext.Value `json:"bomFormat"`
	SPDXVersion jsontext.Value `json:"spdxVersion"`
	SpecVersion jsontext.Value `json:"specversion"`
	OldBundle   jsontext.Value `json:"base64Signature"`
	Critical    jsontext.Value `json:"critical"`
	Signed      jsontext.Value `json:"signed"`
}

// looksLike says what a JSON object is that holds no statement. cause is why
// it did not decode, if it did not.
func looksLike(raw []byte, cause error) error {
	var h hints
	if err := decode(raw, &h); err != nil {
		return err
	}
	switch {
	case h.APIVersion != nil && h.Kind != nil:
		return kubernetes(text(h.Kind))
	case h.Spec != nil && h.Status != nil:
		return kubernetes(tektonKind(h.Status))
	case h.Job != nil && h.EventTime != nil, strings.Contains(text(h.SchemaURL), "openlineage"):
		return unsupported("OpenLineage event", wanted)
	case h.BOMFormat != nil:
		return unsupported("CycloneDX bill of materials", wanted)
	case h.SPDXVersion != nil:
		return unsupported("SPDX bill of materials", wanted)
	case h.SpecVersion != nil:
		return unsupported("CloudEvent", wanted)
	case h.OldBundle != nil:
		return unsupported("bundle of cosign's own, older format", "it does not hold what was signed; cosign makes Sigstore bundles with --new-bundle-format")
	case h.Critical != nil:
		return unsupported("claim of a signature on an image (simple signing)", "it states no step; "+wanted)
	case h.Signed != nil && strings.Contains(string(h.Signed), `"link"`):
		return unsupported("in-toto link of before statements", "want an in-toto statement of the type "+LinkV03)
	case cause != nil:
		return cause
	}
	return unsupported("JSON object with the members "+members(raw), wanted)
}

func kubernetes(kind string) error {
	hint := wanted
	switch kind {
	case "PipelineRun", "TaskRun":
		hint = "record the provenance that Tekton Chains signs for it"
	case "":
		kind = "without a kind"
	}
	return unsupported("Kubernetes object "+clip(kind), hint)
}

// tektonKind tells a run from its status where apiVersion and kind were left
// out.
func tektonKind(status jsontext.Value) string {
	var s struct {
		PipelineSpec jsontext.Value `json:"pipelineSpec"`
		Children     jsontext.Value `json:"childReferences"`
		TaskSpec     jsontext.Value `json:"taskSpec"`
		PodName      jsontext.Value `json:"podName"`
	}
	if decode(status, &s) != nil {
		return ""
	}
	switch {
	case s.PipelineSpec != nil || s.Children != nil:
		return "PipelineRun"
	case s.TaskSpec != nil || s.PodName != nil:
		return "TaskRun"
	}
	return ""
}

// text is the string that v holds, or "".
func text(v jsontext.Value) string {
	if v.Kind() != '"' {
		return ""
	}
	s, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return ""
	}
	return string(s)
}

// members lists the first members of a JSON object, to say what was found.
func members(raw []byte) string {
	var names []string
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.ReadToken(); err != nil {
		return "none"
	}
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			break
		}
		if len(names) == 5 {
			return strings.Join(names, ", ") + ", …"
		}
		names = append(names, clip(name.String()))
		if dec.SkipValue() != nil {
			break
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
