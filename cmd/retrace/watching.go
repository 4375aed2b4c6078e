package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/all"
	"github.com/retrace-ledger/retrace/schema"
)

// watching are the sources that a server watches. The configuration can be
// exchanged while it runs: what did not change goes on undisturbed.
type watching struct {
	b      *book
	logger *slog.Logger

	mu      sync.Mutex
	running map[string]*runningSource // by canonical name
}

type runningSource struct {
	config sourceConfig
	runner *ingest.Runner
	stop   context.CancelFunc
	ended  chan struct{}
	err    error // why it ended; read once ended is closed
}

func newWatching(b *book, logger *slog.Logger) *watching {
	return &watching{b: b, logger: logger, running: map[string]*runningSource{}}
}

// apply watches what the configuration says and nothing else. When it fails,
// what was watched before goes on.
func (w *watching) apply(ctx context.Context, c *serveConfig) error {
	if len(c.Sources) > 0 && w.b.observer == nil {
		return errors.New("watching signs what it sees, and the observer key is not here")
	}
	opened, err := w.open(ctx, c)
	if err != nil {
		return err
	}
	if err := w.record(ctx, opened); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, have := range w.running {
		want, ok := opened[name]
		if ok && have.config == want.config && !have.over() {
			delete(opened, name)
			continue
		}
		have.stop()
		<-have.ended
		delete(w.running, name)
	}
	for name, r := range opened {
		w.running[name] = r
		w.start(ctx, name, r)
	}
	return nil
}

// over says whether the source is watched no more, as after a conflict.
func (r *runningSource) over() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

func (w *watching) open(ctx context.Context, c *serveConfig) (map[string]*runningSource, error) {
	env := w.b.env()
	opened := map[string]*runningSource{}
	for _, s := range c.Sources {
		kind, err := ingest.KindOf(all.Kinds(), s.URL)
		if err != nil {
			return nil, err
		}
		source, name, err := kind.Open(ctx, s.URL, env)
		if err != nil {
			return nil, fmt.Errorf("source %s: %w", s.URL, err)
		}
		if _, twice := opened[name]; twice {
			return nil, fmt.Errorf("source %s is configured twice", name)
		}
		interval, err := s.interval()
		if err != nil {
			return nil, fmt.Errorf("source %s: interval: %w", s.URL, err)
		}
		log := w.logger.With("source", name)
		opened[name] = &runningSource{
			config: s, ended: make(chan struct{}),
			runner: ingest.NewRunner(source, name, w.b.log, w.b.observer, &ingest.Options{
				Namespace: s.Namespace, Submitter: w.b.observer.ID(), Interval: interval,
				Skipped: func(s ingest.Skip) { log.Warn("left out", "object", s.Object, "err", s.Reason) },
				Failed:  func(err error, wait time.Duration) { log.Error("reading", "err", err, "again", wait) },
			}),
		}
	}
	return opened, nil
}

func (w *watching) start(ctx context.Context, name string, r *runningSource) {
	ctx, r.stop = context.WithCancel(ctx)
	go func() {
		defer close(r.ended)
		r.err = r.runner.Watch(ctx)
		if ctx.Err() == nil {
			w.logger.Error("watched no more; the others are", "source", name, "err", r.err)
		}
	}()
}

// close ends all watching.
func (w *watching) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.running {
		r.stop()
	}
	for _, r := range w.running {
		<-r.ended
	}
}

// record states in which namespace a source's entries are, where that is not
// what the ledger says already: moving a source is an entry (DESIGN invariant
// 11).
func (w *watching) record(ctx context.Context, opened map[string]*runningSource) error {
	for _, name := range slices.Sorted(maps.Keys(opened)) {
		namespace := opened[name].config.Namespace
		if namespace == "" {
			namespace = schema.DefaultNamespace
		}
		if err := w.setting(ctx, "source:"+name, map[string]string{"namespace": namespace}); err != nil {
			return err
		}
	}
	return nil
}

// settingCursor is where the log keeps which statement about a setting is in
// force.
func settingCursor(setting string) string { return "config:" + setting }

func (w *watching) setting(ctx context.Context, setting string, values map[string]string) error {
	value, err := schema.Canonical(schema.Config{Setting: setting, Values: values})
	if err != nil {
		return err
	}
	subject := schema.Descriptor{Name: setting, Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(value).Hex()}}
	s, err := schema.NewStatement(schema.ConfigV1, schema.Config{Setting: setting, Values: values}, subject)
	if err != nil {
		return err
	}
	cursor := schema.Cursor{Source: settingCursor(setting), To: schema.BytesKey(value).Hex()}
	if cursor.From, err = w.b.log.Cursor(ctx, schema.DefaultNamespace, cursor.Source); err != nil || cursor.From == cursor.To {
		return err
	}
	envelope, err := w.b.observer.SignStatement(s)
	if err != nil {
		return err
	}
	_, err = w.b.log.Append(ctx, schema.Batch{
		Namespace: schema.DefaultNamespace, Source: cursor.Source, Submitter: w.b.observer.ID(),
		Envelopes: []schema.Envelope{envelope}, Cursors: []schema.Cursor{cursor},
	})
	if err != nil {
		return fmt.Errorf("recording the setting %s: %w", setting, err)
	}
	return nil
}

// status is how all sources are doing, by name.
func (w *watching) status() []client.SourceState {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	var all []client.SourceState
	for _, name := range slices.Sorted(maps.Keys(w.running)) {
		all = append(all, w.running[name].state(now))
	}
	return all
}

// maxSourceError is how much of an error is told, in bytes: it can hold what a
// remote place said.
const maxSourceError = 512

func (r *runningSource) state(now time.Time) client.SourceState {
	s := r.runner.Status()
	kind, _, _ := strings.Cut(r.config.URL, "://")
	state := client.SourceState{
		Source: s.Source, Kind: kind, Namespace: s.Namespace, State: "WAITING", Seen: s.Seen, Again: s.Again,
		Reads: s.Reads, Failures: s.Failures, Recorded: s.Recorded, Duplicates: s.Duplicates, Skipped: s.Skipped,
	}
	if !s.Seen.IsZero() {
		state.LagSeconds = now.Sub(s.Seen).Seconds()
	}
	err := s.Err
	switch {
	case r.over():
		state.State, err = "STOPPED", r.err
	case s.Reading:
		state.State = "READING"
	case s.Err != nil:
		state.State = "FAILING"
	}
	if err != nil {
		state.Error = err.Error()
		if len(state.Error) > maxSourceError {
			state.Error = strings.ToValidUTF8(state.Error[:maxSourceError], "") + "…"
		}
	}
	return state
}
