package openlineage

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/retrace-ledger/retrace/schema"
)

// The facets that are read, with what their specifications require
// (OpenLineage spec/facets). All others are passed.
type (
	nominalTime struct {
		Start string `json:"nominalStartTime"`
		End   string `json:"nominalEndTime"`
	}
	parent struct {
		Run struct {
			RunID string `json:"runId"`
		} `json:"run"`
		Job struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"job"`
	}
	errorMessage struct {
		Message string `json:"message"`
	}
	processingEngine struct {
		Version string `json:"version"`
		Name    string `json:"name"`
	}
	sourceLocation struct {
		Type    string `json:"type"`
		URL     string `json:"url"`
		RepoURL string `json:"repoUrl"`
		Path    string `json:"path"`
		Version string `json:"version"`
		Branch  string `json:"branch"`
		Tag     string `json:"tag"`
	}
	sourceCode struct {
		Language string `json:"language"`
		Code     string `json:"sourceCode"`
	}
	sql struct {
		Query string `json:"query"`
	}
	jobType struct {
		Processing  string `json:"processingType"`
		Integration string `json:"integration"`
		Type        string `json:"jobType"`
	}
	version struct {
		Version string `json:"datasetVersion"`
	}
	symlinks struct {
		Identifiers []struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
			Type      string `json:"type"`
		} `json:"identifiers"`
	}
	statistics struct {
		Rows  *float64 `json:"rowCount"`
		Size  *float64 `json:"size"`
		Files *float64 `json:"fileCount"`
	}
)

// facts refuses an event of which a facet that is read is not as specified.
func (e *Event) facts() error {
	for _, err := range []error{
		held(e.doc.Run.Facets, "run.facets", "nominalTime", func(f *nominalTime) error { return required("nominalStartTime", f.Start) }),
		held(e.doc.Run.Facets, "run.facets", "parent", (*parent).check),
		held(e.doc.Run.Facets, "run.facets", "errorMessage", func(f *errorMessage) error { return present("message", f.Message) }),
		held(e.doc.Run.Facets, "run.facets", "processing_engine", func(f *processingEngine) error { return required("version", f.Version) }),
		held(e.doc.Job.Facets, "job.facets", "sourceCodeLocation", (*sourceLocation).check),
		held(e.doc.Job.Facets, "job.facets", "sourceCode", func(f *sourceCode) error { return required("language", f.Language) }),
		held(e.doc.Job.Facets, "job.facets", "sql", func(f *sql) error { return present("query", f.Query) }),
		held(e.doc.Job.Facets, "job.facets", "jobType", (*jobType).check),
	} {
		if err != nil {
			return err
		}
	}
	for _, side := range []struct {
		field string
		all   []dataset
	}{{"inputs", e.doc.Inputs}, {"outputs", e.doc.Outputs}} {
		for i := range side.all {
			if err := side.all[i].facts(side.field + "." + strconv.Itoa(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *dataset) facts(field string) error {
	if err := held(d.Facets, field+".facets", "version", func(f *version) error { return required("datasetVersion", f.Version) }); err != nil {
		return err
	}
	if err := held(d.Facets, field+".facets", "symlinks", (*symlinks).check); err != nil {
		return err
	}
	return held(d.OutputFacets, field+".outputFacets", "outputStatistics", func(*statistics) error { return nil })
}

// held checks the facet called name, if it is there and not taken back.
func held[T any](all facets, field, name string, check func(*T) error) error {
	f, err := facet[T](all, name)
	if err == nil && f != nil {
		err = check(f)
	}
	return below(field+"."+name, err)
}

// facet is the facet called name; nil if there is none, or it was taken back.
func facet[T any](all facets, name string) (*T, error) {
	raw, ok := all[name]
	if !ok {
		return nil, nil
	}
	var deleted struct {
		Deleted bool `json:"_deleted"`
	}
	if err := unmarshal(raw, &deleted); err != nil || deleted.Deleted {
		return nil, err
	}
	f := new(T)
	return f, unmarshal(raw, f)
}

// present refuses what is missing; what is in it is anybody's text.
func present(field, text string) error {
	if text == "" {
		return missing(field)
	}
	return nil
}

func (p *parent) check() error {
	if err := required("run.runId", p.Run.RunID); err != nil {
		return err
	}
	if !uuid.MatchString(p.Run.RunID) {
		return &schema.FieldError{Field: "run.runId", Reason: fmt.Sprintf("%q is no UUID", cut(p.Run.RunID))}
	}
	if err := required("job.namespace", p.Job.Namespace); err != nil {
		return err
	}
	return required("job.name", p.Job.Name)
}

func (s *sourceLocation) check() error {
	if err := required("type", s.Type); err != nil {
		return err
	}
	return required("url", s.URL)
}

func (j *jobType) check() error {
	if err := required("processingType", j.Processing); err != nil {
		return err
	}
	return required("integration", j.Integration)
}

func (s *symlinks) check() error {
	for i, id := range s.Identifiers {
		at := "identifiers." + strconv.Itoa(i)
		if err := required(at+".namespace", id.Namespace); err != nil {
			return err
		}
		if err := required(at+".name", id.Name); err != nil {
			return err
		}
		if err := required(at+".type", id.Type); err != nil {
			return err
		}
	}
	return nil
}

// commitID is a whole object ID of Git.
var commitID = regexp.MustCompile(`^[0-9a-f]{40}$`)
