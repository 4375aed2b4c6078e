package kubernetes

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// Types of workloads.
var workloadTypes = []kube.Type{
	{Group: "apps", Version: "v1", Plural: "deployments", Kind: "Deployment"},
	{Group: "apps", Version: "v1", Plural: "statefulsets", Kind: "StatefulSet"},
	{Group: "apps", Version: "v1", Plural: "daemonsets", Kind: "DaemonSet"},
	{Group: "batch", Version: "v1", Plural: "jobs", Kind: "Job"},
	{Group: "batch", Version: "v1", Plural: "cronjobs", Kind: "CronJob"},
	{Group: "serving.kserve.io", Version: "v1beta1", Plural: "inferenceservices", Kind: "InferenceService"},
	{Group: "kubeflow.org", Version: "v1", Plural: "notebooks", Kind: "Notebook"},
}

// Types that say something about workloads.
var (
	replicaSets    = kube.Type{Group: "apps", Version: "v1", Plural: "replicasets", Kind: "ReplicaSet"}
	pods           = kube.Type{Version: "v1", Plural: "pods", Kind: "Pod"}
	nodes          = kube.Type{Version: "v1", Plural: "nodes", Kind: "Node"}
	applications   = kube.Type{Group: "argoproj.io", Version: "v1alpha1", Plural: "applications", Kind: "Application"}
	kustomizations = kube.Type{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Plural: "kustomizations", Kind: "Kustomization"}
	repositories   = kube.Type{Group: "source.toolkit.fluxcd.io", Version: "v1", Plural: "gitrepositories", Kind: "GitRepository"}
)

// modelAnnotation names the model that a workload serves, where no field of its
// type does: a location, or a URI that was recorded.
const modelAnnotation = "retrace.dev/model"

// revisionLabel is the commit that somebody says a workload is of
// (OCI image-spec, annotations.md).
const revisionLabel = "org.opencontainers.image.revision"

// commitPattern is a whole object ID of Git.
var commitPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// workload is what was read of one.
type workload struct {
	id      string // NAMESPACE/KIND/NAME
	kind    string
	asked   map[string]string // image by container, as the template asks for it
	ran     map[schema.RunningContainer]bool
	models  []string // locations
	rev     *schema.AppliedRevision
	changed *schema.Change
	uid     string
	object  jsontext.Value
}

func id(namespace, kind, name string) string { return namespace + "/" + kind + "/" + name }

type podSpec struct {
	Containers     []askedContainer `json:"containers"`
	InitContainers []askedContainer `json:"initContainers"`
	NodeName       string           `json:"nodeName"`
}

type askedContainer struct {
	Name  string `json:"name"`
	Image string `json:"image"`
}

// all are the containers of either kind: names are of one space.
func (s podSpec) all() []askedContainer { return slices.Concat(s.InitContainers, s.Containers) }

// template is what workloads have in common.
type template struct {
	Metadata struct {
		ManagedFields []struct {
			Manager     string    `json:"manager"`
			Time        time.Time `json:"time"`
			Subresource string    `json:"subresource"`
		} `json:"managedFields"`
	} `json:"metadata"`
	Spec struct {
		Template struct {
			Spec podSpec `json:"spec"`
		} `json:"template"`
		JobTemplate struct {
			Spec struct {
				Template struct {
					Spec podSpec `json:"spec"`
				} `json:"template"`
			} `json:"spec"`
		} `json:"jobTemplate"`
	} `json:"spec"`
}

// newWorkload reads a workload of any type.
func newWorkload(o kube.Object) (*workload, error) {
	var t template
	if err := json.Unmarshal(o.Raw, &t); err != nil {
		return nil, &schema.FieldError{Reason: fmt.Sprintf("is not a %s: %v", o.Type.Kind, err)}
	}
	w := &workload{id: id(o.Meta.Namespace, o.Type.Kind, o.Meta.Name), kind: o.Type.Kind, uid: o.Meta.UID, object: o.Raw, asked: map[string]string{}, ran: map[schema.RunningContainer]bool{}}
	for _, spec := range []podSpec{t.Spec.Template.Spec, t.Spec.JobTemplate.Spec.Template.Spec} {
		for _, c := range spec.all() {
			if c.Name != "" && c.Image != "" {
				w.asked[c.Name] = c.Image
			}
		}
	}
	for _, f := range t.Metadata.ManagedFields {
		if f.Subresource == "" && f.Manager != "" && (w.changed == nil || f.Time.After(w.changed.At)) {
			w.changed = &schema.Change{By: f.Manager, At: f.Time.UTC()}
		}
	}
	if w.changed != nil {
		w.changed.User, w.changed.Cause = remark(o, requesterAnnotation), remark(o, causeAnnotation)
	}
	if uri := o.Meta.Annotations[modelAnnotation]; strings.Contains(uri, "://") {
		w.models = append(w.models, normal(uri))
	}
	for _, all := range []map[string]string{o.Meta.Annotations, o.Meta.Labels} {
		if commit := all[revisionLabel]; w.rev == nil && commitPattern.MatchString(commit) {
			w.rev = &schema.AppliedRevision{Commit: commit, By: "label " + revisionLabel, Claimed: true}
		}
	}
	if o.Type.Kind == "InferenceService" {
		models, err := served(o.Raw)
		if err != nil {
			return nil, err
		}
		w.models = append(w.models, models...)
	}
	slices.Sort(w.models)
	w.models = slices.Compact(w.models)
	return w, nil
}

// Annotations that say who changed an object, and why.
const (
	causeAnnotation     = "kubernetes.io/change-cause"
	requesterAnnotation = "openshift.io/requester"
)

// maxRemark is how much of such an annotation is recorded.
const maxRemark = 512 // bytes

// remark is an annotation as people write it; nothing where a secret stands in it.
func remark(o kube.Object, name string) string {
	text := strings.ToValidUTF8(o.Meta.Annotations[name], "\ufffd")
	if ingest.SecretValue(text) != "" {
		return ""
	}
	for len(text) > maxRemark {
		text = strings.ToValidUTF8(text[:maxRemark-len("…")], "") + "…"
	}
	return text
}

// served are the locations of the models of an InferenceService: storageUri
// stands below the framework, below model, or in the list storageUris.
func served(raw jsontext.Value) ([]string, error) {
	var service struct {
		Spec map[string]map[string]jsontext.Value `json:"spec"`
	}
	if err := json.Unmarshal(raw, &service); err != nil {
		return nil, &schema.FieldError{Field: "spec", Reason: "is not that of an InferenceService: " + err.Error()}
	}
	var found []string
	for _, part := range slices.Sorted(maps.Keys(service.Spec)) {
		for _, v := range service.Spec[part] {
			var one struct {
				StorageURI string `json:"storageUri"`
			}
			var list []struct {
				URI string `json:"uri"`
			}
			if json.Unmarshal(v, &one) == nil && one.StorageURI != "" {
				found = append(found, normal(one.StorageURI))
			}
			if json.Unmarshal(v, &list) == nil {
				for _, l := range list {
					if l.URI != "" {
						found = append(found, normal(l.URI))
					}
				}
			}
		}
	}
	return found, nil
}

// normal writes one location in one way.
func normal(uri string) string { return strings.TrimRight(uri, "/") }

// pod is what is read of a Pod.
type pod struct {
	Metadata struct {
		DeletionTimestamp string `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec   podSpec `json:"spec"`
	Status struct {
		Phase          string            `json:"phase"`
		Containers     []containerStatus `json:"containerStatuses"`
		InitContainers []containerStatus `json:"initContainerStatuses"`
	} `json:"status"`
}

type containerStatus struct {
	Name    string `json:"name"`
	Image   string `json:"image"`
	ImageID string `json:"imageID"`
}

// counts says whether the pod's images are what its workload runs, or ran.
func (p *pod) counts() bool {
	return p.Metadata.DeletionTimestamp == "" && (p.Status.Phase == "Running" || p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed")
}

// containers are the images that a pod ran.
func (p *pod) containers(platforms map[string]string) []schema.RunningContainer {
	asked := map[string]string{}
	for _, c := range p.Spec.all() {
		asked[c.Name] = c.Image
	}
	var out []schema.RunningContainer
	for _, c := range slices.Concat(p.Status.InitContainers, p.Status.Containers) {
		r := schema.RunningContainer{Name: c.Name, Image: asked[c.Name], Platform: platforms[p.Spec.NodeName]}
		if r.Image == "" {
			r.Image = c.Image
		}
		if d, ok := schema.ImageDescriptor(c.Image, c.ImageID); ok {
			r.Digest = string(d.Key())
		}
		if r.Name != "" && r.Image != "" && r.Digest != "" {
			out = append(out, r)
		}
	}
	return out
}

// platform is os/arch of a node.
func platform(o kube.Object) string {
	os, arch := o.Meta.Labels["kubernetes.io/os"], o.Meta.Labels["kubernetes.io/arch"]
	if os == "" || arch == "" {
		return ""
	}
	return os + "/" + arch
}
