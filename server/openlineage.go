package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/ingest/openlineage"
	"github.com/retrace-ledger/retrace/schema"
)

// Bounds of the runs whose events are kept until they are recorded, and for a
// while after.
const (
	maxRuns      = 100000
	maxRunBytes  = 8 << 20
	maxRunEvents = 10000
)

// runs keeps the events of runs of OpenLineage, each run in a file of its own,
// from before they are acknowledged until nothing more is to come. A run becomes
// a statement when it has ended and settled, or is overdue; an event that comes
// later makes another statement, which takes the place of the first.
type runs struct {
	dir             string
	settle, overdue time.Duration
	log             *slog.Logger

	mu   sync.Mutex
	open map[string]*openRun // by name of the file
}

// openRun is what is known of a file of events.
type openRun struct {
	name string

	mu       sync.Mutex // of all below, and of the file
	head     runHead
	size     int64
	events   int
	ended    bool
	last     time.Time  // when the last event came
	due      bool       // there is something that was not recorded
	recorded schema.Key // of the run as it was stated last
	content  schema.Key // of the same without what it replaced
	gone     bool       // the file was removed
}

// runHead is the first line of a file: whose events they are.
type runHead struct {
	Run       string `json:"run"`
	Namespace string `json:"namespace"`
	Submitter string `json:"submitter"`
}

// runLine is any other line: an event, or that the run was recorded.
type runLine struct {
	Event    jsontext.Value `json:"event,omitempty"`
	Recorded schema.Key     `json:"recorded,omitempty"`
	Content  schema.Key     `json:"content,omitempty"`
}

// newRuns takes up what an earlier server left in dir.
func newRuns(dir string, settle, overdue time.Duration, log *slog.Logger) (*runs, error) {
	if settle == 0 {
		settle = 10 * time.Second
	}
	if overdue == 0 {
		overdue = 24 * time.Hour
	}
	r := &runs{dir: dir, settle: settle, overdue: overdue, log: log, open: map[string]*openRun{}}
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading kept events: %w", err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".jsonl") {
			continue
		}
		run := &openRun{name: f.Name()}
		if _, err := r.load(run); err != nil {
			return nil, fmt.Errorf("%w; move the file away to start without the events in it", err)
		}
		if run.head.Run == "" { // it was begun, and nothing acknowledged
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
				return nil, err
			}
			continue
		}
		info, err := f.Info()
		if err != nil {
			return nil, err
		}
		run.last = info.ModTime()
		r.open[run.name] = run
	}
	return r, nil
}

func (r *runs) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}

// load reads the file of a run. A last line without its end was never
// acknowledged, and is cut off.
func (r *runs) load(run *openRun) ([]openlineage.Event, error) {
	name := filepath.Join(r.dir, run.name)
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading kept events: %w", err)
	}
	whole := bytes.LastIndexByte(raw, '\n') + 1
	if whole < len(raw) {
		if err := os.Truncate(name, int64(whole)); err != nil {
			return nil, fmt.Errorf("cutting off an event that was not acknowledged: %w", err)
		}
	}
	var events []openlineage.Event
	fresh := openRun{name: run.name, last: run.last, size: int64(whole)}
	for i, line := range bytes.Split(raw[:whole], []byte("\n")) {
		switch {
		case len(line) == 0:
			continue
		case i == 0:
			if err := json.Unmarshal(line, &fresh.head); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			continue
		}
		var l runLine
		if err := json.Unmarshal(line, &l); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", name, i+1, err)
		}
		if l.Recorded != "" {
			fresh.recorded, fresh.content, fresh.due = l.Recorded, l.Content, false
			continue
		}
		e, err := openlineage.ParseEvent(l.Event)
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", name, i+1, err)
		}
		events = append(events, e)
		fresh.events++
		fresh.due = true
		fresh.ended = fresh.ended || e.Ended()
	}
	run.head, run.size, run.events, run.ended, run.due, run.recorded, run.content = fresh.head, fresh.size, fresh.events, fresh.ended, fresh.due, fresh.recorded, fresh.content
	return events, nil
}

// keep writes events of one run to disk.
func (r *runs) keep(head runHead, events []openlineage.Event) error {
	var lines []byte
	for _, e := range events {
		line, err := json.Marshal(runLine{Event: e.Raw()}, json.Deterministic(true))
		if err != nil {
			return err
		}
		lines = append(append(lines, line...), '\n')
	}
	for {
		run, err := r.of(head)
		if err != nil {
			return err
		}
		run.mu.Lock()
		if run.gone { // it was let go meanwhile
			run.mu.Unlock()
			continue
		}
		defer run.mu.Unlock()
		defer func() {
			if run.size == 0 { // nothing was taken
				r.drop(run)
			}
		}()
		if run.size+int64(len(lines)) > maxRunBytes || run.events+len(events) > maxRunEvents {
			return &graphql.Error{Code: graphql.CodeLimit, Field: "run.runId", Message: fmt.Sprintf("run %s has more than %d events, or %d bytes of them", head.Run, maxRunEvents, maxRunBytes)}
		}
		if run.size == 0 {
			first, err := json.Marshal(head, json.Deterministic(true))
			if err != nil {
				return err
			}
			lines = append(append(first, '\n'), lines...)
		}
		if err := r.write(run, lines); err != nil {
			return err
		}
		run.head, run.last, run.due = head, time.Now(), true
		run.events += len(events)
		run.ended = run.ended || slices.ContainsFunc(events, func(e openlineage.Event) bool { return e.Ended() })
		return nil
	}
}

// of is the run that events are of. The same ID in two namespaces is two runs.
func (r *runs) of(head runHead) (*openRun, error) {
	sum := sha256.Sum256([]byte(head.Namespace + "\n" + head.Run))
	name := hex.EncodeToString(sum[:16]) + ".jsonl"
	r.mu.Lock()
	defer r.mu.Unlock()
	if run := r.open[name]; run != nil {
		return run, nil
	}
	if len(r.open) >= maxRuns {
		return nil, &graphql.Error{Code: graphql.CodeUnavailable, Message: fmt.Sprintf("%d runs are kept that have not ended; no more are taken until some have", maxRuns)}
	}
	run := &openRun{name: name, head: head}
	r.open[name] = run
	return run, nil
}

// write appends lines to the file of a run, durably. What could not be written
// whole is cut off again.
func (r *runs) write(run *openRun, lines []byte) error {
	if run.size == 0 {
		if err := os.MkdirAll(r.dir, 0o700); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(r.dir, run.name), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.WriteAt(lines, run.size); err == nil {
		err = f.Sync()
	}
	if err == nil && run.size == 0 {
		err = syncDir(r.dir, filepath.Dir(r.dir))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keeping events: %w", err), f.Truncate(run.size))
	}
	run.size += int64(len(lines))
	return nil
}

func syncDir(dirs ...string) error {
	for _, dir := range dirs {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		err = d.Sync()
		d.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// record records runs as they become due, until ctx ends.
func (r *runs) record(ctx context.Context, appendBatch func(context.Context, schema.Batch) (schema.Receipt, error)) error {
	tick := time.NewTicker(max(10*time.Millisecond, min(time.Second, r.settle/4)))
	defer tick.Stop()
	for {
		r.mu.Lock()
		all := make([]*openRun, 0, len(r.open))
		for _, run := range r.open {
			all = append(all, run)
		}
		r.mu.Unlock()
		for _, run := range all {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := r.settled(ctx, run, appendBatch); err != nil && ctx.Err() == nil {
				r.log.ErrorContext(ctx, "recording a run of OpenLineage; it is tried again", "run", run.head.Run, "namespace", run.head.Namespace, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// retryRecord is how long a run rests that could not be recorded.
const retryRecord = 10 * time.Second

// settled records a run that is due, and lets one go that was recorded and of
// which nothing came for long.
func (r *runs) settled(ctx context.Context, run *openRun, appendBatch func(context.Context, schema.Batch) (schema.Receipt, error)) error {
	run.mu.Lock()
	defer run.mu.Unlock()
	still := time.Since(run.last)
	switch {
	case run.gone:
		return nil
	case !run.due && still >= r.overdue:
		return r.forget(run)
	case !run.due, run.ended && still < r.settle, !run.ended && still < r.overdue:
		return nil
	}
	err := r.state(ctx, run, appendBatch)
	if err != nil {
		run.last = time.Now().Add(retryRecord - r.settle)
	}
	return err
}

// state appends the statement of a run, unless it would say what the last one said.
func (r *runs) state(ctx context.Context, run *openRun, appendBatch func(context.Context, schema.Batch) (schema.Receipt, error)) error {
	events, err := r.load(run)
	if err != nil {
		return err
	}
	s, err := openlineage.Statement(events, "")
	if err != nil {
		return err
	}
	content := s.Subject[0].Key()
	if content != run.content {
		if run.recorded != "" {
			if s, err = openlineage.Statement(events, run.recorded); err != nil {
				return err
			}
		}
		payload, err := s.Encode()
		if err != nil {
			return err
		}
		env, err := schema.NewEnvelope(schema.PayloadType, payload) // nobody signed the events
		if err != nil {
			return err
		}
		if _, err := appendBatch(ctx, schema.Batch{Namespace: run.head.Namespace, Source: "openlineage", Submitter: run.head.Submitter, Envelopes: []schema.Envelope{env}}); err != nil {
			return err
		}
		run.recorded, run.content = s.Subject[0].Key(), content
	}
	line, err := json.Marshal(runLine{Recorded: run.recorded, Content: run.content}, json.Deterministic(true))
	if err != nil {
		return err
	}
	if err := r.write(run, append(line, '\n')); err != nil {
		return err
	}
	run.due = false
	return nil
}

// forget removes the file of a run.
func (r *runs) forget(run *openRun) error {
	if err := os.Remove(filepath.Join(r.dir, run.name)); err != nil {
		return err
	}
	r.drop(run)
	return nil
}

// drop lets a run go that has no file; its lock is held.
func (r *runs) drop(run *openRun) {
	run.gone = true
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, run.name)
}

// postEvent takes an event of OpenLineage as its clients send it, or several. It
// is durable before it is acknowledged.
func (s *Server) postEvent(w http.ResponseWriter, r *http.Request) {
	raw, namespace, err := s.readEvents(w, r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	events, err := openlineage.Parse(raw)
	if errors.Is(err, openlineage.ErrNoRun) {
		// Clients report a refusal as a fault of the job's, and there is none.
		s.answerEvents(w, http.StatusOK, map[string]string{"ignored": err.Error()})
		return
	}
	if err == nil {
		err = s.keepEvents(r, namespace, events)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.answerEvents(w, http.StatusCreated, map[string]string{"run": events[0].RunID})
}

// failedEvent says why one event of a batch was not taken.
type failedEvent struct {
	Index     int    `json:"index"`
	Reason    string `json:"reason"`
	Retriable bool   `json:"retriable"`
}

// postEvents takes many events, each by itself (OpenLineage, "/lineage/batch").
func (s *Server) postEvents(w http.ResponseWriter, r *http.Request) {
	raw, namespace, err := s.readEvents(w, r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	values, err := openlineage.Split(raw)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	var failed []failedEvent
	for i, v := range values {
		e, err := openlineage.ParseEvent(v)
		if errors.Is(err, openlineage.ErrNoRun) {
			continue
		}
		retriable := false
		if err == nil {
			err = s.keepEvents(r, namespace, []openlineage.Event{e})
			retriable = err != nil
		}
		if err != nil {
			told := graphql.Explain(err)
			s.metrics.rejected.WithLabelValues(told.Code).Inc()
			failed = append(failed, failedEvent{Index: i, Reason: told.Error(), Retriable: retriable && told.Code != graphql.CodeLimit})
		}
	}
	if len(failed) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.answerEvents(w, http.StatusOK, map[string]any{
		"status":        "partial_success",
		"summary":       map[string]int{"received": len(values), "successful": len(values) - len(failed), "failed": len(failed)},
		"failed_events": failed,
	})
}

// readEvents reads a body of events, compressed or not, for the namespace that
// the caller asks for and may record in.
func (s *Server) readEvents(w http.ResponseWriter, r *http.Request) (raw []byte, namespace string, err error) {
	namespace = r.URL.Query().Get("namespace")
	if namespace == "" {
		namespace = schema.DefaultNamespace
	}
	if err := who(r).mayRecord(namespace); err != nil {
		return nil, "", err
	}
	if r.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			return nil, "", badInput("Content-Encoding", "the body is not compressed with gzip")
		}
		r.Body = io.NopCloser(unpacked)
	}
	raw, err = readJSON(w, r)
	return raw, namespace, err
}

// keepEvents keeps events, run by run.
func (s *Server) keepEvents(r *http.Request, namespace string, events []openlineage.Event) error {
	of := map[string][]openlineage.Event{}
	for _, e := range events {
		of[e.RunID] = append(of[e.RunID], e)
	}
	for id, its := range of {
		if err := s.runs.keep(runHead{Run: id, Namespace: namespace, Submitter: who(r).name()}, its); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) answerEvents(w http.ResponseWriter, status int, v any) {
	raw, err := json.Marshal(v, json.Deterministic(true))
	if err != nil { // strings and numbers
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(raw, '\n'))
}
