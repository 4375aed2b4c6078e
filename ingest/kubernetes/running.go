package kubernetes

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// Running is a workload as a cluster shows it now.
type Running struct {
	schema.Deployment                // without Previous: what was stated of it before
	Object            jsontext.Value // as the API server gives it
}

// Read lists the workloads of a namespace, or of a whole cluster if it is empty, by
// name, as a source at the same place would state them, and what is odd there and
// could not be read. cluster names the cluster.
func Read(ctx context.Context, settings kube.Settings, cluster, namespace string) ([]Running, []ingest.Skip, error) {
	client, err := kube.NewClient(settings)
	if err != nil {
		return nil, nil, err
	}
	now, err := read(ctx, client, namespace)
	if err != nil {
		return nil, nil, err
	}
	var out []Running
	for _, id := range slices.Sorted(maps.Keys(now.workloads)) {
		w := now.workloads[id]
		if now.root(w.uid, strings.SplitN(id, "/", 2)[0], nil) == w { // else it is of another one
			out = append(out, Running{w.deployment(cluster, id), w.object})
		}
	}
	var odd []ingest.Skip
	for _, object := range slices.Sorted(maps.Keys(now.odd)) {
		odd = append(odd, now.odd[object])
	}
	return out, odd, nil
}

// deployment is what is stated of the workload.
func (w *workload) deployment(cluster, id string) schema.Deployment {
	p := schema.Deployment{Workload: cluster + "/" + id, UID: w.uid, Containers: w.containers(), Revision: w.rev, Changed: w.changed}
	for _, uri := range w.models {
		p.Models = append(p.Models, schema.Descriptor{Name: uri[strings.LastIndexByte(uri, '/')+1:], URI: uri})
	}
	return p
}
