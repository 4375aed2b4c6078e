package argo

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// taken is a snapshot of a claim.
type taken struct {
	uri     string
	at      time.Time
	deleted bool // with the VolumeSnapshot: its deletion policy is not to retain it
}

// snapshots finds those of the claims that steps of the run mounted. A cluster
// without snapshots, or one that may not be asked for them, has none.
func (s *source) snapshots(ctx context.Context, w *workflow) error {
	claims := w.claims()
	if len(claims) == 0 {
		return nil
	}
	w.taken = map[string][]taken{}
	for o, err := range s.client.List(ctx, kube.VolumeSnapshots, w.Metadata.Namespace) {
		if unavailable(err) {
			return nil
		}
		if err != nil {
			return err
		}
		v, err := kube.ParseVolumeSnapshot(o)
		if err != nil || !v.Ready || !slices.Contains(claims, v.Claim) {
			continue // not one of ours, or none yet; an odd one says nothing
		}
		uri, deleted, err := s.handle(ctx, v)
		if err != nil {
			return err
		}
		if uri == "" {
			uri = v.Name()
		}
		w.taken[v.Claim] = append(w.taken[v.Claim], taken{uri, v.Created, deleted})
	}
	for _, all := range w.taken {
		slices.SortFunc(all, func(a, b taken) int { return a.at.Compare(b.at) })
	}
	return nil
}

// handle is what a driver calls a snapshot, as a URI, and whether it goes with the
// object; "" where the cluster does not tell, or the content is another's.
func (s *source) handle(ctx context.Context, v *kube.VolumeSnapshot) (uri string, deleted bool, err error) {
	if v.Content == "" {
		return "", false, nil
	}
	o, err := s.client.Get(ctx, kube.VolumeSnapshotContents, "", v.Content)
	if unavailable(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	c, err := kube.ParseVolumeSnapshotContent(o)
	if err != nil || v.Bound(c) != nil {
		return "", false, nil
	}
	return c.URI(), c.URI() != "" && c.Policy == schema.PolicyDelete, nil
}

// unavailable says whether a type is not there, or not for us to read.
func unavailable(err error) bool {
	var status *kube.StatusError
	return errors.Is(err, kube.ErrNotFound) || errors.As(err, &status) && status.Code == http.StatusForbidden
}

// claims are the claims that steps of the run mounted.
func (w *workflow) claims() []string {
	var all []string
	for _, n := range w.finished() {
		for _, claim := range w.mounted(n) {
			if !slices.Contains(all, claim.name) {
				all = append(all, claim.name)
			}
		}
	}
	return all
}

// mounted is where a step mounted which claims.
type mounted struct{ path, name string }

func (w *workflow) mounted(n *node) []mounted {
	t := w.template(n)
	c := t.program()
	if c == nil {
		return nil
	}
	var all []mounted
	for _, m := range c.VolumeMounts {
		for _, v := range slices.Concat(t.Volumes, w.Spec.Volumes) {
			if v.Name == m.Name && v.Claim != nil && v.Claim.ClaimName != "" {
				all = append(all, mounted{m.MountPath, v.Claim.ClaimName})
			}
		}
	}
	return all
}

// left are the snapshots of a claim that show what a step left there: taken when
// it had ended, and before another step of the run that mounts the claim began.
func (w *workflow) left(n *node, claim string) []taken {
	var next time.Time
	for _, other := range w.finished() {
		mounts := slices.ContainsFunc(w.mounted(other), func(m mounted) bool { return m.name == claim })
		if mounts && other != n && !other.StartedAt.Before(n.FinishedAt) && (next.IsZero() || other.StartedAt.Before(next)) {
			next = other.StartedAt
		}
	}
	var all []taken
	for _, s := range w.taken[claim] {
		if !s.at.Before(n.FinishedAt) && (next.IsZero() || s.at.Before(next)) {
			all = append(all, s)
		}
	}
	return all
}
