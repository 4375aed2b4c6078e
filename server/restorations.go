package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/lineage"
)

// jobs runs restorations. Each has a file ID.json in the folder beside its own
// folder ID, so that one that was interrupted is done by the next server: anew,
// of the ledger as it was.
type jobs struct {
	dir      string
	restorer Restorer
	places   map[string]string
	graph    *lineage.Graph
	log      *slog.Logger

	mu      sync.Mutex
	known   map[string]*job
	ctx     context.Context // of the jobs; nil while the server does not run
	running sync.WaitGroup
}

type job struct {
	graphql.Restoration
	// Dir is where it is laid out; the API never says it.
	Dir string `json:"dir"`
	// Ledger is the size of the ledger that it was planned by, Starts how often it
	// was begun.
	Ledger int64 `json:"ledger"`
	Starts int   `json:"starts"`
}

// maxStarts is how often one restoration is begun: it may be why servers stop.
const maxStarts = 5

// maxJobs is how many restorations run at once.
const maxJobs = 4

func newJobs(dir string, restorer Restorer, places map[string]string, graph *lineage.Graph, log *slog.Logger) (*jobs, error) {
	j := &jobs{dir: dir, restorer: restorer, places: places, graph: graph, log: log, known: map[string]*job{}}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading the restorations of this ledger: %w", err)
		}
		var known job
		if err := json.Unmarshal(raw, &known); err != nil || known.ID+".json" != filepath.Base(name) {
			log.Warn("leaving out a restoration whose file cannot be read", "file", name)
			continue
		}
		if known.State == graphql.Running && (known.Ledger == 0 || known.Starts >= maxStarts) {
			known.State, known.Problem = graphql.Failed, fmt.Sprintf("it was begun %d times, and the server stopped each time before it was done", max(known.Starts, 1))
		}
		j.known[known.ID] = &known
	}
	return j, nil
}

// begin lets jobs run until ctx ends, and begins those again that a server before
// did not end.
func (j *jobs) begin(ctx context.Context) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ctx = ctx
	for _, id := range slices.Sorted(maps.Keys(j.known)) {
		if again := j.known[id]; again.State == graphql.Running {
			j.running.Go(func() { j.again(ctx, again) })
		}
	}
}

// again does a restoration from its beginning, in its folder, which is emptied.
func (j *jobs) again(ctx context.Context, interrupted *job) {
	plan, err := j.planAgain(ctx, interrupted)
	if err != nil {
		j.end(ctx, interrupted, graphql.Outcome{}, err)
		return
	}
	j.run(ctx, interrupted, plan)
}

func (j *jobs) planAgain(ctx context.Context, interrupted *job) (*graphql.Plan, error) {
	j.mu.Lock()
	interrupted.Starts++
	interrupted.Done = 0
	ref, size, dir, err := interrupted.Ref, interrupted.Ledger, interrupted.Dir, j.save(interrupted)
	j.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := j.graph.Wait(ctx, size); err != nil {
		return nil, err
	}
	v, err := j.graph.View(lineage.At{Size: size})
	if err != nil {
		return nil, err
	}
	meant, err := v.Resolve(ref)
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("making room for a restoration: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making room for a restoration: %w", err)
	}
	return j.restorer.Plan(ctx, v, meant)
}

// wait returns when no job runs any more.
func (j *jobs) wait() { j.running.Wait() }

// Plan implements graphql.Restores.
func (j *jobs) Plan(ctx context.Context, v *lineage.View, ref lineage.Ref) (*graphql.Plan, error) {
	return j.restorer.Plan(ctx, v, ref)
}

// Restoration implements graphql.Restores.
func (j *jobs) Restoration(_ context.Context, id string) (graphql.Restoration, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	known, ok := j.known[id]
	if !ok {
		return graphql.Restoration{}, graphql.ErrNoRestoration
	}
	return known.Restoration, nil
}

// Start implements graphql.Restores.
func (j *jobs) Start(_ context.Context, ref string, size int64, plan *graphql.Plan, place string) (graphql.Restoration, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.ctx == nil || j.ctx.Err() != nil:
		return graphql.Restoration{}, &graphql.Error{Code: graphql.CodeUnavailable, Message: "the server is stopping"}
	case j.count() >= maxJobs:
		return graphql.Restoration{}, &graphql.Error{Code: graphql.CodeLimit, Message: fmt.Sprintf("%d restorations are running, which is the limit", maxJobs)}
	}
	id := strings.ToLower(rand.Text())
	base, shown := j.dir, "restorations/"+id
	if place != "" {
		dir, ok := j.places[place]
		if !ok {
			return graphql.Restoration{}, badInput("target", fmt.Sprintf("%q is not a place that the configuration names; it names %s", clip(place), orNone(slices.Sorted(maps.Keys(j.places)))))
		}
		base, shown = dir, place+"/"+id
	}
	steps := plan.Steps
	if steps == nil {
		steps = []graphql.PlanStep{}
	}
	started := &job{Dir: filepath.Join(base, id), Ledger: size, Starts: 1, Restoration: graphql.Restoration{ID: id, State: graphql.Running, Ref: ref, Steps: steps, Place: shown}}
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return graphql.Restoration{}, fmt.Errorf("making room for a restoration: %w", err)
	}
	if err := os.MkdirAll(started.Dir, 0o700); err != nil {
		return graphql.Restoration{}, fmt.Errorf("making room for a restoration: %w", err)
	}
	if err := j.save(started); err != nil {
		return graphql.Restoration{}, err
	}
	j.known[id] = started
	ctx := j.ctx
	j.running.Go(func() { j.run(ctx, started, plan) })
	return started.Restoration, nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// count is how many jobs run. The caller holds mu.
func (j *jobs) count() int {
	n := 0
	for _, known := range j.known {
		if known.State == graphql.Running {
			n++
		}
	}
	return n
}

// run does a plan and notes how it ended.
func (j *jobs) run(ctx context.Context, started *job, plan *graphql.Plan) {
	outcome, err := do(ctx, plan, started.Dir, func(step int) {
		j.mu.Lock()
		defer j.mu.Unlock()
		started.Done = max(started.Done, min(step+1, len(started.Steps)))
	})
	j.end(ctx, started, outcome, err)
}

// end notes how a restoration ended. One that the server's own end cut off is
// left as it is: the next server does it.
func (j *jobs) end(ctx context.Context, started *job, outcome graphql.Outcome, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case err != nil && ctx.Err() != nil:
	case err != nil:
		started.State = graphql.Failed
		started.Problem = graphql.Explain(err).Message
		j.log.Error("restoring", "id", started.ID, "ref", started.Ref, "err", err)
	default:
		started.State, started.Verdict, started.Problem = graphql.Done, outcome.Verdict, outcome.Problem
	}
	if err := j.save(started); err != nil {
		j.log.Error("noting how a restoration ended", "id", started.ID, "err", err)
	}
}

// do is plan.Do, whose panic ends one job and not the server.
func do(ctx context.Context, plan *graphql.Plan, dir string, done func(int)) (out graphql.Outcome, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic while restoring: %v", p)
		}
	}()
	return plan.Do(ctx, dir, done)
}

func (j *jobs) save(known *job) error {
	raw, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(j.dir, known.ID+".json")
	if err := os.WriteFile(name+".new", append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("noting a restoration: %w", err)
	}
	return os.Rename(name+".new", name)
}

// place is the folder of a restoration that is done.
func (j *jobs) place(id string) (string, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	known, ok := j.known[id]
	switch {
	case !ok:
		return "", &graphql.Error{Code: graphql.CodeNotFound, Message: "there is no restoration with this id"}
	case known.State == graphql.Running:
		return "", &graphql.Error{Code: graphql.CodeConflict, Message: fmt.Sprintf("the restoration is not done yet: %d of %d steps", known.Done, len(known.Steps))}
	case known.State == graphql.Failed:
		return "", &graphql.Error{Code: graphql.CodeConflict, Message: "the restoration failed: " + known.Problem}
	}
	return known.Dir, nil
}

// getRestoration streams a restored place as a tar file.
func (s *Server) getRestoration(w http.ResponseWriter, r *http.Request) {
	id, ok := strings.CutSuffix(r.PathValue("file"), ".tar")
	if !ok || s.jobs == nil {
		s.nothing(w, r)
		return
	}
	dir, err := s.jobs.place(id)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		s.refuse(w, r, &graphql.Error{Code: graphql.CodeNotFound, Message: "the restored folder was removed"})
		return
	}
	w.Header().Set("Content-Type", client.MediaTar)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Disposition", `attachment; filename="`+id+`.tar"`)
	if r.Method == http.MethodHead {
		return
	}
	cw := &countingWriter{w: w}
	if err := client.Pack(r.Context(), dir, cw, nil); err != nil {
		s.broken(w, r, cw.n, err)
	}
}
