package csi

import (
	"fmt"
	"strings"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// state is what is stated of a snapshot or of a claim: one of the two is set.
type state struct {
	snapshot *schema.Snapshot
	pods     []schema.Mount // that mount its claim now; they are stated once, and are no part of the state
	claim    *schema.Claim
	kept     string // digest of the state that was stated and stands
	of       string // of a snapshot, the name of its claim; of a claim, a short digest of its UID
}

func (s *state) deleted() bool {
	return s.snapshot != nil && s.snapshot.Volume.Deleted || s.claim != nil && s.claim.Deleted
}

// uri is the location of a snapshot.
func (s *state) uri() string {
	if s.snapshot == nil {
		return ""
	}
	return s.snapshot.Volume.URI
}

// digest is short, of what counts of the state. Messages of errors change from one
// attempt to the next: that there is one counts.
func (s *state) digest() string {
	if s.kept != "" {
		return s.kept
	}
	if s.claim != nil {
		return short(fmt.Sprintf("%q %q", s.claim.UID, s.claim.From))
	}
	v := s.snapshot.Volume
	return short(fmt.Sprintf("%q %t %d %d", []string{v.UID, v.URI, v.Claim, v.Class, v.Policy, v.Content, v.Handle, v.Mode, v.Group}, v.Error != "", v.Created.UnixNano(), s.snapshot.Bytes))
}

// statement makes the statement, which names the one before it.
func (s *state) statement(previous string) (schema.Statement, error) {
	var name, predicateType string
	var p any
	if s.claim != nil {
		c := *s.claim
		c.Previous = previous
		name, predicateType, p = "claim:"+c.Cluster+"/"+strings.TrimPrefix(c.Claim, claimScheme), schema.ClaimV1, c
	} else {
		v := *s.snapshot
		v.Previous = previous
		name, predicateType, p = schema.NameSnapshot+":"+v.Source+"#"+v.Volume.Name, schema.SnapshotV1, v
	}
	return describe(predicateType, name, p)
}

// describe states a predicate whose subject is what it describes.
func describe(predicateType, name string, p any) (schema.Statement, error) {
	raw, err := schema.Canonical(p)
	if err != nil {
		return schema.Statement{}, err
	}
	return schema.NewStatement(predicateType, p, schema.Descriptor{Name: name, Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(raw).Hex()}})
}

// gone is the state of what is not there any more.
func (s *source) gone(id string, known stated) *state {
	kind, rest, _ := strings.Cut(id, "/")
	namespace, name, _ := strings.Cut(rest, "/")
	if kind == claims.Kind {
		return &state{claim: &schema.Claim{Cluster: s.cluster, Claim: claimURI(namespace, name), Deleted: true}}
	}
	v := &schema.VolumeSnapshot{Name: name, URI: known.URI, Deleted: true}
	if known.Claim != "" {
		v.Claim = claimURI(namespace, known.Claim)
	}
	return &state{snapshot: &schema.Snapshot{Source: s.of(namespace, known.Claim), Volume: v}}
}

// of is the source of snapshots of a claim, as their names have it.
func (s *source) of(namespace, claim string) string {
	return strings.TrimSuffix(Name+"://"+s.cluster+"/"+namespace+"/"+claim, "/")
}

// claimScheme begins the location of what is on a volume, as pipelines name it
// too (ingest/argo).
const claimScheme = "pvc://"

func claimURI(namespace, name string) string { return claimScheme + namespace + "/" + name }

// maxMessage is how much of an error is recorded, in bytes.
const maxMessage = 512

// volume is the state of a snapshot; nil of one that is neither there nor failed.
func (s *source) volume(v *kube.VolumeSnapshot, c *kube.VolumeSnapshotContent) *state {
	if !v.Ready && !v.Failed {
		return nil
	}
	m := &v.Object.Meta
	out := &schema.VolumeSnapshot{Name: m.Name, UID: m.UID, Class: v.Class, Group: v.Group, Labels: labels(m)}
	p := &schema.Snapshot{Source: s.of(m.Namespace, v.Claim), Bytes: v.Size, Volume: out, Run: m.Annotations[runAnnotation]}
	if v.Claim != "" {
		out.Claim = claimURI(m.Namespace, v.Claim)
	}
	if v.Failed {
		out.Error = message(v.Error)
	}
	if v.Ready {
		out.URI, out.Created = v.Name(), v.Created
	}
	if c != nil {
		out.Content, out.Handle, out.Mode = c.Object.Meta.Name, c.Volume, c.Mode
		if c.Policy == schema.PolicyRetain || c.Policy == schema.PolicyDelete {
			out.Policy = c.Policy
		}
		if out.Class == "" {
			out.Class = c.Class
		}
		if c.Size > 0 {
			p.Bytes = c.Size
		}
		if uri := c.URI(); v.Ready && uri != "" {
			out.URI = uri
		}
	}
	return &state{snapshot: p, of: v.Claim}
}

// message is an error as it is recorded.
func message(text string) string {
	text = strings.ToValidUTF8(text, "\ufffd")
	switch {
	case text == "":
		return "no reason is given"
	case ingest.SecretValue(text) != "":
		return "(withheld)"
	case len(text) > maxMessage:
		return strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return text
}

// labels are those of programs that make snapshots, which say what of.
func labels(m *kube.Meta) map[string]string {
	kept := map[string]string{}
	for _, all := range []map[string]string{m.Annotations, m.Labels} {
		for k, v := range all {
			ours := strings.HasPrefix(k, "retrace.dev/") || strings.HasPrefix(k, "velero.io/") || strings.HasPrefix(k, "kubeflow-kale.org/")
			if ours && len(v) <= maxMessage && ingest.SecretValue(v) == "" && ingest.SecretName(k, v) == "" {
				kept[k] = v
			}
		}
	}
	if len(kept) == 0 {
		return nil
	}
	return kept
}
