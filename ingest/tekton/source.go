package tekton

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// Name is the name of this kind.
const Name = "tekton"

var (
	taskRuns     = kube.Type{Group: group, Version: "v1", Plural: "taskruns", Kind: taskRun}
	pipelineRuns = kube.Type{Group: group, Version: "v1", Plural: "pipelineruns", Kind: pipelineRun}
)

// Kind is how ingest/all lists this package.
func Kind() ingest.Kind {
	return ingest.Kind{Name: Name, Schemes: []string{Name}, FindsModels: true, Open: open}
}

// open reads tekton://CLUSTER[/NAMESPACE]. The cluster is a name for people;
// where it is, the settings say.
func open(_ context.Context, place ingest.Place, env ingest.Env) (ingest.Source, string, error) {
	u, err := url.Parse(place.URL)
	if err != nil || u.Scheme != Name || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, "", fmt.Errorf("%q is not the URL of a cluster's runs: want tekton://CLUSTER or tekton://CLUSTER/NAMESPACE", place.URL)
	}
	namespace := strings.Trim(u.Path, "/")
	if strings.Contains(namespace, "/") {
		return nil, "", fmt.Errorf("%q names more than a namespace: want tekton://CLUSTER/NAMESPACE", place.URL)
	}
	var settings kube.Settings
	if err := place.Settings(&settings); err != nil {
		return nil, "", err
	}
	client, err := kube.NewClient(settings)
	if err != nil {
		return nil, "", ingest.Setting("kubeconfig", err)
	}
	s := &source{naming: env.Naming, tasks: kube.NewReader(client, taskRuns, namespace), pipelines: kube.NewReader(client, pipelineRuns, namespace)}
	return s, strings.TrimSuffix(Name+"://"+u.Host+"/"+namespace, "/"), nil
}

// source watches the TaskRuns and the PipelineRuns of a cluster. It is for one
// goroutine at a time.
type source struct {
	tasks, pipelines *kube.Reader
	naming           ingest.Naming
}

// position is the cursor: how far the two were read.
type position struct {
	Tasks     string `json:"tasks,omitempty"`
	Pipelines string `json:"pipelines,omitempty"`
	// Listed is what the list of TaskRuns held, until that of PipelineRuns is read
	// too.
	Listed *ingest.Listing `json:"listed,omitempty"`
}

func parsePosition(s string) (position, error) {
	var p position
	if s == "" {
		return p, nil
	}
	err := json.Unmarshal([]byte(s), &p, json.RejectUnknownMembers(true))
	for _, c := range []string{p.Tasks, p.Pipelines} {
		if err == nil && c != "" {
			err = kube.CheckCursor(c)
		}
	}
	if err != nil || p.Tasks == "" && p.Pipelines == "" {
		return p, fmt.Errorf("%.200q is not a cursor of runs of Tekton", s)
	}
	return p, nil
}

func (p position) String() string {
	raw, err := schema.Canonical(p)
	if err != nil { // texts and a number
		panic(err)
	}
	return string(raw)
}

// Observe implements ingest.Source: TaskRuns first, then PipelineRuns. What is
// said of a run that has ended is a function of the object, which Chains changes
// once more when it has signed: what was said before is then nothing new to the
// ledger.
func (s *source) Observe(ctx context.Context, from string) iter.Seq2[ingest.Event, error] {
	return func(yield func(ingest.Event, error) bool) {
		at, err := parsePosition(from)
		if err != nil {
			yield(ingest.Event{}, err)
			return
		}
		var pipelines *ingest.Listing
		for _, of := range []struct {
			reader *kube.Reader
			cursor *string
		}{{s.tasks, &at.Tasks}, {s.pipelines, &at.Pipelines}} {
			for c, err := range of.reader.Changes(ctx, *of.cursor) {
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					yield(ingest.Event{}, explain(err))
					return
				}
				*of.cursor = c.Cursor
				switch {
				case c.Listing != nil && of.reader == s.tasks:
					at.Listed = c.Listing
				case c.Listing != nil:
					pipelines = c.Listing
				}
				if !s.take(ctx, c, at.String(), yield) {
					return
				}
			}
		}
		if at.Listed != nil && pipelines != nil {
			both := together(at.Listed, pipelines)
			at.Listed = nil
			yield(ingest.Event{Cursor: at.String(), Listing: both}, nil)
		}
	}
}

// together is what both lists held.
func together(lists ...*ingest.Listing) *ingest.Listing {
	h, count := sha256.New(), 0
	for _, l := range lists {
		fmt.Fprintln(h, l.Count, l.Digest)
		count += l.Count
	}
	return &ingest.Listing{Count: count, Digest: schema.Key(schema.SHA256 + ":" + hex.EncodeToString(h.Sum(nil)))}
}

// explain says what to do about a cluster without Tekton.
func explain(err error) error {
	if errors.Is(err, kube.ErrNotFound) {
		return fmt.Errorf("the cluster has no runs of Tekton (the definitions of taskruns.tekton.dev and pipelineruns.tekton.dev are not installed): %w", err)
	}
	return err
}

// take gives what a change says: all that is known of a run when it has ended, or
// is deleted.
func (s *source) take(ctx context.Context, c kube.Change, cursor string, yield func(ingest.Event, error) bool) bool {
	if c.Object.Meta.Name == "" {
		return yield(ingest.Event{Cursor: cursor}, nil)
	}
	o, err := parseObject(c.Object.Raw)
	if err == nil && !o.Status.ended() && !c.Deleted {
		return yield(ingest.Event{Cursor: cursor}, nil)
	}
	var said []schema.Statement
	var signed []schema.Envelope
	if err == nil {
		said, signed, err = o.describe(c.Deleted, s.naming)
	}
	if errors.Is(err, notBegun) {
		return yield(ingest.Event{Cursor: cursor}, nil)
	}
	if err != nil {
		name := "run " + c.Object.Meta.Namespace + "/" + c.Object.Meta.Name
		return yield(ingest.Event{Cursor: cursor, Skipped: &ingest.Skip{Object: name, Reason: err, Digest: schema.BytesKey(c.Object.Raw)}}, nil)
	}
	var events []ingest.Event
	for _, st := range said {
		events = append(events, ingest.Event{Statement: st})
	}
	for i := range signed {
		events = append(events, ingest.Event{Envelope: &signed[i]})
	}
	events[len(events)-1].Cursor = cursor
	for _, e := range events {
		if err := ctx.Err(); err != nil {
			yield(ingest.Event{}, err)
			return false
		}
		if !yield(e, nil) {
			return false
		}
	}
	return true
}

// Wait implements ingest.Waiter: it returns when either has changed.
func (s *source) Wait(ctx context.Context, from string) error {
	at, err := parsePosition(from)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 2)
	var both sync.WaitGroup
	both.Go(func() { ended <- s.tasks.Wait(ctx, at.Tasks) })
	both.Go(func() { ended <- s.pipelines.Wait(ctx, at.Pipelines) })
	first := <-ended
	stop()
	both.Wait()
	return first
}
