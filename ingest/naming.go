package ingest

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/schema"
)

// Naming gives the models that watchers find a name and a version: the first
// rule that matches does. The rules in force are an entry of the ledger
// (DESIGN invariant 11). The zero value names by DefaultNaming alone.
type Naming []NamingRule

// NamingRule names models whose fields match.
type NamingRule struct {
	// Match are patterns (path.Match) by field; all have to match. Fields are
	// namespace, pipeline, task, output, run, label.NAME and param.NAME.
	Match map[string]string `json:"match,omitempty"`
	// Name and Version are texts with fields in braces, such as
	// "{namespace}/{param.region}".
	Name    string `json:"name"`
	Version string `json:"version"`
}

// DefaultNaming names what no other rule does: ten thousand outputs of one
// pipeline are ten thousand versions that can be found.
var DefaultNaming = NamingRule{Name: "{namespace}/{pipeline}/{task}/{output}", Version: "{run}"}

// field is a field in a text.
var field = regexp.MustCompile(`\{([^{}]*)\}`)

// unnameable is what a model name or version cannot hold.
var unnameable = regexp.MustCompile(`[@:#=\s]+`)

// Check refuses rules that could name nothing.
func (n Naming) Check() error {
	for i, r := range n {
		if r.Name == "" || r.Version == "" {
			return fmt.Errorf("models[%d]: want a name and a version", i)
		}
		for f, pattern := range r.Match {
			if !knownField(f) {
				return fmt.Errorf("models[%d].match: there is no field %q; fields are namespace, pipeline, task, output, run, label.NAME and param.NAME", i, f)
			}
			if _, err := path.Match(pattern, ""); err != nil {
				return fmt.Errorf("models[%d].match.%s: %q is not a pattern", i, f, pattern)
			}
		}
		for _, m := range field.FindAllStringSubmatch(r.Name+r.Version, -1) {
			if !knownField(m[1]) {
				return fmt.Errorf("models[%d]: there is no field %s", i, m[0])
			}
		}
	}
	return nil
}

func knownField(f string) bool {
	switch f {
	case "namespace", "pipeline", "task", "output", "run":
		return true
	}
	return strings.HasPrefix(f, "label.") || strings.HasPrefix(f, "param.")
}

// Model is the name and version of a model with these fields. A rule whose text
// has a field that the model does not have is passed over. It fails where no
// rule gives a name that a REF can express.
func (n Naming) Model(fields map[string]string) (name, version string, err error) {
	for _, r := range append(append(Naming(nil), n...), DefaultNaming) {
		if !r.matches(fields) {
			continue
		}
		name, ok := fill(r.Name, fields)
		version, also := fill(r.Version, fields)
		if !ok || !also {
			continue
		}
		if err := schema.CheckModelName(name); err != nil {
			return "", "", fmt.Errorf("naming the model %q: %w", name, err)
		}
		return name, version, nil
	}
	return "", "", fmt.Errorf("no rule names the output %s of task %s", fields["output"], fields["task"])
}

// Matches says whether a rule other than the default one is for a model with
// these fields.
func (n Naming) Matches(fields map[string]string) bool {
	return slices.ContainsFunc(n, func(r NamingRule) bool { return len(r.Match) > 0 && r.matches(fields) })
}

func (r NamingRule) matches(fields map[string]string) bool {
	for f, pattern := range r.Match {
		v, ok := fields[f]
		if hit, err := path.Match(pattern, v); !ok || err != nil || !hit {
			return false
		}
	}
	return true
}

// fill puts the fields into text. What a REF could not express becomes a dash.
func fill(text string, fields map[string]string) (string, bool) {
	whole := true
	filled := field.ReplaceAllStringFunc(text, func(m string) string {
		v := fields[m[1:len(m)-1]]
		whole = whole && v != ""
		return v
	})
	return unnameable.ReplaceAllString(filled, "-"), whole
}
