package kubernetes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// Name is the name of this kind.
const Name = "kubernetes"

// Kind is how ingest/all lists this package.
func Kind() ingest.Kind {
	return ingest.Kind{Name: Name, Schemes: []string{Name, "kube"}, Open: open}
}

// open reads kubernetes://CLUSTER[/NAMESPACE]. The cluster is a name for people;
// where it is, the settings say. Of kube://CONTEXT[/NAMESPACE] the name is also
// that of a context in the user's own kubeconfig.
func open(_ context.Context, place ingest.Place, _ ingest.Env) (ingest.Source, string, error) {
	u, err := url.Parse(place.URL)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Contains(strings.Trim(u.Path, "/"), "/") {
		return nil, "", fmt.Errorf("%q is not the URL of a cluster: want kubernetes://CLUSTER or kubernetes://CLUSTER/NAMESPACE", place.URL)
	}
	var settings kube.Settings
	if err := place.Settings(&settings); err != nil {
		return nil, "", err
	}
	if u.Scheme == "kube" && settings.Context == "" {
		settings.Context = u.Host
	}
	client, err := kube.NewClient(settings)
	if err != nil {
		return nil, "", ingest.Setting("kubeconfig", err)
	}
	namespace := strings.Trim(u.Path, "/")
	return &source{client: client, cluster: u.Host, namespace: namespace}, strings.TrimSuffix(Name+"://"+u.Host+"/"+namespace, "/"), nil
}

type source struct {
	client    *kube.Client
	cluster   string
	namespace string
}

// position is the cursor: what was stated last of each workload that is there.
type position struct {
	Known map[string]stated `json:"known"` // by id
	// Odd are the objects that were left out, with a short digest of why: each is
	// said once.
	Odd map[string]string `json:"odd,omitempty"`
}

// maxOdd is how many odd objects are remembered; beyond, they are said again at
// each read.
const maxOdd = 256

// stated is a short digest of a state, and the sha256 of the statement of it.
type stated struct {
	State     string `json:"s"`
	Statement string `json:"p"`
}

func parsePosition(s string) (position, error) {
	p := position{Known: map[string]stated{}}
	if s == "" {
		return p, nil
	}
	err := json.Unmarshal([]byte(s), &p, json.RejectUnknownMembers(true))
	if err == nil && p.Known == nil {
		err = fmt.Errorf("it names no workloads")
	}
	for id, known := range p.Known {
		if _, keyErr := schema.ParseKey(schema.SHA256 + ":" + known.Statement); err == nil && (keyErr != nil || strings.Count(id, "/") != 2) {
			err = fmt.Errorf("%q is no workload that was stated", id)
		}
	}
	if err != nil {
		return p, fmt.Errorf("%.100q is not a cursor of workloads: %w", s, err)
	}
	return p, nil
}

func (p position) encode() (string, error) {
	raw, err := schema.Canonical(p)
	return string(raw), err
}

// chunk is how many statements are given between cursors, each of which holds
// all workloads.
const chunk = 256

// Observe implements ingest.Source.
func (s *source) Observe(ctx context.Context, from string) iter.Seq2[ingest.Event, error] {
	return func(yield func(ingest.Event, error) bool) {
		if err := s.observe(ctx, from, func(e ingest.Event) bool { return yield(e, nil) }); err != nil {
			yield(ingest.Event{}, err)
		}
	}
}

func (s *source) observe(ctx context.Context, from string, yield func(ingest.Event) bool) error {
	at, err := parsePosition(from)
	if err != nil {
		return err
	}
	now, err := read(ctx, s.client, s.namespace)
	if err != nil {
		return err
	}
	for _, odd := range at.leave(now.odd) {
		if !yield(ingest.Event{Skipped: &odd}) {
			return nil
		}
	}
	changes := s.changes(&at, now)
	for i, id := range changes {
		if err := ctx.Err(); err != nil {
			return err
		}
		st, err := s.state(&at, id, now.workloads[id])
		if err != nil {
			return err
		}
		e := ingest.Event{Statement: st}
		if (i+1)%chunk == 0 || i+1 == len(changes) || len(changes) <= chunk {
			if e.Cursor, err = at.encode(); err != nil {
				return err
			}
		}
		if !yield(e) {
			return nil
		}
	}
	last := ingest.Event{Listing: now.listing()}
	if last.Cursor, err = at.encode(); err != nil {
		return err
	}
	yield(last)
	return nil
}

// leave notes which objects are odd, and returns those that were not before, or
// for another reason.
func (p *position) leave(odd map[string]ingest.Skip) []ingest.Skip {
	next, fresh := map[string]string{}, []ingest.Skip{}
	for _, object := range slices.Sorted(maps.Keys(odd)) {
		h := sha256.Sum256([]byte(odd[object].Reason.Error()))
		why := hex.EncodeToString(h[:6])
		if p.Odd[object] != why {
			fresh = append(fresh, odd[object])
		}
		if len(next) < maxOdd {
			next[object] = why
		}
	}
	p.Odd = next
	return fresh
}

// changes are the workloads to state: those whose state is not the one stated,
// and those that are gone, in the order of their ids.
func (s *source) changes(at *position, now *cluster) []string {
	var ids []string
	for id, w := range now.workloads {
		if now.root(w.uid, strings.SplitN(id, "/", 2)[0], nil) != w {
			delete(now.workloads, id) // of another one
			continue
		}
		known, ok := at.Known[id]
		if ok && (known.State == w.digest() || w.kind == "Job" && len(w.ran) == 0) {
			continue // the same, or a Job whose pods were cleaned up
		}
		ids = append(ids, id)
	}
	for id := range at.Known {
		if now.workloads[id] == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// containers are those of a workload with what they ran, or what they were asked
// to run where nothing did.
func (w *workload) containers() []schema.RunningContainer {
	list := slices.Collect(maps.Keys(w.ran))
	for name, image := range w.asked {
		if !slices.ContainsFunc(list, func(r schema.RunningContainer) bool { return r.Name == name }) {
			list = append(list, schema.RunningContainer{Name: name, Image: image})
		}
	}
	slices.SortFunc(list, func(a, b schema.RunningContainer) int {
		return strings.Compare(a.Name+"\x00"+a.Digest+"\x00"+a.Image+"\x00"+a.Platform, b.Name+"\x00"+b.Digest+"\x00"+b.Image+"\x00"+b.Platform)
	})
	return list
}

// digest is short, of what counts of the state.
func (w *workload) digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%q\n", w.uid, w.models)
	for _, c := range w.containers() {
		fmt.Fprintf(h, "%q\n", []string{c.Name, c.Image, c.Digest, c.Platform})
	}
	if w.rev != nil {
		fmt.Fprintf(h, "%q\n", []string{w.rev.Commit, w.rev.Repository, w.rev.By})
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

// state makes the statement about a workload, nil for one that is gone, and
// notes it in the cursor.
func (s *source) state(at *position, id string, w *workload) (schema.Statement, error) {
	p := schema.Deployment{Workload: s.cluster + "/" + id, Deleted: true}
	var images []schema.Descriptor
	if w != nil {
		p = w.deployment(s.cluster, id)
		images = imagesOf(p.Containers)
	}
	p.Previous = at.Known[id].Statement
	raw, err := schema.Canonical(p)
	if err != nil {
		return schema.Statement{}, err
	}
	subject := schema.Descriptor{Name: schema.NameWorkload + ":" + p.Workload, Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(raw).Hex()}}
	st, err := schema.NewStatement(schema.DeploymentV1, p, append([]schema.Descriptor{subject}, images...)...)
	if err != nil {
		return schema.Statement{}, fmt.Errorf("describing the workload %s: %w", id, err)
	}
	payload, err := st.Encode()
	if err != nil {
		return schema.Statement{}, err
	}
	if w == nil {
		delete(at.Known, id)
	} else {
		at.Known[id] = stated{State: w.digest(), Statement: schema.BytesKey(payload).Hex()}
	}
	return st, nil
}

// imagesOf are the images that containers ran, each once.
func imagesOf(containers []schema.RunningContainer) []schema.Descriptor {
	var images []schema.Descriptor
	seen := map[string]bool{}
	for _, c := range containers {
		if c.Digest == "" || seen[c.Digest] {
			continue
		}
		seen[c.Digest] = true
		if d, ok := schema.ImageDescriptor(c.Image, c.Digest); ok {
			images = append(images, d)
		}
	}
	return images
}

// listing sums up which workloads there are.
func (c *cluster) listing() *ingest.Listing {
	h := sha256.New()
	for _, id := range slices.Sorted(maps.Keys(c.workloads)) {
		fmt.Fprintf(h, "%s\x00%s\n", id, c.workloads[id].digest())
	}
	return &ingest.Listing{Count: len(c.workloads), Digest: schema.Key(schema.SHA256 + ":" + hex.EncodeToString(h.Sum(nil)))}
}
