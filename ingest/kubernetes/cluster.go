package kubernetes

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// maxWorkloads is how many workloads one source reads: what was stated of each
// stands in the cursor.
const maxWorkloads = 6000

// cluster is what one read found.
type cluster struct {
	client    *kube.Client
	namespace string

	workloads map[string]*workload // by id
	byUID     map[string]*workload
	owners    map[string]string      // UID of an object to that of its controller
	odd       map[string]ingest.Skip // objects that could not be decoded, by what they are
}

// read lists everything. Types that the cluster does not have are passed over.
func read(ctx context.Context, client *kube.Client, namespace string) (*cluster, error) {
	c := &cluster{
		client: client, namespace: namespace,
		workloads: map[string]*workload{}, byUID: map[string]*workload{}, owners: map[string]string{}, odd: map[string]ingest.Skip{},
	}
	for _, t := range workloadTypes {
		if err := c.each(ctx, t, c.workload); err != nil {
			return nil, err
		}
	}
	if err := c.each(ctx, replicaSets, func(o kube.Object) error { c.owned(o); return nil }); err != nil {
		return nil, err
	}
	if err := c.revisions(ctx); err != nil {
		return nil, err
	}
	platforms, err := c.platforms(ctx)
	if err != nil {
		return nil, err
	}
	return c, c.each(ctx, pods, func(o kube.Object) error { c.pod(o, platforms); return nil })
}

// each calls fn for every object of a type.
func (c *cluster) each(ctx context.Context, t kube.Type, fn func(kube.Object) error) error {
	for o, err := range c.client.List(ctx, t, c.namespace) {
		if errors.Is(err, kube.ErrNotFound) {
			return nil // its definition is not installed
		}
		if err != nil {
			return err
		}
		if err := fn(o); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (c *cluster) workload(o kube.Object) error {
	w, err := newWorkload(o)
	if err != nil {
		c.note(o, err)
		return nil
	}
	if len(c.workloads) >= maxWorkloads {
		return fmt.Errorf("there are more than %d workloads: watch the namespaces one by one (kubernetes://CLUSTER/NAMESPACE)", maxWorkloads)
	}
	c.workloads[w.id], c.byUID[o.Meta.UID] = w, w
	c.owned(o)
	return nil
}

// note keeps what is odd about an object, if anything is.
func (c *cluster) note(o kube.Object, err error) {
	if err != nil {
		name := o.Type.String() + " " + o.Meta.Namespace + "/" + o.Meta.Name
		c.odd[name] = ingest.Skip{Object: name, Reason: err, Digest: schema.BytesKey(o.Raw)}
	}
}

// owned notes whose an object is.
func (c *cluster) owned(o kube.Object) {
	for _, owner := range o.Meta.OwnerReferences {
		if owner.Controller {
			c.owners[o.Meta.UID] = owner.UID
		}
	}
}

// root is the workload that an object belongs to, by its UID and its labels: the
// outermost that is known. It is nil for none.
func (c *cluster) root(uid, namespace string, labels map[string]string) *workload {
	if name := labels["serving.kserve.io/inferenceservice"]; name != "" {
		if w := c.workloads[id(namespace, "InferenceService", name)]; w != nil {
			return w
		}
	}
	if name := labels["notebook-name"]; name != "" {
		if w := c.workloads[id(namespace, "Notebook", name)]; w != nil {
			return w
		}
	}
	var outermost *workload
	for range 10 { // controllers of controllers
		if w := c.byUID[uid]; w != nil {
			outermost = w
		}
		if uid = c.owners[uid]; uid == "" {
			break
		}
	}
	return outermost
}

// pod adds what a pod runs to its workload.
func (c *cluster) pod(o kube.Object, platforms map[string]string) {
	c.owned(o)
	w := c.root(o.Meta.UID, o.Meta.Namespace, o.Meta.Labels)
	if w == nil {
		return
	}
	var p pod
	if err := json.Unmarshal(o.Raw, &p); err != nil {
		c.note(o, &schema.FieldError{Reason: "is not a Pod: " + err.Error()})
		return
	}
	if !p.counts() || p.Status.Phase != "Running" && w.kind != "Job" && w.kind != "CronJob" {
		return
	}
	for _, r := range p.containers(platforms) {
		w.ran[r] = true
	}
}

// revisions asks Argo CD and Flux, as far as they are there, which commit
// workloads were put there from.
func (c *cluster) revisions(ctx context.Context) error {
	found := map[string]*schema.AppliedRevision{}
	everywhere := &cluster{client: c.client} // their objects are in namespaces of their own
	if err := everywhere.each(ctx, applications, func(o kube.Object) error { c.note(o, deployed(o, found)); return nil }); err != nil && !forbidden(err) {
		return err
	}
	urls := map[string]string{}
	if err := everywhere.each(ctx, repositories, func(o kube.Object) error {
		urls[o.Meta.Namespace+"/"+o.Meta.Name] = repositoryURL(o)
		return nil
	}); err != nil && !forbidden(err) {
		return err
	}
	if err := everywhere.each(ctx, kustomizations, func(o kube.Object) error { c.note(o, applied(o, urls, found)); return nil }); err != nil && !forbidden(err) {
		return err
	}
	for id, rev := range found {
		if w := c.workloads[id]; w != nil {
			w.rev = rev
		}
	}
	return nil
}

// platforms are those of the nodes, by name; none where we may not ask.
func (c *cluster) platforms(ctx context.Context) (map[string]string, error) {
	found := map[string]string{}
	everywhere := &cluster{client: c.client}
	err := everywhere.each(ctx, nodes, func(o kube.Object) error { found[o.Meta.Name] = platform(o); return nil })
	if forbidden(err) {
		err = nil
	}
	return found, err
}

// forbidden says that the watcher's role does not let it read something that it
// can do without.
func forbidden(err error) bool {
	var status *kube.StatusError
	return errors.As(err, &status) && status.Code == 403
}
