package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"
)

// checkOutput refuses an output format that the command does not have.
func (a *app) checkOutput(more ...string) error {
	for _, have := range append([]string{"table", "json"}, more...) {
		if a.output == have {
			return nil
		}
	}
	return cannot(fmt.Errorf("-o %s: want %s", a.output, strings.Join(append([]string{"table", "json"}, more...), ", ")))
}

// printJSON writes v as indented JSON.
func printJSON(w io.Writer, v any) error {
	raw, err := json.Marshal(v, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", raw)
	return err
}

// table collects rows and prints them in columns.
type table struct {
	out  io.Writer
	text *bytes.Buffer
	w    *tabwriter.Writer
}

func newTable(w io.Writer, head ...string) *table {
	t := &table{out: w, text: &bytes.Buffer{}}
	t.w = tabwriter.NewWriter(t.text, 0, 4, 2, ' ', 0)
	if len(head) > 0 {
		t.row(head...)
	}
	return t
}

func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = printable(c)
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t")+"\t") // a cell without a tab would end its column
}

// field is a row of a label and a value, if there is one.
func (t *table) field(label, value string) {
	if value != "" {
		t.row(label, value)
	}
}

func (t *table) flush() error {
	if err := t.w.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(t.text.String()) {
		if _, err := fmt.Fprintln(t.out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// count is a number of things: "1 entry", "2 entries".
func count[N int | int64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// shortCommand is a command line with the program's base name, as people
// think of it: steps record where the program was.
func shortCommand(line string) string {
	program, args, _ := strings.Cut(line, " ")
	if !strings.HasPrefix(program, "/") {
		return line
	}
	return strings.TrimSpace(path.Base(program) + " " + args)
}

// printable replaces control characters, so that nothing recorded can move a
// reader's cursor or colour their terminal, and those that turn the direction
// of writing, so that what is read is what is there.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return '�'
		}
		return r
	}, s)
}

// when shows a time as people read it, in the local zone; JSON has RFC 3339.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// progress is a bar on a terminal and nothing elsewhere.
type progress struct{ bar *progressbar.ProgressBar }

// newProgress returns a bar for total things; -1 if their number is unknown.
func newProgress(total int64, what string) *progress {
	if !isTerminal(os.Stderr) {
		return &progress{}
	}
	return &progress{progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowCount(),
		progressbar.OptionShowIts(),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)}
}

func (p *progress) set(done, total int64) {
	if p.bar == nil {
		return
	}
	if total > 0 && p.bar.GetMax64() != total {
		p.bar.ChangeMax64(total)
	}
	p.bar.Set64(done)
}

// watch sets the bar to done of total ten times a second until stop is called,
// for work that tells nobody how far it is.
func (p *progress) watch(done func() int64, total int64) (stop func()) {
	if p.bar == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				p.set(done(), total)
			}
		}
	})
	return func() {
		cancel()
		group.Wait()
	}
}

func (p *progress) finish() {
	if p.bar != nil {
		p.bar.Finish()
	}
}

func isTerminal(f *os.File) bool {
	return isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd())
}

// colour says whether to colour what goes to w (https://no-color.org).
func colour(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isTerminal(f) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
