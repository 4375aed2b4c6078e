package argo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// Name is the name of this kind.
const Name = "argo"

var (
	workflows = kube.Type{Group: "argoproj.io", Version: "v1alpha1", Plural: "workflows", Kind: "Workflow"}
	pods      = kube.Type{Version: "v1", Plural: "pods", Kind: "Pod"}
)

// Kind is how ingest/all lists this package.
func Kind() ingest.Kind {
	return ingest.Kind{Name: Name, Schemes: []string{Name}, FindsModels: true, Open: open}
}

// open reads argo://CLUSTER[/NAMESPACE]. The cluster is a name for people; where
// it is, the settings say.
func open(_ context.Context, place ingest.Place, env ingest.Env) (ingest.Source, string, error) {
	cluster, namespace, err := parseURL(place.URL)
	if err != nil {
		return nil, "", err
	}
	var settings kube.Settings
	if err := place.Settings(&settings); err != nil {
		return nil, "", err
	}
	client, err := kube.NewClient(settings)
	if err != nil {
		return nil, "", ingest.Setting("kubeconfig", err)
	}
	s := &source{
		client: client, naming: env.Naming, seen: map[string]map[string]image{},
		reader: kube.NewReader(client, workflows, namespace),
	}
	return s, strings.TrimSuffix(Name+"://"+cluster+"/"+namespace, "/"), nil
}

func parseURL(rawURL string) (cluster, namespace string, err error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != Name || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", "", fmt.Errorf("%q is not the URL of a cluster's Workflows: want argo://CLUSTER or argo://CLUSTER/NAMESPACE", rawURL)
	}
	namespace = strings.Trim(u.Path, "/")
	if strings.Contains(namespace, "/") {
		return "", "", fmt.Errorf("%q names more than a namespace: want argo://CLUSTER/NAMESPACE", rawURL)
	}
	return u.Host, namespace, nil
}

// source watches the Workflows of a cluster. It is for one goroutine at a time.
type source struct {
	client *kube.Client
	reader *kube.Reader
	naming ingest.Naming

	// seen are the images of steps that have ended, of runs that have not: their
	// pods may be gone when the run ends. By UID and node.
	seen map[string]map[string]image
}

// maxSeen is of how many running Workflows images are remembered. Of others
// they are asked for when the run has ended.
const maxSeen = 20_000

// Observe implements ingest.Source. All that is known of a run is given when it
// has ended, or is deleted.
func (s *source) Observe(ctx context.Context, from string) iter.Seq2[ingest.Event, error] {
	return func(yield func(ingest.Event, error) bool) {
		at, err := parsePosition(from)
		if err != nil {
			yield(ingest.Event{}, err)
			return
		}
		for c, err := range s.reader.Changes(ctx, at.Changes) {
			if err != nil {
				yield(ingest.Event{}, s.explain(err))
				return
			}
			if ok, err := s.take(ctx, &at, c, yield); err != nil {
				yield(ingest.Event{}, err)
				return
			} else if !ok {
				return
			}
		}
	}
}

// Wait implements ingest.Waiter.
func (s *source) Wait(ctx context.Context, from string) error {
	at, err := parsePosition(from)
	if err != nil {
		return err
	}
	return s.reader.Wait(ctx, at.Changes)
}

// explain says what to do about a cluster without Argo.
func (s *source) explain(err error) error {
	if errors.Is(err, kube.ErrNotFound) {
		return fmt.Errorf("the cluster has no Workflows (the definition of workflows.argoproj.io is not installed): %w", err)
	}
	return err
}

// take gives what a change of a Workflow says, and moves on.
func (s *source) take(ctx context.Context, at *position, c kube.Change, yield func(ingest.Event, error) bool) (bool, error) {
	next := at.after(c)
	if c.Object.Meta.Name == "" {
		*at = next
		return yield(ingest.Event{Cursor: next.String(), Listing: c.Listing}, nil), nil
	}
	w, err := parseWorkflow(c.Object.Raw)
	if err != nil {
		return s.odd(at, next, c, err, yield), nil
	}
	over := ended(w.Status.Phase)
	if !over && !c.Deleted {
		if err := s.look(ctx, w); err != nil {
			return false, err
		}
		*at = next
		return yield(ingest.Event{Cursor: next.String()}, nil), nil
	}
	defer delete(s.seen, w.Metadata.UID)
	if at.recorded(w, c) {
		*at = next
		return yield(ingest.Event{Cursor: next.String()}, nil), nil
	}
	statements, err := s.describe(ctx, w, c.Deleted)
	if fe := (*schema.FieldError)(nil); errors.As(err, &fe) {
		return s.odd(at, next, c, err, yield), nil
	}
	if err != nil {
		return false, err
	}
	next.note(w, time.Now())
	return s.give(ctx, at, next, w, statements, yield)
}

// odd leaves out a Workflow that nothing can be said of. One that has not begun
// is no odd one.
func (s *source) odd(at *position, next position, c kube.Change, err error, yield func(ingest.Event, error) bool) bool {
	*at = next
	e := ingest.Event{Cursor: next.String()}
	if fe := (*schema.FieldError)(nil); errors.As(err, &fe) && fe.Field != "status.startedAt" {
		e.Skipped = &ingest.Skip{Object: "workflow " + c.Object.Meta.Namespace + "/" + c.Object.Meta.Name, Reason: err, Digest: schema.BytesKey(c.Object.Raw)}
	}
	return yield(e, nil)
}

// chunk is how many statements are given between cursors.
const chunk = 256

// give yields the statements about a Workflow, those that a read before this one
// gave left out. After the last comes the cursor behind the Workflow.
func (s *source) give(ctx context.Context, at *position, next position, w *workflow, statements []schema.Statement, yield func(ingest.Event, error) bool) (bool, error) {
	given := 0
	if at.Within == w.Metadata.UID {
		given = min(at.Given, len(statements))
	}
	for i, st := range statements[given:] {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		e := ingest.Event{Statement: st}
		switch n := given + i + 1; {
		case n == len(statements):
			e.Cursor = next.String()
		case n%chunk == 0:
			within := *at
			within.Within, within.Given = w.Metadata.UID, n
			e.Cursor = within.String()
		}
		if !yield(e, nil) {
			return false, nil
		}
	}
	*at = next
	return true, nil
}

// describe makes the statements about a run that has ended or is deleted: its
// steps in the order of their IDs, the models after the step that made them,
// the run itself last.
func (s *source) describe(ctx context.Context, w *workflow, deleted bool) ([]schema.Statement, error) {
	if err := s.look(ctx, w); err != nil {
		return nil, err
	}
	if err := s.snapshots(ctx, w); err != nil {
		return nil, err
	}
	return w.describe(s.seen[w.Metadata.UID], deleted, s.naming)
}

// describe is that with the images that are known, by node.
func (w *workflow) describe(images map[string]image, deleted bool, naming ingest.Naming) ([]schema.Statement, error) {
	var all []schema.Statement
	for _, n := range w.finished() {
		var ran *image
		if i, ok := images[n.ID]; ok && i != (image{}) {
			ran = &i
		}
		statements, err := w.statements(n, ran, naming)
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", n.ID, err)
		}
		all = append(all, statements...)
	}
	run, err := w.run(deleted)
	if err != nil {
		return nil, err
	}
	return append(all, run), nil
}

// look asks the pods of steps that have ended for the images that they ran.
func (s *source) look(ctx context.Context, w *workflow) error {
	known := s.seen[w.Metadata.UID]
	if known == nil {
		if len(s.seen) >= maxSeen {
			clear(s.seen)
		}
		known = map[string]image{}
		s.seen[w.Metadata.UID] = known
	}
	for _, n := range w.finished() {
		if _, ok := known[n.ID]; ok || n.Type != "Pod" {
			continue
		}
		i, err := s.image(ctx, w, n)
		if err != nil {
			return err
		}
		known[n.ID] = i
	}
	return nil
}

// image is what the pod of a step ran; none where the pod is gone.
func (s *source) image(ctx context.Context, w *workflow, n *node) (image, error) {
	for _, name := range w.podNames(n) {
		o, err := s.client.Get(ctx, pods, w.Metadata.Namespace, name)
		if errors.Is(err, kube.ErrNotFound) {
			continue
		}
		if err != nil {
			return image{}, err
		}
		var pod struct {
			Status struct {
				Containers []struct {
					Name    string `json:"name"`
					Image   string `json:"image"`
					ImageID string `json:"imageID"`
				} `json:"containerStatuses"`
			} `json:"status"`
		}
		if err := json.Unmarshal(o.Raw, &pod); err != nil {
			continue // an odd pod says nothing
		}
		for _, c := range pod.Status.Containers {
			if c.Name == "main" {
				return image{Image: c.Image, ImageID: c.ImageID}, nil
			}
		}
	}
	return image{}, nil
}

// podNames are the names that the pod of a step can have: as newer versions of
// Argo make them, and as older ones did (workflow/util/pod_name.go there).
func (w *workflow) podNames(n *node) []string {
	const limit = 253 - 1 - 10 // of a name, without the hash
	template := n.TemplateName
	if n.TemplateRef.Template != "" {
		template = n.TemplateRef.Template
	}
	h := fnv.New32a()
	h.Write([]byte(n.Name))
	prefix := w.Metadata.Name
	if !strings.Contains(n.Name, ".inline") {
		prefix += "-" + template
	}
	if len(prefix) > limit {
		prefix = prefix[:limit]
	}
	names := []string{fmt.Sprintf("%s-%d", prefix, h.Sum32()), n.ID}
	if w.Metadata.Name == n.Name {
		names[0] = w.Metadata.Name
	}
	return slices.Compact(names)
}

// position is the cursor.
type position struct {
	// Changes is that of the kube.Reader.
	Changes string `json:"changes"`
	// Through is when the run ended that ended last of those given, and Recent
	// are those that ended not long before it, by a short hash of their UID:
	// labels of a run change after it ended, and its pods go away.
	Through time.Time `json:"through,omitzero"`
	Recent  []recent  `json:"recent,omitempty"`
	// Before is Through as it was when all Workflows had to be given again.
	Before time.Time `json:"before,omitzero"`
	// Of the Workflow Within, the next one, this many statements were given.
	Within string `json:"within,omitempty"`
	Given  int    `json:"given,omitempty"`
}

type recent struct {
	UID   string    `json:"u"`
	Ended time.Time `json:"t"`
}

// Runs that ended within window of the last are told apart by their UID, and at
// most so many of them; older ones by their time.
const (
	window    = 30 * time.Minute
	maxRecent = 4096
)

func parsePosition(s string) (position, error) {
	var p position
	if s == "" {
		return p, nil
	}
	err := json.Unmarshal([]byte(s), &p, json.RejectUnknownMembers(true))
	if err == nil {
		err = kube.CheckCursor(p.Changes)
	}
	if err != nil || p.Changes == "" && p.Given == 0 || p.Given < 0 {
		return p, fmt.Errorf("%.200q is not a cursor of Workflows", s)
	}
	return p, nil
}

func (p position) String() string {
	raw, err := schema.Canonical(p)
	if err != nil { // texts, times and a number
		panic(err)
	}
	return string(raw)
}

// after is the position behind a change.
func (p position) after(c kube.Change) position {
	next := p
	if c.Again && p.Before.IsZero() {
		next.Before = p.Through
	}
	if !c.Again {
		next.Before = time.Time{}
	}
	next.Changes, next.Within, next.Given = c.Cursor, "", 0
	return next
}

// recorded says whether all that there is to say of a run that ended was given.
func (p *position) recorded(w *workflow, c kube.Change) bool {
	short := shortUID(w.Metadata.UID)
	if slices.ContainsFunc(p.Recent, func(r recent) bool { return r.UID == short }) {
		return true
	}
	through := p.Through
	if c.Again && !p.Before.IsZero() {
		through = p.Before
	}
	first := c.Listed && !c.Again
	return !first && ended(w.Status.Phase) && w.Status.FinishedAt.Before(through.Add(-window))
}

// ahead is how far the clock of a cluster may be before ours.
const ahead = 5 * time.Minute

// note remembers a run that was given. One that says it ended in the future must
// not make all to come pass for given.
func (p *position) note(w *workflow, now time.Time) {
	end := w.Status.FinishedAt
	if end.After(now.Add(ahead)) {
		end = now.UTC()
	}
	if end.After(p.Through) {
		p.Through = end
	}
	kept := []recent{}
	for _, r := range p.Recent {
		if r.Ended.After(p.Through.Add(-window)) {
			kept = append(kept, r)
		}
	}
	kept = append(kept, recent{UID: shortUID(w.Metadata.UID), Ended: end})
	p.Recent = kept[max(0, len(kept)-maxRecent):]
}

func shortUID(uid string) string {
	sum := sha256.Sum256([]byte(uid))
	return hex.EncodeToString(sum[:6])
}
