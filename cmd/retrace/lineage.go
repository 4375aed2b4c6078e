package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/picture"
	"github.com/retrace-ledger/retrace/schema"
)

// asked is the flags of a question about the graph.
type asked struct {
	at   string
	size int64
}

func (q *asked) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&q.at, "at", "", "names as they were at this `TIME`: RFC 3339, a local date and time, or '2h ago'")
	cmd.Flags().Int64Var(&q.size, "as-of-size", 0, "answer from the first `N` entries only")
}

// ask opens the ledger and resolves a reference. The caller closes the book.
func (a *app) ask(ctx context.Context, q asked, text string) (*book, *lineage.View, lineage.Ref, error) {
	b, err := a.open(ctx)
	if err != nil {
		return nil, nil, lineage.Ref{}, err
	}
	v, err := b.view(q.size, q.at)
	if err == nil {
		var ref lineage.Ref
		if ref, err = resolve(ctx, v, text); err == nil {
			return b, v, ref, nil
		}
	}
	b.Close()
	return nil, nil, lineage.Ref{}, err
}

func (a *app) lineageCmd() *cobra.Command {
	var q asked
	var down, tools bool
	var depth int
	cmd := &cobra.Command{
		Use:   "lineage REF",
		Short: "Show what a resource was made from, or with --down what was made from it",
		Example: `  retrace lineage forecast@3
  retrace lineage git:1f3c9a72 --down
  retrace lineage forecast -o svg >forecast.svg`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput("dot", "mermaid", "svg"); err != nil {
				return err
			}
			if depth < 0 {
				return cannot(fmt.Errorf("--depth %d: want a number of steps, or 0 for all", depth))
			}
			b, v, ref, err := a.ask(cmd.Context(), q, args[0])
			if err != nil {
				return err
			}
			defer b.Close()
			opt := lineage.LineageOptions{Depth: depth, Vouched: true, Direction: schema.Upstream}
			if down {
				opt.Direction = schema.Downstream
			}
			l, err := v.Lineage(cmd.Context(), ref, opt)
			if err != nil {
				return err
			}
			sayHoles(cmd.ErrOrStderr(), l)
			return a.printLineage(cmd.OutOrStdout(), l, tools)
		},
	}
	q.flags(cmd)
	cmd.Flags().BoolVar(&down, "down", false, "show what was made from it")
	cmd.Flags().BoolVar(&tools, "tools", false, "show the programs that steps ran too")
	cmd.Flags().IntVar(&depth, "depth", 0, "at most `N` steps away")
	return cmd
}

func (a *app) printLineage(w io.Writer, l *lineage.Lineage, tools bool) error {
	switch a.output {
	case "json":
		return printJSON(w, toLineageJSON(l))
	case "dot":
		return picture.DOT(w, l)
	case "mermaid":
		return picture.Mermaid(w, l)
	case "svg":
		return picture.SVG(w, l)
	}
	return picture.Tree(w, l, picture.TreeOptions{Color: colour(w), Unicode: true, All: tools})
}

type lineageJSON struct {
	Ref       string           `json:"ref"`
	Name      string           `json:"name,omitempty"`
	Root      schema.Key       `json:"root"`
	Run       string           `json:"run,omitempty"`
	Direction schema.Direction `json:"direction"`
	Size      int64            `json:"size"`
	Truncated bool             `json:"truncated"`
	Bodiless  int              `json:"bodiless"` // entries below size whose bodies are erased or withheld
	Resources []resourceJSON   `json:"resources"`
	Steps     []stepJSON       `json:"steps"`
	Edges     []schema.Edge    `json:"edges"`
}

type resourceJSON struct {
	Key     schema.Key       `json:"key"`
	Kind    string           `json:"kind"`
	Name    string           `json:"name,omitempty"`
	URI     string           `json:"uri,omitempty"`
	Digests schema.DigestSet `json:"digests,omitempty"`
	Size    int64            `json:"size"`  // -1 if not stated
	State   schema.State     `json:"state"` // ERASED if an entry was erased that mentioned it
}

func toResourceJSON(r schema.Resource, holes []lineage.Hole) resourceJSON {
	out := resourceJSON{r.Key, r.Kind, r.Name, r.URI, r.Digests, r.Size, schema.Present}
	if len(holes) > 0 {
		out.State = schema.Erased
	}
	return out
}

type stepJSON struct {
	Entry       int64             `json:"entry"`
	Run         string            `json:"run,omitempty"`
	Name        string            `json:"name"`
	BuildType   string            `json:"buildType"`
	Builder     string            `json:"builder"`
	Evidence    schema.Evidence   `json:"evidence"`
	Started     string            `json:"started,omitempty"`
	Finished    string            `json:"finished,omitempty"`
	Exit        *int              `json:"exit,omitempty"`
	Argv        []string          `json:"argv,omitempty"`
	Parameters  map[string]string `json:"parameters,omitempty"`
	Environment map[string]string `json:"environment,omitempty"`
	Metrics     map[string]any    `json:"metrics,omitempty"`
	Platform    string            `json:"platform,omitempty"`
	Uses        []schema.Use      `json:"uses"`
	Generates   []schema.Output   `json:"generates"`
}

func toStepJSON(s lineage.StepInfo) stepJSON {
	out := stepJSON{
		Entry: s.Entry, Run: s.Step.Run, Name: s.Step.Name, BuildType: s.Step.BuildType, Builder: s.Step.Builder, Evidence: s.Evidence,
		Exit: s.Step.Exit, Argv: s.Step.Argv, Parameters: s.Step.Parameters, Environment: s.Step.Environment,
		Metrics: s.Step.Metrics, Platform: s.Step.Platform, Uses: s.Step.Uses, Generates: s.Step.Generates,
	}
	if !s.Step.Started.IsZero() {
		out.Started = s.Step.Started.Format(rfc3339)
	}
	if !s.Step.Finished.IsZero() {
		out.Finished = s.Step.Finished.Format(rfc3339)
	}
	return out
}

func toLineageJSON(l *lineage.Lineage) lineageJSON {
	out := lineageJSON{
		Ref: l.Ref.Text, Name: l.Ref.Name, Root: l.Ref.Start.Key, Run: l.Ref.Start.Run, Direction: l.Direction,
		Size: l.Size, Truncated: l.Truncated, Bodiless: l.Bodiless, Resources: []resourceJSON{}, Steps: []stepJSON{}, Edges: l.Edges,
	}
	for _, r := range l.Resources {
		out.Resources = append(out.Resources, toResourceJSON(r, l.Holes[r.Key]))
	}
	for _, s := range l.Steps {
		out.Steps = append(out.Steps, toStepJSON(s))
	}
	if out.Edges == nil {
		out.Edges = []schema.Edge{}
	}
	return out
}

// speaksFor ends an answer on a terminal with what it speaks for.
func speaksFor(w io.Writer, size int64) {
	if size == 1 {
		fmt.Fprintln(w, "speaks for the first entry")
		return
	}
	fmt.Fprintf(w, "speaks for the first %d entries\n", size)
}
