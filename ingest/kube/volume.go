package kube

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/retrace-ledger/retrace/schema"
)

// Types of snapshots of volumes (kubernetes-csi/external-snapshotter). Their
// definitions are not built into Kubernetes, and can be missing.
var (
	VolumeSnapshots        = Type{Group: "snapshot.storage.k8s.io", Version: "v1", Plural: "volumesnapshots", Kind: "VolumeSnapshot"}
	VolumeSnapshotContents = Type{Group: "snapshot.storage.k8s.io", Version: "v1", Plural: "volumesnapshotcontents", Kind: "VolumeSnapshotContent"}
	VolumeSnapshotClasses  = Type{Group: "snapshot.storage.k8s.io", Version: "v1", Plural: "volumesnapshotclasses", Kind: "VolumeSnapshotClass"}
)

// VolumeSnapshot is what is read of one.
type VolumeSnapshot struct {
	Object  Object
	Claim   string // of its namespace, that it was taken of; "" of one that was there before its object
	Class   string
	Content string // name of the VolumeSnapshotContent that it says it is bound to
	Created time.Time
	Ready   bool
	Size    int64  // bytes that a volume needs to take it; 0 where not told
	Failed  bool   // it has an error
	Error   string // what that says
	Group   string // VolumeGroupSnapshot that it is of
}

// ParseVolumeSnapshot reads a VolumeSnapshot. The error is a *schema.FieldError.
func ParseVolumeSnapshot(o Object) (*VolumeSnapshot, error) {
	var v struct {
		Spec struct {
			Source struct {
				Claim string `json:"persistentVolumeClaimName"`
			} `json:"source"`
			Class string `json:"volumeSnapshotClassName"`
		} `json:"spec"`
		Status struct {
			Content string    `json:"boundVolumeSnapshotContentName"`
			Created time.Time `json:"creationTime"`
			Ready   bool      `json:"readyToUse"`
			Size    string    `json:"restoreSize"`
			Error   *struct {
				Message string `json:"message"`
			} `json:"error"`
			Group string `json:"volumeGroupSnapshotName"`
		} `json:"status"`
	}
	if err := json.Unmarshal(o.Raw, &v); err != nil {
		return nil, &schema.FieldError{Reason: "is not a VolumeSnapshot: " + err.Error()}
	}
	s := &VolumeSnapshot{
		Object: o, Claim: v.Spec.Source.Claim, Class: v.Spec.Class, Content: v.Status.Content,
		Created: v.Status.Created.UTC(), Ready: v.Status.Ready, Group: v.Status.Group,
	}
	if v.Status.Error != nil {
		s.Failed, s.Error = true, v.Status.Error.Message
	}
	if v.Status.Size != "" {
		q, err := resource.ParseQuantity(v.Status.Size)
		if err != nil {
			return nil, &schema.FieldError{Field: "status.restoreSize", Reason: "is no quantity"}
		}
		s.Size = max(q.Value(), 0)
	}
	if s.Ready && s.Created.IsZero() {
		return nil, &schema.FieldError{Field: "status.creationTime", Reason: "missing; a snapshot that is ready was taken at a time"}
	}
	return s, nil
}

// Name is where the object is, without the driver's handle:
// volumesnapshot://NAMESPACE/NAME#UID.
func (s *VolumeSnapshot) Name() string {
	return "volumesnapshot://" + s.Object.Meta.Namespace + "/" + s.Object.Meta.Name + "#" + s.Object.Meta.UID
}

// VolumeSnapshotContent is what is read of one.
type VolumeSnapshotContent struct {
	Object    Object
	Namespace string // of the VolumeSnapshot that it is bound to
	Snapshot  string // its name
	UID       string // its UID; "" before it is bound
	Driver    string
	Class     string
	Policy    string // Retain or Delete
	Volume    string // handle of the volume that it was taken of, in the words of the driver
	Handle    string // of the snapshot, in the words of the driver
	Mode      string // Filesystem or Block
	Size      int64  // bytes
}

// ParseVolumeSnapshotContent reads a VolumeSnapshotContent. The error is a
// *schema.FieldError.
func ParseVolumeSnapshotContent(o Object) (*VolumeSnapshotContent, error) {
	var v struct {
		Spec struct {
			Ref struct {
				Namespace string `json:"namespace"`
				Name      string `json:"name"`
				UID       string `json:"uid"`
			} `json:"volumeSnapshotRef"`
			Policy string `json:"deletionPolicy"`
			Driver string `json:"driver"`
			Class  string `json:"volumeSnapshotClassName"`
			Source struct {
				Volume string `json:"volumeHandle"`
			} `json:"source"`
			Mode string `json:"sourceVolumeMode"`
		} `json:"spec"`
		Status struct {
			Handle string `json:"snapshotHandle"`
			Size   int64  `json:"restoreSize"`
		} `json:"status"`
	}
	if err := json.Unmarshal(o.Raw, &v); err != nil {
		return nil, &schema.FieldError{Reason: "is not a VolumeSnapshotContent: " + err.Error()}
	}
	return &VolumeSnapshotContent{
		Object: o, Namespace: v.Spec.Ref.Namespace, Snapshot: v.Spec.Ref.Name, UID: v.Spec.Ref.UID, Driver: v.Spec.Driver, Class: v.Spec.Class,
		Policy: v.Spec.Policy, Volume: v.Spec.Source.Volume, Handle: v.Status.Handle, Mode: v.Spec.Mode, Size: max(v.Status.Size, 0),
	}, nil
}

// URI is csi://DRIVER/HANDLE, which identifies the snapshot; "" where the driver
// has not given it a handle.
func (c *VolumeSnapshotContent) URI() string {
	if c.Driver == "" || c.Handle == "" {
		return ""
	}
	return "csi://" + c.Driver + "/" + c.Handle
}

// errUnbound is why a snapshot does not speak for a content that does not name it.
var errUnbound = errors.New("does not name it back")

// Bound checks that a snapshot and a content name each other: anybody who may
// create a VolumeSnapshot can have it name the content of somebody else's.
func (s *VolumeSnapshot) Bound(c *VolumeSnapshotContent) error {
	m := &s.Object.Meta
	if s.Content != c.Object.Meta.Name || c.Namespace != m.Namespace || c.Snapshot != m.Name || c.UID == "" || c.UID != m.UID {
		return fmt.Errorf("the VolumeSnapshot %s/%s says that it is bound to the content %s, which %w (it names %s/%s)", m.Namespace, m.Name, s.Content, errUnbound, c.Namespace, c.Snapshot)
	}
	return nil
}
