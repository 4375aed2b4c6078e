package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"os/signal"
	"reflect"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/restore"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/server"
)

func (a *app) serveCmd() *cobra.Command {
	var config, listen string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the ledger over HTTP, and watch the configured sources",
		Long: `Serve GraphQL (/graphql), the public tiles (/checkpoint, /tile/…), entries and
content, on loopback, and watch the sources that --config names. Commands on this
machine find the server by themselves. Whatever writes or reads content needs the
token in server.json in the ledger's directory, or one that ` + "`retrace tokens`" + ` made.

retrace.yaml:

  listen: 127.0.0.1:8470
  sources:
    - url: git+https://git.example.com/ml/forecast
      interval: 30s
    - url: oci://registry.example.com/ml/trainer
    - url: argo://prod/ml        # Argo Workflows, Kubeflow Pipelines
      with: {kubeconfig: /etc/retrace/kubeconfig}
    - url: s3://artifacts        # what they left there
      with: {endpoint: "http://minio:9000", accessKey: {env: A}, secretKey: {env: S}}
    - url: kubernetes://prod     # what runs
    - url: csi://prod            # snapshots of volumes; takes some with take: (docs/sources.md)
  models:                        # how models that are found are named
    - {match: {task: train}, name: "{pipeline}/{param.region}", version: "{run}"}
  places:
    scratch: /srv/restored
  tls:                         # for callers from elsewhere, who need a token
    listen: 0.0.0.0:8443
    cert: tls.crt
    key: tls.key
  metrics: 0.0.0.0:8471        # /healthz, /readyz and /metrics, and nothing else
  witness: witnesses.policy    # C2SP tlog-policy: who cosigns, and the quorum

` + "`retrace config check`" + ` says what is wrong with it. SIGHUP has the sources
read again; what did not change goes on. ` + "`retrace sources`" + ` and /metrics say how
each source is doing. A witness that is down stops nothing.`,
		Example: "  retrace serve\n  retrace serve --config retrace.yaml --listen 127.0.0.1:9000",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f := new(configFile)
			if config != "" {
				var err error
				if f, err = readConfig(config); err != nil {
					return cannot(err)
				}
			}
			if cmd.Flags().Changed("listen") || f.Listen == "" {
				f.Listen = listen
			}
			return a.serve(cmd, f)
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "configuration `FILE` (retrace.yaml)")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8470", "`HOST:PORT` on loopback")
	return cmd
}

func (a *app) serve(cmd *cobra.Command, c *configFile) error {
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
		Content: store, Held: b.held, Restorer: &restorer{b: b}, Reverts: &reverter{b}, Places: c.Places, Scratch: os.TempDir(), Logger: logger,
		NoIntrospection: c.Introspection != nil && !*c.Introspection,
	}
	if opt.Settle, opt.Overdue, err = c.OpenLineage.spans(); err != nil {
		listener.Close()
		return cannot(err)
	}
	feeder, err := feeder(dir, l, c.Witness, logger)
	if err != nil {
		listener.Close()
		return cannot(err)
	}
	if feeder != nil {
		opt.Witnesses = feeder.Status
	}
	watched := newWatching(b, logger)
	b.places = watched.places
	defer watched.close()
	opt.Sources, opt.Hook, opt.Wake = watched.status, watched.hook, watched.wake
	s, err := server.New(dir, l, b.graph, opt)
	if err != nil {
		listener.Close()
		return cannot(err)
	}
	if err := watched.apply(ctx, c); err != nil {
		listener.Close()
		return cannot(err)
	}
	// Before it is said that the server is there: SIGHUP would end the process.
	hangup := make(chan os.Signal, 1)
	if c.name != "" {
		signal.Notify(hangup, syscall.SIGHUP)
		defer signal.Stop(hangup)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "retrace: serving %s at http://%s\n", dir, listener.Addr())
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.Run(gctx, listener) })
	group.Go(func() error { return watched.keeping(gctx, logger) })
	// A ledger that cannot be written to any more says why, and has to be opened
	// again.
	group.Go(func() error { return l.Wait(gctx, math.MaxInt64) })
	if feeder != nil {
		group.Go(func() error { return feeder.Run(gctx) })
	}
	if c.TLS != nil {
		group.Go(func() error { return s.ServeTLS(gctx, c.TLS.Listen, c.TLS.Cert, c.TLS.Key) })
	}
	if c.Metrics != "" {
		group.Go(func() error { return s.ServeMetrics(gctx, c.Metrics) })
	}
	if c.name != "" {
		group.Go(func() error { return reload(gctx, hangup, watched, c, logger) })
	}
	if err := group.Wait(); err != nil && !(ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		return cannot(err)
	}
	return nil
}

// reload reads the configuration again at each hangup. One that has a fault
// changes nothing.
func reload(ctx context.Context, hangup <-chan os.Signal, w *watching, c *configFile, logger *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-hangup:
		}
		next, err := readConfig(c.name)
		if err == nil {
			err = w.apply(ctx, next)
		}
		if err != nil {
			logger.Error("the configuration was not taken; what was in force goes on", "err", err)
			continue
		}
		logger.Info("configuration read again", "file", c.name, "sources", len(next.Sources))
		if next.Metrics != c.Metrics || !reflect.DeepEqual(next.TLS, c.TLS) || next.Witness != c.Witness || !maps.Equal(next.Places, c.Places) || next.Listen != "" && next.Listen != c.Listen {
			logger.Warn("listen, tls, metrics, places and witness are taken up when the server is started anew")
		}
	}
}

// newLogger writes text on a terminal and JSON elsewhere, to standard error.
func newLogger() *slog.Logger {
	if isTerminal(os.Stderr) {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, nil))
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
