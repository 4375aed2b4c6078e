package openlineage

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// Bounds of what one event may say.
const (
	MaxEvent    = 4 << 20 // bytes
	maxDatasets = 10000   // inputs and outputs
	maxName     = 4096    // bytes of a name, a namespace, a version
)

// ErrNoRun says of an event of a job or of a dataset that it is one: it states
// what there is, and nothing of a run.
var ErrNoRun = errors.New("states no run")

// Event is one event of a run.
type Event struct {
	RunID string    // in lower case
	Type  string    // START, RUNNING, COMPLETE, ABORT, FAIL, OTHER; "" where it does not say
	Time  time.Time // by whoever sent it

	raw jsontext.Value // canonical
	doc document
}

// document is the part of an event that is read.
type document struct {
	EventType string    `json:"eventType"`
	EventTime string    `json:"eventTime"`
	Producer  string    `json:"producer"`
	SchemaURL string    `json:"schemaURL"`
	Run       *runPart  `json:"run"`
	Job       *jobPart  `json:"job"`
	Dataset   *dataset  `json:"dataset"`
	Inputs    []dataset `json:"inputs"`
	Outputs   []dataset `json:"outputs"`
}

type runPart struct {
	RunID  string `json:"runId"`
	Facets facets `json:"facets"`
}

type jobPart struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Facets    facets `json:"facets"`
}

type dataset struct {
	Namespace    string `json:"namespace"`
	Name         string `json:"name"`
	Facets       facets `json:"facets"`
	InputFacets  facets `json:"inputFacets"`
	OutputFacets facets `json:"outputFacets"`
}

// facets are what is said beside the names, by the name of the facet.
type facets map[string]jsontext.Value

// Ended says whether the event is the last of its run, if nothing is late.
func (e *Event) Ended() bool { return terminal(e.Type) }

// Raw is the event as canonical JSON.
func (e *Event) Raw() []byte { return e.raw }

func terminal(eventType string) bool {
	return eventType == "COMPLETE" || eventType == "ABORT" || eventType == "FAIL"
}

// Looks says whether a document is one of events, or meant to be: whether Parse
// is to read it.
func Looks(raw []byte) bool {
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	if d.PeekKind() == '[' {
		if _, err := d.ReadToken(); err != nil {
			return false
		}
	}
	if d.PeekKind() != '{' {
		return false
	}
	v, err := d.ReadValue()
	if err != nil {
		return false
	}
	var head struct {
		EventType jsontext.Value `json:"eventType"`
		SchemaURL jsontext.Value `json:"schemaURL"`
		EventTime jsontext.Value `json:"eventTime"`
	}
	return json.Unmarshal(v, &head) == nil && (head.EventType != nil || head.EventTime != nil || strings.Contains(string(head.SchemaURL), "openlineage"))
}

// Parse reads events: one, an array of them, or JSON Lines. It is all or
// nothing: an error says which event it is about, and holds a *schema.FieldError
// that names the field.
func Parse(raw []byte) ([]Event, error) {
	values, err := Split(raw)
	if err != nil {
		return nil, err
	}
	events := make([]Event, len(values))
	for i, v := range values {
		if events[i], err = ParseEvent(v); err != nil {
			if len(values) > 1 {
				err = fmt.Errorf("event %d: %w", i+1, err)
			}
			return nil, err
		}
	}
	return events, nil
}

// Split cuts a document into its events: one, an array of them, or JSON Lines.
func Split(raw []byte) ([]jsontext.Value, error) {
	var values []jsontext.Value
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	for {
		kind := d.PeekKind()
		if kind == '[' {
			if _, err := d.ReadToken(); err != nil {
				return nil, notJSON(err)
			}
			for d.PeekKind() != ']' {
				v, err := d.ReadValue()
				if err != nil {
					return nil, notJSON(err)
				}
				values = append(values, v.Clone())
			}
			if _, err := d.ReadToken(); err != nil {
				return nil, notJSON(err)
			}
			continue
		}
		if kind != '{' {
			break
		}
		v, err := d.ReadValue()
		if err != nil {
			return nil, notJSON(err)
		}
		values = append(values, v.Clone())
	}
	if rest := bytes.TrimSpace(raw[d.InputOffset():]); len(rest) > 0 {
		return nil, &schema.FieldError{Reason: fmt.Sprintf("is not JSON at byte %d", d.InputOffset())}
	}
	if len(values) == 0 {
		return nil, &schema.FieldError{Reason: "holds no event"}
	}
	return values, nil
}

func notJSON(err error) error { return &schema.FieldError{Reason: err.Error()} }

// ParseEvent reads one event. It refuses one that lacks what OpenLineage
// requires, with the field, and one of a job or of a dataset with ErrNoRun.
func ParseEvent(raw jsontext.Value) (Event, error) {
	if len(raw) > MaxEvent {
		return Event{}, &schema.FieldError{Reason: fmt.Sprintf("has %d bytes; %d are the most that is taken", len(raw), MaxEvent)}
	}
	var e Event
	if err := unmarshal(raw, &e.doc); err != nil {
		return Event{}, err
	}
	e.raw = raw.Clone()
	if err := e.raw.Canonicalize(); err != nil {
		return Event{}, notJSON(err)
	}
	if err := e.check(); err != nil {
		return Event{}, err
	}
	e.RunID, e.Type = strings.ToLower(e.doc.Run.RunID), e.doc.EventType
	return e, nil
}

// unmarshal is json.Unmarshal with an error that names the field.
func unmarshal(raw []byte, v any) error {
	err := json.Unmarshal(raw, v)
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		field := strings.ReplaceAll(strings.TrimPrefix(string(semantic.JSONPointer), "/"), "/", ".")
		return &schema.FieldError{Field: field, Reason: fmt.Sprintf("a JSON %s is not allowed here", semantic.JSONKind)}
	}
	if err != nil {
		return notJSON(err)
	}
	return nil
}

// uuid is a run ID (RFC 9562), in whatever case.
var uuid = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

func (e *Event) check() error {
	d := &e.doc
	if d.Run == nil {
		switch {
		case d.EventType != "":
			return missing("run")
		case d.Job != nil:
			return fmt.Errorf("an event of a job %w", ErrNoRun)
		case d.Dataset != nil:
			return fmt.Errorf("an event of a dataset %w", ErrNoRun)
		}
		return &schema.FieldError{Field: "run", Reason: "missing, and so are job and dataset: this is no event of OpenLineage"}
	}
	if err := required("eventTime", d.EventTime); err != nil {
		return err
	}
	var err error
	if e.Time, err = time.Parse(time.RFC3339Nano, d.EventTime); err != nil {
		return &schema.FieldError{Field: "eventTime", Reason: fmt.Sprintf("%q is no time of RFC 3339, with its zone", cut(d.EventTime))}
	}
	e.Time = e.Time.UTC()
	switch d.EventType {
	case "", "START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER":
	default:
		return &schema.FieldError{Field: "eventType", Reason: fmt.Sprintf("%q is none of START, RUNNING, COMPLETE, ABORT, FAIL, OTHER", cut(d.EventType))}
	}
	if err := required("run.runId", d.Run.RunID); err != nil {
		return err
	}
	if !uuid.MatchString(d.Run.RunID) {
		return &schema.FieldError{Field: "run.runId", Reason: fmt.Sprintf("%q is no UUID", cut(d.Run.RunID))}
	}
	if d.Job == nil {
		return missing("job")
	}
	for _, f := range []struct{ field, text string }{
		{"job.namespace", d.Job.Namespace}, {"job.name", d.Job.Name}, {"producer", d.Producer}, {"schemaURL", d.SchemaURL},
	} {
		if err := required(f.field, f.text); err != nil {
			return err
		}
	}
	if err := d.Run.Facets.check("run.facets"); err != nil {
		return err
	}
	if err := d.Job.Facets.check("job.facets"); err != nil {
		return err
	}
	if len(d.Inputs)+len(d.Outputs) > maxDatasets {
		return &schema.FieldError{Field: "inputs", Reason: fmt.Sprintf("%d inputs and outputs are more than %d", len(d.Inputs)+len(d.Outputs), maxDatasets)}
	}
	for side, all := range map[string][]dataset{"inputs": d.Inputs, "outputs": d.Outputs} {
		for i := range all {
			if err := all[i].check(side + "." + strconv.Itoa(i)); err != nil {
				return err
			}
		}
	}
	return e.facts()
}

func (d *dataset) check(field string) error {
	if err := required(field+".namespace", d.Namespace); err != nil {
		return err
	}
	if err := required(field+".name", d.Name); err != nil {
		return err
	}
	if err := d.Facets.check(field + ".facets"); err != nil {
		return err
	}
	if err := d.InputFacets.check(field + ".inputFacets"); err != nil {
		return err
	}
	return d.OutputFacets.check(field + ".outputFacets")
}

// check holds every facet to what all facets have (BaseFacet).
func (f facets) check(field string) error {
	for name, raw := range f {
		at := field + "." + name
		var base struct {
			Producer  string `json:"_producer"`
			SchemaURL string `json:"_schemaURL"`
		}
		if err := below(at, unmarshal(raw, &base)); err != nil {
			return err
		}
		if err := required(at+"._producer", base.Producer); err != nil {
			return err
		}
		if err := required(at+"._schemaURL", base.SchemaURL); err != nil {
			return err
		}
	}
	return nil
}

// required refuses a text that is missing, or that was to be filled in.
func required(field, text string) error {
	switch {
	case text == "":
		return missing(field)
	case strings.Contains(text, "${") || strings.Contains(text, "{{"):
		return &schema.FieldError{Field: field, Reason: fmt.Sprintf("%q is a placeholder: this is a template of an event, and not one", cut(text))}
	case len(text) > maxName:
		return &schema.FieldError{Field: field, Reason: fmt.Sprintf("has %d bytes; %d are the most that is taken", len(text), maxName)}
	}
	return nil
}

func missing(field string) error {
	return &schema.FieldError{Field: field, Reason: "missing; OpenLineage requires it"}
}

// below puts an error about a part under the field that holds it.
func below(field string, err error) error {
	var fe *schema.FieldError
	if !errors.As(err, &fe) {
		return err
	}
	if fe.Field != "" {
		field += "." + fe.Field
	}
	return &schema.FieldError{Field: field, Reason: fe.Reason}
}

// cut is a value for an error, short and without what looks like a secret.
func cut(s string) string {
	if ingest.SecretValue(s) != "" {
		return withheld
	}
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}

// withheld stands for a value that looks like a secret.
const withheld = "(withheld)"
