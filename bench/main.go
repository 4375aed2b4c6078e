package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// options are the flags.
type options struct {
	callers []int
	rounds  int
	box     time.Duration // the longest turn of a peer
	entries int           // of a turn; 0: enough for the number of callers
	peers   string
	slow    bool
	proofs  int // entries among which proofs are measured
	models  int
}

// report is all that was measured.
type report struct {
	Appends   *appends     `json:"appends,omitempty"`
	Proofs    []proof      `json:"proofs,omitempty"`
	Models    *modelsTimes `json:"models,omitempty"`
	Ancestors *ancestors   `json:"ancestors,omitempty"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("bench", flag.ExitOnError)
	opt := options{}
	callers := f.String("callers", "1,64,1024", "numbers of concurrent callers")
	f.IntVar(&opt.rounds, "rounds", 5, "rounds in which all take turns, after one that does not count")
	f.DurationVar(&opt.box, "turn", 600*time.Millisecond, "longest turn of a peer in a round")
	f.IntVar(&opt.entries, "entries", 0, "entries of a turn (default 128 a caller, 512 to 16384)")
	f.StringVar(&opt.peers, "peers", "", "only peers whose name contains this")
	f.BoolVar(&opt.slow, "slow", false, "also peers whose answer takes seconds")
	f.IntVar(&opt.proofs, "proofs", 20000, "entries among which proofs are measured")
	f.IntVar(&opt.models, "models", 10000, "models of the user's case, and of ancestors")
	dir := f.String("dir", ".", "folder on the disk to measure")
	asJSON := f.Bool("json", false, "print JSON")
	asMarkdown := f.Bool("md", false, "print Markdown")
	if err := f.Parse(args); err != nil {
		return err
	}
	if opt.callers, err = parseCallers(*callers); err != nil {
		return err
	}
	if opt.rounds < 1 || opt.proofs < 1000 || opt.models < 10 {
		return errors.New("want at least one round, 1,000 proofs and 10 models")
	}
	what := f.Args()
	if len(what) == 0 {
		what = []string{"appends", "proofs"}
	}
	scratch, remove, err := newScratch(*dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	quiet()
	var r report
	for _, w := range what {
		fmt.Fprintf(os.Stderr, "bench: %s…\n", w)
		switch w {
		case "appends":
			r.Appends, err = measureAppends(ctx, filepath.Join(scratch, w), opt)
		case "proofs":
			r.Proofs, err = measureProofs(ctx, filepath.Join(scratch, w), opt)
		case "models":
			r.Models, err = measureModels(ctx, filepath.Join(scratch, w), opt)
		case "ancestors":
			r.Ancestors, err = measureAncestors(ctx, filepath.Join(scratch, w), opt)
		default:
			err = fmt.Errorf("%q: want appends, proofs, models or ancestors", w)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", w, err)
		}
	}
	switch {
	case *asJSON:
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(r)
	case *asMarkdown:
		return r.print(os.Stdout, markdown)
	}
	return r.print(os.Stdout, plain)
}

// newScratch makes a folder in dir that any user may pass: PostgreSQL refuses
// to run as root.
func newScratch(dir string) (scratch string, remove func() error, err error) {
	if scratch, err = os.MkdirTemp(dir, "bench-"); err != nil {
		return "", nil, err
	}
	remove = func() error { return os.RemoveAll(scratch) }
	if err := os.Chmod(scratch, 0o711); err != nil {
		return "", nil, errors.Join(err, remove())
	}
	at, err := filepath.Abs(scratch)
	return at, remove, err
}

// quiet keeps Tessera from telling what it does; what goes wrong, it returns.
func quiet() {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
}

func parseCallers(s string) ([]int, error) {
	var all []int
	for word := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > 4096 {
			return nil, fmt.Errorf("-callers %s: want numbers from 1 to 4096", s)
		}
		all = append(all, n)
	}
	return all, nil
}

// version is that of a module in this program.
func version(module string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	i := slices.IndexFunc(info.Deps, func(m *debug.Module) bool { return m.Path == module })
	if i < 0 {
		return ""
	}
	return " " + info.Deps[i].Version
}
