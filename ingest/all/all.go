// Package all lists every kind of source that retrace has. A new kind is one
// line here.
package all

import (
	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/argo"
	"github.com/retrace-ledger/retrace/ingest/csi"
	"github.com/retrace-ledger/retrace/ingest/git"
	"github.com/retrace-ledger/retrace/ingest/kubernetes"
	"github.com/retrace-ledger/retrace/ingest/mlflow"
	"github.com/retrace-ledger/retrace/ingest/oci"
	"github.com/retrace-ledger/retrace/ingest/s3"
	"github.com/retrace-ledger/retrace/ingest/snapshot"
	"github.com/retrace-ledger/retrace/ingest/tekton"
)

// Kinds are all kinds, in the order in which they are listed to people.
func Kinds() []ingest.Kind {
	return []ingest.Kind{
		git.Kind(),
		oci.Kind(),
		snapshot.Kind(),
		argo.Kind(),
		tekton.Kind(),
		s3.Kind(),
		kubernetes.Kind(),
		mlflow.Kind(),
		csi.Kind(),
	}
}
