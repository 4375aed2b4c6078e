package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/all"
	"github.com/retrace-ledger/retrace/ingest/snapshot"
	"github.com/retrace-ledger/retrace/schema"
)

// watching are the sources that a server watches. The configuration can be
// exchanged while it runs: what did not change goes on undisturbed.
type watching struct {
	b      *book
	logger *slog.Logger

	mu      sync.Mutex
	running map[string]*runningSource // by canonical name
	at      []ingest.Place            // of all that are configured
}

type runningSource struct {
	config sourceConfig
	kind   ingest.Kind
	naming ingest.Naming
	source ingest.Source
	runner *ingest.Runner
	stop   context.CancelFunc
	ended  chan struct{}
	err    error // why it ended; read once ended is closed
}

func newWatching(b *book, logger *slog.Logger) *watching {
	return &watching{b: b, logger: logger, running: map[string]*runningSource{}}
}

// apply watches what the configuration says and nothing else. When it has a
// fault, or anything else fails, what was watched before goes on.
func (w *watching) apply(ctx context.Context, c *configFile) error {
	env, err := w.b.sourceEnv(c)
	if err != nil {
		return err
	}
	if err := errors.Join(c.check(ctx, env)...); err != nil {
		return err
	}
	if len(c.Sources) > 0 && w.b.observer == nil {
		return errors.New("watching signs what it sees, and the observer key is not here")
	}
	opened, err := w.open(ctx, c)
	if err != nil {
		return err
	}
	if err := w.record(ctx, opened, env.Naming); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = env.Places
	for name, have := range w.running {
		want, ok := opened[name]
		if ok && reflect.DeepEqual(have.config, want.config) && reflect.DeepEqual(have.naming, want.naming) && !have.over() {
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

// places are where the sources are that are configured: what restores from them
// finds its way and its credentials there.
func (w *watching) places() []ingest.Place {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
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

func (w *watching) open(ctx context.Context, c *configFile) (map[string]*runningSource, error) {
	env, err := w.b.sourceEnv(c)
	if err != nil {
		return nil, err
	}
	opened := map[string]*runningSource{}
	for _, s := range c.Sources {
		kind, err := ingest.KindOf(all.Kinds(), s.URL)
		if err != nil {
			return nil, err
		}
		place, err := s.place()
		if err != nil {
			return nil, fmt.Errorf("source %s: %w", s.URL, err)
		}
		source, name, err := kind.Open(ctx, place, env)
		if err != nil {
			return nil, fmt.Errorf("source %s: %w", s.URL, err)
		}
		interval, err := s.interval()
		if err != nil {
			return nil, fmt.Errorf("source %s: interval: %w", s.URL, err)
		}
		log := w.logger.With("source", name)
		opened[name] = &runningSource{
			config: s, kind: kind, naming: env.Naming, source: source, ended: make(chan struct{}),
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
	var taking sync.WaitGroup
	if t, ok := r.source.(ingest.Taker); ok {
		taking.Go(func() { w.take(ctx, name, r, t) })
	}
	go func() {
		defer close(r.ended)
		r.err = r.runner.Watch(ctx)
		if ctx.Err() == nil {
			w.logger.Error("watched no more; the others are", "source", name, "err", r.err)
		}
		r.stop() // nor is anything taken
		taking.Wait()
	}()
}

// takeInterval is how often a source is asked to take what is due.
const takeInterval = 20 * time.Second

// take has a source take what it was asked to, until ctx ends. An error is said
// when it is another than before.
func (w *watching) take(ctx context.Context, name string, r *runningSource, t ingest.Taker) {
	record := func(ctx context.Context, s schema.Statement) error {
		envelope, err := w.b.observer.SignStatement(s)
		if err != nil {
			return err
		}
		namespace := r.config.Namespace
		if namespace == "" {
			namespace = schema.DefaultNamespace
		}
		_, err = w.b.log.Append(ctx, schema.Batch{
			Namespace: namespace, Source: "take:" + name, Submitter: w.b.observer.ID(), Envelopes: []schema.Envelope{envelope},
		})
		return err
	}
	again := time.NewTicker(takeInterval)
	defer again.Stop()
	for said := ""; ; {
		err := t.Take(ctx, time.Now(), record)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			w.logger.Error("taking", "source", name, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
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

// namespaceSetting is the setting that says in which namespace the entries of a
// source are.
const namespaceSetting = "source.namespace"

// namingSetting is the setting that says how models that are found are named.
const namingSetting = "models.naming"

// record states in which namespace each source's entries are and how models are
// named, where that is not what the ledger says already: moving a source or
// changing a rule is an entry (DESIGN invariant 11).
func (w *watching) record(ctx context.Context, opened map[string]*runningSource, naming ingest.Naming) error {
	for _, name := range slices.Sorted(maps.Keys(opened)) {
		namespace := opened[name].config.Namespace
		if namespace == "" {
			namespace = schema.DefaultNamespace
		}
		values := map[string]string{"namespace": namespace, "source": name}
		if err := w.recordSetting(ctx, namespaceSetting, name, namespace, values); err != nil {
			return fmt.Errorf("recording the namespace of %s: %w", name, err)
		}
		if opened[name].kind.Name != snapshot.Name {
			continue
		}
		if err := w.recordKeep(ctx, name, opened[name].keep()); err != nil {
			return fmt.Errorf("recording which snapshots of %s are kept: %w", name, err)
		}
	}
	finds := slices.ContainsFunc(slices.Collect(maps.Values(opened)), func(r *runningSource) bool { return r.kind.FindsModels })
	if !finds && len(naming) == 0 {
		return nil
	}
	rules, err := schema.Canonical(append(naming, ingest.DefaultNaming))
	if err != nil {
		return err
	}
	if err := w.recordSetting(ctx, namingSetting, "", string(rules), map[string]string{"rules": string(rules)}); err != nil {
		return fmt.Errorf("recording how models are named: %w", err)
	}
	return nil
}

// stated is the statement about a setting that is in force. It is kept as a
// cursor and moves in the append that holds the statement.
type stated struct {
	Value     string `json:"value"`
	Statement string `json:"statement"` // its sha256, in hex
}

// recordSetting states the value of a setting of object ("" where it is the
// whole ledger's), unless that is what was stated last.
func (w *watching) recordSetting(ctx context.Context, setting, object, value string, values map[string]string) error {
	cursor := schema.Cursor{Source: "config:" + setting}
	if object != "" {
		cursor.Source += ":" + object
	}
	var err error
	if cursor.From, err = w.b.log.Cursor(ctx, schema.DefaultNamespace, cursor.Source); err != nil {
		return err
	}
	var before stated
	if cursor.From != "" {
		if err := json.Unmarshal([]byte(cursor.From), &before, json.RejectUnknownMembers(true)); err != nil {
			return fmt.Errorf("reading the cursor %s: %w", cursor.Source, err)
		}
	}
	if before.Value == value {
		return nil
	}
	p := schema.Config{Setting: setting, Values: values, Previous: before.Statement}
	predicate, err := schema.Canonical(p)
	if err != nil {
		return err
	}
	s, err := schema.NewStatement(schema.ConfigV1, p, schema.Descriptor{Name: setting, Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(predicate).Hex()}})
	if err != nil {
		return err
	}
	payload, err := s.Encode()
	if err != nil {
		return err
	}
	to, err := schema.Canonical(stated{Value: value, Statement: schema.BytesKey(payload).Hex()})
	if err != nil {
		return err
	}
	cursor.To = string(to)
	envelope, err := w.b.observer.SignStatement(s)
	if err != nil {
		return err
	}
	_, err = w.b.log.Append(ctx, schema.Batch{
		Namespace: schema.DefaultNamespace, Source: cursor.Source, Submitter: w.b.observer.ID(),
		Envelopes: []schema.Envelope{envelope}, Cursors: []schema.Cursor{cursor},
	})
	return err
}

// settling is how long after a delivery the source is looked at once more.
const settling = 2 * time.Second

// hook takes a delivery to /webhooks/NAME: it has the sources looked at that the
// delivery is about. It is forged where there are some and none accepts its
// signature.
func (w *watching) hook(name string, header http.Header, body []byte) (woken int, forged bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for source, r := range w.running {
		hooked, ok := r.source.(ingest.Hooked)
		if !ok || r.over() {
			continue
		}
		mine, err := hooked.Hook(name, header, body)
		if err != nil {
			forged = true
			w.logger.Warn("delivery refused", "source", source, "webhook", name, "err", err)
		} else if mine {
			r.runner.Wake()
			// Some tell of a change before it shows: the CNCF's registry before the tag
			// is set.
			time.AfterFunc(settling, r.runner.Wake)
			woken++
		}
	}
	return woken, forged && woken == 0
}

// wake says how many sources a CloudEvent with this source and subject is about,
// and with now has them looked at: those whose URL is the one, or is both with a
// slash between them.
func (w *watching) wake(source, subject string, now bool) (woken int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	about := []string{bareURL(source), bareURL(source + "/" + subject)}
	for name, r := range w.running {
		if r.over() || !slices.Contains(about, bareURL(name)) && !slices.Contains(about, bareURL(r.config.URL)) {
			continue
		}
		woken++
		if now {
			r.runner.Wake()
			time.AfterFunc(settling, r.runner.Wake)
		}
	}
	return woken
}

// bareURL is a source's URL as somebody else may write it: a repository without
// "git+" before and ".git" after it.
func bareURL(u string) string {
	return strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(u, "git+"), "/"), ".git")
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
