package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"

	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/all"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/restore"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/server"
)

// serveConfig is retrace.yaml. Unknown fields are refused.
type serveConfig struct {
	// Listen is HOST:PORT on loopback.
	Listen string `json:"listen"`
	// Sources are watched as long as the server runs.
	Sources []sourceConfig `json:"sources"`
	// Places are the folders that a restoration may go to, by name.
	Places map[string]string `json:"places"`
	// Witness is a policy file (C2SP tlog-policy), relative to retrace.yaml.
	Witness string `json:"witness"`
}

type sourceConfig struct {
	URL       string `json:"url"`
	Namespace string `json:"namespace"`
	Interval  string `json:"interval"` // such as 30s; a minute if empty
}

func (a *app) serveCmd() *cobra.Command {
	var config, listen string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the ledger over HTTP, and watch the configured sources",
		Long: `Serve GraphQL (/graphql), the public tiles (/checkpoint, /tile/…), entries and
content, on loopback, and watch the sources that --config names. Commands on this
machine find the server by themselves. Whatever writes or reads content needs the
token in server.json in the ledger's directory.

retrace.yaml:

  listen: 127.0.0.1:8470
  sources:
    - url: git+https://git.example.com/ml/forecast
      interval: 30s
    - url: oci://registry.example.com/ml/trainer
  places:
    scratch: /srv/restored
  witness: witnesses.policy    # C2SP tlog-policy: who cosigns, and the quorum

A witness that is down stops nothing; /metrics and / say how far behind it is.`,
		Example: "  retrace serve\n  retrace serve --config retrace.yaml --listen 127.0.0.1:9000",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := readConfig(config)
			if err != nil {
				return cannot(err)
			}
			if cmd.Flags().Changed("listen") || c.Listen == "" {
				c.Listen = listen
			}
			return a.serve(cmd, c)
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "configuration `FILE` (retrace.yaml)")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8470", "`HOST:PORT` on loopback")
	return cmd
}

// readConfig reads a configuration strictly.
func readConfig(file string) (serveConfig, error) {
	var c serveConfig
	if file == "" {
		return c, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return c, fmt.Errorf("%s: %w", file, err)
	}
	if c.Witness != "" && !filepath.IsAbs(c.Witness) {
		c.Witness = filepath.Join(filepath.Dir(file), c.Witness)
	}
	for i, s := range c.Sources {
		if s.URL == "" {
			return c, fmt.Errorf("%s: sources[%d].url is missing", file, i)
		}
		if s.Interval == "" {
			continue
		}
		if d, err := time.ParseDuration(s.Interval); err != nil || d < time.Second {
			return c, fmt.Errorf("%s: sources[%d].interval: %q is not a span of at least 1s", file, i, s.Interval)
		}
	}
	return c, nil
}

func (a *app) serve(cmd *cobra.Command, c serveConfig) error {
	ctx := cmd.Context()
	dir, err := a.findDir()
	if err != nil {
		return err
	}
	b, err := openLocal(ctx, dir)
	if err != nil {
		return cannot(err)
	}
	defer b.Close()
	logger := newLogger()
	l, isLedger := b.log.(*ledger.Ledger)
	store, isStore := b.store.(*content.Store)
	if !isLedger || !isStore {
		return cannot(errors.New("only a ledger on this machine can be served"))
	}
	listener, err := server.Listen(ctx, c.Listen)
	if err != nil {
		return cannot(err)
	}
	opt := &server.Options{
		Content: store, Held: b.held, Restorer: &restorer{b: b}, Places: c.Places, Scratch: os.TempDir(), Logger: logger,
	}
	feeder, err := feeder(dir, l, c.Witness, logger)
	if err != nil {
		listener.Close()
		return cannot(err)
	}
	if feeder != nil {
		opt.Witnesses = feeder.Status
	}
	s, err := server.New(dir, l, b.graph, opt)
	if err != nil {
		listener.Close()
		return cannot(err)
	}
	runners, err := b.configured(ctx, c.Sources, logger)
	if err != nil {
		listener.Close()
		return cannot(err)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "retrace: serving %s at http://%s\n", dir, listener.Addr())
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.Run(gctx, listener) })
	// A ledger that cannot be written to any more says why, and has to be opened
	// again.
	group.Go(func() error { return l.Wait(gctx, math.MaxInt64) })
	if feeder != nil {
		group.Go(func() error { return feeder.Run(gctx) })
	}
	for _, r := range runners {
		group.Go(func() error { return r.Watch(gctx) })
	}
	if err := group.Wait(); err != nil && !(ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		return cannot(err)
	}
	return nil
}

// newLogger writes text on a terminal and JSON elsewhere, to standard error.
func newLogger() *slog.Logger {
	if isTerminal(os.Stderr) {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, nil))
}

// configured opens the sources of a configuration.
func (b *book) configured(ctx context.Context, sources []sourceConfig, logger *slog.Logger) ([]*ingest.Runner, error) {
	var runners []*ingest.Runner
	for _, c := range sources {
		if b.observer == nil {
			return nil, errors.New("watching signs what it sees, and the observer key is not here")
		}
		kind, err := ingest.KindOf(all.Kinds(), c.URL)
		if err != nil {
			return nil, err
		}
		source, name, err := kind.Open(ctx, c.URL, b.env())
		if err != nil {
			return nil, fmt.Errorf("source %s: %w", c.URL, err)
		}
		var interval time.Duration
		if c.Interval != "" {
			if interval, err = time.ParseDuration(c.Interval); err != nil {
				return nil, err
			}
		}
		log := logger.With("source", name)
		runners = append(runners, ingest.NewRunner(source, name, b.log, b.observer, &ingest.Options{
			Namespace: c.Namespace, Submitter: b.observer.ID(), Interval: interval,
			Skipped: func(s ingest.Skip) { log.Warn("left out", "ref", s.Object, "err", s.Reason) },
			Failed:  func(err error, wait time.Duration) { log.Error("reading", "err", err, "again", wait) },
		}))
	}
	return runners, nil
}

// restorer plans restorations for the server.
type restorer struct{ b *book }

// Plan implements server.Restorer.
func (r *restorer) Plan(ctx context.Context, v *lineage.View, ref lineage.Ref) (*graphql.Plan, error) {
	src := r.b.sources()
	plan, err := restore.NewPlan(ctx, v, ref, src, nil)
	if err != nil {
		return nil, err
	}
	out := &graphql.Plan{Bytes: 0}
	for _, it := range planItems(plan) {
		out.Steps = append(out.Steps, graphql.PlanStep{Action: "lay out", Path: it.Place, Digest: it.Key, Kind: it.Kind, Size: it.Bytes})
		if it.Bytes < 0 || out.Bytes < 0 {
			out.Bytes = -1
		} else {
			out.Bytes += it.Bytes
		}
	}
	out.Do = func(ctx context.Context, dir string, done func(int)) (graphql.Outcome, error) {
		return r.do(ctx, plan, dir, src, len(out.Steps), done)
	}
	return out, nil
}

// planItems are all items of a plan, in the order in which they are laid out.
func planItems(p *restore.Plan) []restore.Item {
	var items []restore.Item
	for _, s := range p.Steps {
		items = append(items, s.Items...)
	}
	items = append(items, p.Images...)
	if p.Resource != nil {
		items = append(items, *p.Resource)
	}
	return items
}

func (r *restorer) do(ctx context.Context, plan *restore.Plan, dir string, src restore.Sources, steps int, done func(int)) (graphql.Outcome, error) {
	reported := 0
	report := func(n int) {
		for ; reported < min(n, steps); reported++ {
			done(reported)
		}
	}
	verdict, err := restore.Restore(ctx, plan, dir, src, &restore.RestoreOptions{Progress: func(p restore.Progress) { report(p.Done) }})
	if err != nil {
		return graphql.Outcome{}, err
	}
	report(steps)
	if r.b.observer != nil {
		s, err := verdict.Statement()
		if err != nil {
			return graphql.Outcome{}, err
		}
		if _, err := r.b.append(ctx, "restore", []schema.Statement{s}); err != nil {
			return graphql.Outcome{}, fmt.Errorf("recording the verdict: %w", err)
		}
	}
	out := graphql.Outcome{Verdict: verdict.Result}
	if len(verdict.Problems) > 0 {
		out.Problem = verdict.Problems[0]
	}
	return out, nil
}
