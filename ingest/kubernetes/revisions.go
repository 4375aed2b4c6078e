package kubernetes

import (
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// application is what is read of an Application of Argo CD.
type application struct {
	Status struct {
		History []struct {
			Revision string `json:"revision"`
			Source   struct {
				RepoURL string `json:"repoURL"`
			} `json:"source"`
		} `json:"history"`
		Operation struct {
			Phase  string `json:"phase"`
			Result struct {
				Revision string `json:"revision"`
				Source   struct {
					RepoURL string `json:"repoURL"`
				} `json:"source"`
			} `json:"syncResult"`
		} `json:"operationState"`
		Resources []struct {
			Kind      string `json:"kind"`
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"resources"`
	} `json:"status"`
}

// deployed says which workloads Argo CD put there, and from which commit. What
// status.sync says is what was compared with, which need not run; what was
// deployed last is the end of the history, or the last sync that succeeded.
func deployed(o kube.Object, found map[string]*schema.AppliedRevision) error {
	var a application
	if err := json.Unmarshal(o.Raw, &a); err != nil {
		return &schema.FieldError{Reason: "is not an Application of Argo CD: " + err.Error()}
	}
	revision, repository := "", ""
	if n := len(a.Status.History); n > 0 {
		revision, repository = a.Status.History[n-1].Revision, a.Status.History[n-1].Source.RepoURL
	} else if a.Status.Operation.Phase == "Succeeded" {
		revision, repository = a.Status.Operation.Result.Revision, a.Status.Operation.Result.Source.RepoURL
	}
	if !commitPattern.MatchString(revision) {
		return nil // several sources, a chart, an image
	}
	for _, r := range a.Status.Resources {
		found[id(r.Namespace, r.Kind, r.Name)] = &schema.AppliedRevision{
			Commit: revision, Repository: ingest.WithoutCredentials(repository), By: "argocd:" + o.Meta.Namespace + "/" + o.Meta.Name,
		}
	}
	return nil
}

// kustomization is what is read of a Kustomization of Flux.
type kustomization struct {
	Spec struct {
		SourceRef struct {
			Kind      string `json:"kind"`
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"sourceRef"`
	} `json:"spec"`
	Status struct {
		LastAppliedRevision string `json:"lastAppliedRevision"`
		Inventory           struct {
			Entries []struct {
				ID string `json:"id"`
			} `json:"entries"`
		} `json:"inventory"`
	} `json:"status"`
}

// applied says which workloads Flux put there, and from which commit. urls are
// those of its Git repositories, by namespace and name.
func applied(o kube.Object, urls map[string]string, found map[string]*schema.AppliedRevision) error {
	var k kustomization
	if err := json.Unmarshal(o.Raw, &k); err != nil {
		return &schema.FieldError{Reason: "is not a Kustomization of Flux: " + err.Error()}
	}
	revision := k.Status.LastAppliedRevision
	commit, ok := strings.CutPrefix(revision[strings.LastIndexByte(revision, '@')+1:], "sha1:")
	if !ok || !commitPattern.MatchString(commit) {
		return nil // an artifact of a registry, or nothing yet
	}
	namespace := k.Spec.SourceRef.Namespace
	if namespace == "" {
		namespace = o.Meta.Namespace
	}
	for _, e := range k.Status.Inventory.Entries {
		parts := strings.Split(e.ID, "_") // namespace, name, group, kind
		if len(parts) != 4 {
			continue
		}
		found[id(parts[0], parts[3], parts[1])] = &schema.AppliedRevision{
			Commit: commit, Repository: urls[namespace+"/"+k.Spec.SourceRef.Name], By: "flux:" + o.Meta.Namespace + "/" + o.Meta.Name,
		}
	}
	return nil
}

// repositoryURL is where a GitRepository of Flux is.
func repositoryURL(o kube.Object) string {
	var r struct {
		Spec struct {
			URL string `json:"url"`
		} `json:"spec"`
	}
	if json.Unmarshal(o.Raw, &r) != nil {
		return ""
	}
	return ingest.WithoutCredentials(r.Spec.URL)
}
