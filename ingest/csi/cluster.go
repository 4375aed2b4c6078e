package csi

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

var (
	claims = kube.Type{Version: "v1", Plural: "persistentvolumeclaims", Kind: "PersistentVolumeClaim"}
	pods   = kube.Type{Version: "v1", Plural: "pods", Kind: "Pod"}
)

// rokOrigin is the annotation of a claim that Rok made from a snapshot of its own:
// the value says which, in a form of its own that is taken as it is.
const rokOrigin = "rok/origin"

// cluster is what one read found.
type cluster struct {
	snapshots []*kube.VolumeSnapshot
	contents  map[string]*kube.VolumeSnapshotContent // by name
	claims    []*claim
	mounts    map[string][]*pod // of a claim, by NAMESPACE/NAME
	odd       map[string]ingest.Skip
}

// claim is what is read of a PersistentVolumeClaim.
type claim struct {
	object kube.Object
	from   origin
	rok    string
}

// origin is a dataSource, or its newer twin.
type origin struct {
	Group     string `json:"apiGroup"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// pod is what is read of a Pod that mounts claims.
type pod struct {
	meta   kube.Meta
	claims map[string]bool // that it mounts, and whether only to read
	ended  bool
	end    time.Time // when it ended; zero where it does not say
	active bool      // it may be writing
	run    string    // of the pipeline's step that it is the pod of
}

// read lists everything. Types that the cluster does not have are passed over, and
// so are contents that we may not read.
func (s *source) read(ctx context.Context) (*cluster, error) {
	c := &cluster{contents: map[string]*kube.VolumeSnapshotContent{}, mounts: map[string][]*pod{}, odd: map[string]ingest.Skip{}}
	if err := s.each(ctx, kube.VolumeSnapshots, s.namespace, c, func(o kube.Object) error {
		v, err := kube.ParseVolumeSnapshot(o)
		if err == nil {
			c.snapshots = append(c.snapshots, v)
		}
		return err
	}); err != nil {
		return nil, err
	}
	if err := s.each(ctx, kube.VolumeSnapshotContents, "", c, func(o kube.Object) error {
		v, err := kube.ParseVolumeSnapshotContent(o)
		if err == nil {
			c.contents[o.Meta.Name] = v
		}
		return err
	}); err != nil && !forbidden(err) {
		return nil, err
	}
	if err := s.each(ctx, claims, s.namespace, c, func(o kube.Object) error {
		v, err := parseClaim(o)
		if err == nil {
			c.claims = append(c.claims, v)
		}
		return err
	}); err != nil {
		return nil, err
	}
	return c, s.each(ctx, pods, s.namespace, c, func(o kube.Object) error {
		p, err := parsePod(o)
		if err == nil {
			for name := range p.claims {
				id := o.Meta.Namespace + "/" + name
				c.mounts[id] = append(c.mounts[id], p)
			}
		}
		return err
	})
}

// each calls fn for every object of a type. One that it refuses is odd.
func (s *source) each(ctx context.Context, t kube.Type, namespace string, c *cluster, fn func(kube.Object) error) error {
	for o, err := range s.client.List(ctx, t, namespace) {
		if errors.Is(err, kube.ErrNotFound) {
			return nil // its definition is not installed
		}
		if err != nil {
			return err
		}
		if err := fn(o); err != nil {
			c.note(o, err)
		}
	}
	return ctx.Err()
}

func (c *cluster) note(o kube.Object, err error) {
	name := strings.TrimPrefix(o.Type.String()+" "+o.Meta.Namespace+"/"+o.Meta.Name, "/")
	c.odd[name] = ingest.Skip{Object: name, Reason: err, Digest: schema.BytesKey(o.Raw)}
}

// forbidden says that the watcher's role does not let it read something that it
// can do without.
func forbidden(err error) bool {
	var status *kube.StatusError
	return errors.As(err, &status) && status.Code == http.StatusForbidden
}

func parseClaim(o kube.Object) (*claim, error) {
	var v struct {
		Spec struct {
			Source    *origin `json:"dataSource"`
			SourceRef *origin `json:"dataSourceRef"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(o.Raw, &v); err != nil {
		return nil, &schema.FieldError{Reason: "is not a PersistentVolumeClaim: " + err.Error()}
	}
	c := &claim{object: o}
	if from := cmp.Or(v.Spec.SourceRef, v.Spec.Source); from != nil {
		c.from = *from
	}
	if uri := strings.TrimSpace(o.Meta.Annotations[rokOrigin]); uri != "" {
		if len(uri) > 2048 || strings.ContainsFunc(uri, unicode.IsControl) || strings.ToValidUTF8(uri, "") != uri {
			return nil, &schema.FieldError{Field: "metadata.annotations." + rokOrigin, Reason: "is no location"}
		}
		c.rok = ingest.WithoutCredentials(uri)
	}
	return c, nil
}

func parsePod(o kube.Object) (*pod, error) {
	var v struct {
		Metadata struct {
			DeletionTimestamp string `json:"deletionTimestamp"`
		} `json:"metadata"`
		Spec struct {
			Volumes []struct {
				Claim *struct {
					Name     string `json:"claimName"`
					ReadOnly bool   `json:"readOnly"`
				} `json:"persistentVolumeClaim"`
			} `json:"volumes"`
		} `json:"spec"`
		Status struct {
			Phase      string            `json:"phase"`
			Containers []containerStatus `json:"containerStatuses"`
		} `json:"status"`
	}
	if err := json.Unmarshal(o.Raw, &v); err != nil {
		return nil, &schema.FieldError{Reason: "is not a Pod: " + err.Error()}
	}
	p := &pod{meta: o.Meta, claims: map[string]bool{}, run: stepOf(&o.Meta)}
	for _, vol := range v.Spec.Volumes {
		if c := vol.Claim; c != nil && c.Name != "" {
			only, twice := p.claims[c.Name]
			p.claims[c.Name] = c.ReadOnly && (!twice || only)
		}
	}
	p.ended = v.Status.Phase == "Succeeded" || v.Status.Phase == "Failed"
	p.active = !p.ended && v.Status.Phase != "Pending"
	for _, c := range v.Status.Containers {
		if end := c.State.Terminated; end != nil && end.FinishedAt.After(p.end) {
			p.end = end.FinishedAt
		}
	}
	return p, nil
}

type containerStatus struct {
	State struct {
		Terminated *struct {
			FinishedAt time.Time `json:"finishedAt"`
		} `json:"terminated"`
	} `json:"state"`
}

// stepOf is the run ID of the step that a pod belongs to, as the kinds that watch
// pipelines state it; "" for none.
func stepOf(m *kube.Meta) string {
	workflow, node := m.Annotations["workflows.argoproj.io/workflow-uid"], m.Annotations["workflows.argoproj.io/node-id"]
	for _, o := range m.OwnerReferences {
		switch {
		case o.Kind == "Workflow" && strings.HasPrefix(o.APIVersion, "argoproj.io/") && workflow == "":
			workflow = o.UID
		case o.Kind == "TaskRun" && strings.HasPrefix(o.APIVersion, "tekton.dev/"):
			return o.UID
		}
	}
	if workflow == "" || node == "" {
		return ""
	}
	return workflow + "/" + node
}

// states is what there is to state, by id. What an object says that is not so is
// odd.
func (s *source) states(c *cluster, at *position) map[string]*state {
	all := map[string]*state{}
	located := map[string]string{} // snapshots by NAMESPACE/NAME
	for _, v := range c.snapshots {
		m := &v.Object.Meta
		content := c.contents[v.Content]
		if content != nil {
			if err := v.Bound(content); err != nil {
				// Every listing has it: it is said once.
				c.note(v.Object, &schema.FieldError{Field: "status.boundVolumeSnapshotContentName", Reason: err.Error()})
				content = nil
			}
		}
		st := s.volume(v, content)
		if st == nil {
			continue
		}
		st.pods = c.pods(m.Namespace, v.Claim)
		all[kube.VolumeSnapshots.Kind+"/"+m.Namespace+"/"+m.Name] = st
		located[m.Namespace+"/"+m.Name] = st.uri()
	}
	for _, v := range c.claims {
		m := &v.object.Meta
		id := claims.Kind + "/" + m.Namespace + "/" + m.Name
		from, sure := v.origins(located)
		if len(from) == 0 {
			continue
		}
		st := &state{claim: &schema.Claim{Cluster: s.cluster, Claim: claimURI(m.Namespace, m.Name), UID: m.UID, From: from}, of: short(m.UID)}
		all[id] = st
		// What it was made from stays so when the snapshot is gone.
		if known, ok := at.Known[id]; ok && known.Claim == st.of && !sure {
			st.kept = known.State
		}
	}
	return all
}

// pods are those that mount a claim, the oldest names first.
func (c *cluster) pods(namespace, claim string) []schema.Mount {
	var all []schema.Mount
	for _, p := range c.mounts[namespace+"/"+claim] {
		all = append(all, schema.Mount{Pod: p.meta.Name, UID: p.meta.UID, Run: p.run, Only: p.claims[claim]})
	}
	slices.SortFunc(all, func(a, b schema.Mount) int { return strings.Compare(a.Pod, b.Pod) })
	return all[:min(len(all), schema.MaxMounts)]
}

// origins are what a claim was made from, and whether all of them are known by
// where they are.
func (c *claim) origins(located map[string]string) (from []schema.Descriptor, sure bool) {
	sure = true
	namespace := cmp.Or(c.from.Namespace, c.object.Meta.Namespace)
	switch {
	case c.from.Kind == kube.VolumeSnapshots.Kind && c.from.Group == kube.VolumeSnapshots.Group:
		uri := located[namespace+"/"+c.from.Name]
		if uri == "" {
			uri, sure = "volumesnapshot://"+namespace+"/"+c.from.Name, false
		}
		from = append(from, schema.Descriptor{Name: c.from.Name, URI: uri, Annotations: map[string]any{schema.AnnotationKind: "snapshot"}})
	case c.from.Kind == claims.Kind && c.from.Group == "":
		from = append(from, schema.Descriptor{Name: c.from.Name, URI: claimURI(namespace, c.from.Name)})
	}
	if c.rok != "" {
		from = append(from, schema.Descriptor{Name: rokOrigin, URI: c.rok, Annotations: map[string]any{schema.AnnotationKind: "snapshot"}})
	}
	return from, sure
}
