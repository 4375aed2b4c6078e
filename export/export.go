package export

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// Answer is what is exported.
type Answer struct {
	Origin  string // of the log
	Lineage *lineage.Lineage
	Metrics map[string]any // of the root, as its step reported them
}

// root is the resource that was asked about.
func (a *Answer) root() schema.Resource { return a.Lineage.Resources[0] }

// title is what a resource is called: the root by the name that it was asked for.
func (a *Answer) title(r schema.Resource) string {
	switch name := a.Lineage.Ref.Name; {
	case r.Key == a.root().Key && name != "":
		return name
	case r.Name != "":
		return r.Name
	case r.URI != "":
		return r.URI
	}
	return string(r.Key)
}

// made are the resources of the answer that a step generated.
func (a *Answer) made(s lineage.StepInfo) []schema.Key {
	shown := map[schema.Key]bool{}
	for _, r := range a.Lineage.Resources {
		shown[r.Key] = true
	}
	var made []schema.Key
	if shown[s.Step.Subject] {
		made = append(made, s.Step.Subject)
	}
	for _, o := range s.Step.Generates {
		if shown[o.Key] {
			made = append(made, o.Key)
			shown[o.Key] = false // once
		}
	}
	return made
}

// SLSA writes the provenance of each step, nearest first, as JSON Lines: the
// envelopes as they were recorded, with their signatures, of whatever version of
// SLSA their builders wrote. read gives the entries; steps whose bodies are gone
// are left out, and how many is returned.
func SLSA(ctx context.Context, w io.Writer, a *Answer, read func(context.Context, int64) (schema.Entry, error)) (left int, err error) {
	for _, s := range a.Lineage.Steps {
		e, err := read(ctx, s.Entry)
		if err != nil {
			return left, err
		}
		if e.State != schema.Present {
			left++
			continue
		}
		line, err := oneLine(e.Envelope.Raw)
		if err != nil {
			return left, fmt.Errorf("entry %d: %w", s.Entry, err)
		}
		if _, err := w.Write(line); err != nil {
			return left, err
		}
	}
	return left, nil
}

// oneLine is an envelope on a line of its own. What is signed stands in it in
// base64 and does not change.
func oneLine(raw []byte) ([]byte, error) {
	var b strings.Builder
	b.Grow(len(raw) + 1)
	if !strings.ContainsAny(string(raw), "\r\n") {
		b.Write(raw)
	} else {
		var compact json.RawMessage
		if err := json.Unmarshal(raw, &compact); err != nil {
			return nil, err
		}
		out, err := json.Marshal(compact)
		if err != nil {
			return nil, err
		}
		b.Write(out)
	}
	b.WriteByte('\n')
	return []byte(b.String()), nil
}
