package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/all"
	"github.com/retrace-ledger/retrace/ingest/git"
	"github.com/retrace-ledger/retrace/ingest/snapshot"
)

func (a *app) watchCmd() *cobra.Command {
	var once bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "watch SOURCE…",
		Short: "Read sources into the ledger, and go on as they change",
		Long: `Read sources into the ledger: Git repositories, registry repositories, folders.
Each fact is recorded exactly once, whatever interrupts the watch. A source is a
URL, or the path of a local Git repository:

  git+https://host/repo  git+ssh://host/repo  git+file:///path  (all branches and
  tags, or ?ref=NAME), oci://host/repository (?tag=NAME), dir:///path,
  s3://bucket/prefix (what recorded steps left there; AWS_ENDPOINT_URL and
  AWS_ACCESS_KEY_ID say where and who), kube://context/namespace (what runs)

Sources that need more settings, such as argo://cluster, are named in
retrace.yaml: see "retrace serve --help".`,
		Example: "  retrace watch --once .\n  retrace watch git+https://git.example.com/ml/forecast oci://registry.example.com/ml/trainer",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, log, err := a.openToWatch(cmd.Context())
			if err != nil {
				return err
			}
			defer b.Close()
			var runners []*watched
			for _, arg := range args {
				w, err := b.openSource(cmd.Context(), log, arg, interval)
				if err != nil {
					return cannot(err)
				}
				runners = append(runners, w)
			}
			if once {
				for _, w := range runners {
					if err := w.once(cmd); err != nil {
						return err
					}
				}
				return nil
			}
			return watchAll(cmd.Context(), runners)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "read what is there, and end")
	cmd.Flags().DurationVar(&interval, "interval", time.Minute, "how long to wait between two reads")
	return cmd
}

// watched is one source with its runner.
type watched struct {
	name   string
	runner *ingest.Runner
	bar    *progress
	last   ingest.Progress
}

// sourceURL turns a path into the URL of the Git repository or folder there.
func sourceURL(arg string) (string, error) {
	if strings.Contains(arg, "://") {
		return arg, nil
	}
	path, err := filepath.Abs(arg)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s is neither a URL nor a folder", arg)
	}
	for _, marker := range []string{".git", "HEAD"} {
		if _, err := os.Stat(filepath.Join(path, marker)); err == nil {
			return git.URL(path), nil
		}
	}
	return "", fmt.Errorf("%s is not a Git repository; to watch it as a folder, name it %s", arg, snapshot.URL(path))
}

func (b *book) openSource(ctx context.Context, log ingest.Log, arg string, interval time.Duration) (*watched, error) {
	if b.observer == nil {
		return nil, errors.New("watching signs what it sees, and the observer key is not here")
	}
	url, err := sourceURL(arg)
	if err != nil {
		return nil, err
	}
	kind, err := ingest.KindOf(all.Kinds(), url)
	if err != nil {
		return nil, err
	}
	env := b.env()
	if entries, ok := log.(ingest.Entries); ok {
		env.Entries = entries
	}
	source, name, err := kind.Open(ctx, ingest.Place{URL: url}, env)
	if err != nil {
		return nil, err
	}
	w := &watched{name: name, bar: newProgress(-1, name)}
	w.runner = ingest.NewRunner(source, name, log, b.observer, &ingest.Options{
		Submitter: b.observer.ID(),
		Interval:  interval,
		Progress:  func(p ingest.Progress) { w.last = p; w.bar.set(int64(p.Done), int64(p.Total)) },
		Skipped: func(s ingest.Skip) {
			fmt.Fprintf(os.Stderr, "retrace: %s: left out %s: %s\n", name, printable(s.Object), printable(s.Reason.Error()))
		},
		Failed: func(err error, wait time.Duration) {
			fmt.Fprintf(os.Stderr, "retrace: %v; trying again in %s\n", err, wait.Round(time.Second))
		},
	})
	return w, nil
}

// env is what kinds need of this program.
func (b *book) env() ingest.Env {
	var env ingest.Env
	if b.places != nil {
		env.Places = b.places()
	}
	if b.log != nil {
		env.Entries = b.log
	}
	if b.store != nil {
		env.Content = b.store
	}
	if b.dir == "" {
		return env
	}
	cache := filepath.Join(b.dir, cacheDir)
	if os.MkdirAll(cache, 0o700) == nil { // without one, kinds use a temporary folder
		env.Cache = cache
	}
	return env
}

// sourceEnv is what the sources of a configuration are opened with.
func (b *book) sourceEnv(c *configFile) (ingest.Env, error) {
	env := b.env()
	var err error
	env.Places, err = c.places()
	env.Naming = c.naming()
	return env, err
}

func (w *watched) once(cmd *cobra.Command) error {
	p, err := w.runner.Once(cmd.Context())
	w.bar.finish()
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %d recorded, %d known already, %d left out\n", w.name, p.Recorded, p.Duplicates, p.Skipped)
	return nil
}

// watchAll runs until ctx ends, which is how watching is stopped.
func watchAll(ctx context.Context, runners []*watched) error {
	group, gctx := errgroup.WithContext(ctx)
	for _, w := range runners {
		group.Go(func() error { return w.runner.Watch(gctx) })
	}
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
