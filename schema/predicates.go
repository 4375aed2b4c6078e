package schema

import (
	"strconv"
	"strings"
	"time"
)

// predicateBase begins the type of each predicate that retrace defines.
const predicateBase = "https://github.com/retrace-ledger/retrace/predicates/"

// Predicate types that retrace defines (DESIGN 12.3). Their JSON Schemas are
// in schema/json.
const (
	GenesisV1      = predicateBase + "genesis/v1"
	TrustV1        = predicateBase + "trust/v1"
	ConfigV1       = predicateBase + "config/v1"
	CoverageV1     = predicateBase + "coverage/v1"
	CommitV1       = predicateBase + "commit/v1"
	PinsV1         = predicateBase + "pins/v1"
	RefV1          = predicateBase + "ref/v1"
	ImageV1        = predicateBase + "image/v1"
	SignatureV1    = predicateBase + "signature/v1"
	TagV1          = predicateBase + "tag/v1"
	SnapshotV1     = predicateBase + "snapshot/v1"
	ClaimV1        = predicateBase + "claim/v1"
	TakingV1       = predicateBase + "taking/v1"
	ModelV1        = predicateBase + "model/v1"
	DeploymentV1   = predicateBase + "deployment/v1"
	AttestationV1  = predicateBase + "attestation/v1"
	ReleaseV1      = predicateBase + "release/v1"
	RetractionV1   = predicateBase + "retraction/v1"
	ErasureV1      = predicateBase + "erasure/v1"
	RestoreV1      = predicateBase + "restore/v1"
	ReproductionV1 = predicateBase + "reproduction/v1"
)

// Genesis is entry 0 of every ledger: which log this is and by which keys it
// speaks. The subject is the log key.
type Genesis struct {
	Format      int    `json:"format"`      // of bytes stored and signed; 1
	Origin      string `json:"origin"`      // first line of every checkpoint
	LogKey      string `json:"logKey"`      // vkey of the log (C2SP signed-note)
	ObserverKey string `json:"observerKey"` // PEM of the key that signs what retrace observes
}

func (g *Genesis) check() error {
	switch {
	case g.Format != 1:
		return fieldErrorf("format", "%d is not a format this program knows; it reads 1", g.Format)
	case g.Origin == "":
		return fieldErrorf("origin", "missing")
	case g.LogKey == "":
		return fieldErrorf("logKey", "missing")
	case g.ObserverKey == "":
		return fieldErrorf("observerKey", "missing")
	}
	return nil
}

// Trust says that a key or an identity is trusted, or no longer, or that an
// identity is recognized, so that signatures by it are checked and shown without
// being trusted, or that a key takes the place of one of the ledger's own. The
// subject is the key, or the identity's canonical JSON.
type Trust struct {
	Action         string    `json:"action"`                   // "trust", "revoke", "recognize" or "rotate"
	Role           string    `json:"role,omitempty"`           // of a rotation: whose place the key takes, "log" or "observer"
	KeyID          string    `json:"keyID"`                    // SSH SHA256 fingerprint of the key, or the ID of the identity
	Key            string    `json:"key,omitempty"`            // PEM; none for an identity
	Identity       *Identity `json:"identity,omitempty"`       // instead of a key: whose certificates are trusted
	Name           string    `json:"name,omitempty"`           // who holds it, in words
	Namespaces     []string  `json:"namespaces,omitempty"`     // where; empty for everywhere
	PredicateTypes []string  `json:"predicateTypes,omitempty"` // for what; empty for everything
	NotBefore      time.Time `json:"notBefore,omitzero"`       // entries recorded from here on; zero for all. Of a rotation: when it is recorded
	NotAfter       time.Time `json:"notAfter,omitzero"`        // entries recorded before; zero for no end. Of a revocation: from when the key is not trusted
	Replaces       string    `json:"replaces,omitempty"`       // of a rotation: key ID of the key whose place it takes
	Reason         string    `json:"reason,omitempty"`
}

// The places that a rotation puts a key into.
const (
	RoleLog      = "log"      // signs checkpoints
	RoleObserver = "observer" // signs what retrace observes
)

func (t *Trust) check() error {
	rotates := t.Action == "rotate"
	switch {
	case !rotates && t.Action != "trust" && t.Action != "revoke" && t.Action != "recognize":
		return fieldErrorf("action", "%q is neither trust nor revoke nor recognize nor rotate", clip(t.Action))
	case !rotates && (t.Role != "" || t.Replaces != ""):
		return fieldErrorf("role", "only a rotation has one, and a key that it replaces")
	case rotates && t.Role != RoleLog && t.Role != RoleObserver:
		return fieldErrorf("role", "%q is neither log nor observer", clip(t.Role))
	case rotates && t.Replaces == "":
		return fieldErrorf("replaces", "missing; a rotation says whose place the key takes")
	case rotates && t.NotBefore.IsZero():
		return fieldErrorf("notBefore", "missing; a rotation says from when the key is in force")
	case t.KeyID == "":
		return fieldErrorf("keyID", "missing")
	case t.Key == "" && t.Identity == nil:
		return fieldErrorf("key", "missing; the statement is about a key or an identity")
	case t.Key != "" && t.Identity != nil:
		return fieldErrorf("identity", "stands beside a key; the statement is about one of them")
	case t.Action == "recognize" && t.Identity == nil:
		return fieldErrorf("identity", "missing; only an identity is recognized")
	case rotates && t.Identity != nil:
		return fieldErrorf("identity", "cannot take the place of a key")
	case t.Action == "revoke" && t.NotAfter.IsZero():
		return fieldErrorf("notAfter", "missing; a revocation says from when the key is not trusted")
	}
	if t.Identity == nil {
		return nil
	}
	if err := t.Identity.check(); err != nil {
		return under("identity", err)
	}
	if id := t.Identity.ID(); t.KeyID != id {
		return fieldErrorf("keyID", "is not the ID of the identity, %q", clip(id))
	}
	return nil
}

// Identity is somebody who signs with short-lived certificates that a Sigstore
// certificate authority issues to whom a login service vouches for. The trusted
// root is part of it: without the authorities and logs that are believed, a
// certificate says nothing.
type Identity struct {
	Subject     string `json:"subject"`     // an e-mail address or a URI, exactly as certificates name it
	Issuer      string `json:"issuer"`      // URL of the login service, exactly as certificates name it
	TrustedRoot string `json:"trustedRoot"` // Sigstore trusted root in JSON, as it was given
}

// MaxTrustedRoot is how many bytes a trusted root may have. That of the public
// instance has seven thousand.
const MaxTrustedRoot = 256 << 10

// ID names the identity, in the place of a key ID: subject, issuer, and the
// SHA-256 of the trusted root, since the same name under other authorities is
// somebody else.
func (i *Identity) ID() string {
	return i.Subject + " by " + i.Issuer + " under " + string(BytesKey([]byte(i.TrustedRoot)))
}

func (i *Identity) check() error {
	switch {
	case i.Subject == "":
		return fieldErrorf("subject", "missing")
	case i.Issuer == "":
		return fieldErrorf("issuer", "missing")
	case i.TrustedRoot == "":
		return fieldErrorf("trustedRoot", "missing")
	case len(i.TrustedRoot) > MaxTrustedRoot:
		return fieldErrorf("trustedRoot", "has %d bytes; the limit is %d", len(i.TrustedRoot), MaxTrustedRoot)
	}
	return nil
}

// Config records a setting that decides what answers say, such as the
// namespace of a source. The subject is the predicate's canonical JSON. Each
// names the statement about the same setting before it, so that a setting that
// is changed and changed back is three statements.
type Config struct {
	Setting  string            `json:"setting"`
	Values   map[string]string `json:"values"`
	Previous string            `json:"previous,omitempty"` // sha256 of the statement about it before, in hex
}

func (c *Config) check() error {
	if c.Setting == "" {
		return fieldErrorf("setting", "missing")
	}
	return checkPrevious(c.Previous)
}

// Coverage says what a watcher listed of a source between two times. The
// subject is the listing. Each names the coverage statement before it.
type Coverage struct {
	Source   string    `json:"source"`
	From     time.Time `json:"from,omitzero"`
	To       time.Time `json:"to"`
	Count    int       `json:"count"`           // things listed at To
	Recorded int       `json:"recorded"`        // facts recorded in the interval
	Blind    string    `json:"blind,omitempty"` // why nothing could be read in the interval; empty when it could
	// Refused are things that the source held in the interval and that could not
	// be recorded, each once; at most MaxRefused. LeftOut says how many more there
	// were.
	Refused  []Refusal `json:"refused,omitempty"`
	LeftOut  int       `json:"leftOut,omitzero"`
	Previous string    `json:"previous,omitempty"` // sha256 of the coverage statement before, in hex
}

// MaxRefused is how many refusals one coverage statement lists.
const MaxRefused = 32

// Refusal is a thing that could not be recorded, and why.
type Refusal struct {
	Object string `json:"object"` // what it is, in the words of its source
	Reason string `json:"reason"`
	Digest string `json:"digest,omitempty"` // key of its bytes as they were read, where the watcher had them
}

func (c *Coverage) check() error {
	switch {
	case c.Source == "":
		return fieldErrorf("source", "missing")
	case c.To.IsZero():
		return fieldErrorf("to", "missing")
	case c.To.Before(c.From):
		return fieldErrorf("to", "%s is before from, %s", c.To.Format(time.RFC3339), c.From.Format(time.RFC3339))
	case c.Count < 0:
		return fieldErrorf("count", "%d is negative", c.Count)
	case c.Recorded < 0:
		return fieldErrorf("recorded", "%d is negative", c.Recorded)
	case len(c.Refused) > MaxRefused:
		return fieldErrorf("refused", "lists %d; the limit is %d", len(c.Refused), MaxRefused)
	case c.LeftOut < 0:
		return fieldErrorf("leftOut", "%d is negative", c.LeftOut)
	}
	for i, r := range c.Refused {
		field := "refused." + strconv.Itoa(i)
		switch {
		case r.Object == "":
			return fieldErrorf(field+".object", "missing")
		case r.Reason == "":
			return fieldErrorf(field+".reason", "missing")
		case r.Digest == "":
			continue
		}
		if _, err := ParseKey(r.Digest); err != nil {
			return under(field+".digest", err)
		}
	}
	return checkPrevious(c.Previous)
}

// Commit is a Git commit object. The subject is the commit, its uri the
// repository.
type Commit struct {
	Tree      string   `json:"tree"`
	Parents   []string `json:"parents,omitempty"`
	Author    Person   `json:"author"`
	Committer Person   `json:"committer"`
	Message   string   `json:"message,omitempty"`
	Signature string   `json:"signature,omitempty"` // as in the object, armoured; not verified by being here
	// Signer is whose key made the signature, where the watcher was given keys
	// and one of them did.
	Signer *Signer `json:"signer,omitempty"`
	// Pins are what the commit's tree pins: files that name other things by
	// digest (gitBlob; a statement of their own says what), Git LFS pointers by
	// what they point at (sha256), submodules (gitCommit). At most MaxPins, by
	// path; LeftOut says how many more there are.
	Pins    []Descriptor `json:"pins,omitempty"`
	LeftOut int          `json:"leftOut,omitzero"`
}

// MaxPins is how many things one commit, or one file of it, is recorded to pin.
const MaxPins = 512

// Signer is the key that a signature verifies by, and whose it is said to be
// where the key was given.
type Signer struct {
	KeyID string `json:"keyID"` // SHA256 fingerprint of an SSH key, or fingerprint of an OpenPGP key in hex
	Name  string `json:"name,omitempty"`
}

// Person is who made a commit, when by their clock, with their offset.
type Person struct {
	Name  string    `json:"name"`
	Email string    `json:"email"`
	When  time.Time `json:"when"`
}

func (c *Commit) check() error {
	if err := checkDigest(GitTree, c.Tree); err != nil {
		return under("tree", err)
	}
	for i, p := range c.Parents {
		if err := checkDigest(GitCommit, p); err != nil {
			return under("parents."+strconv.Itoa(i), err)
		}
	}
	if c.Signer != nil && c.Signer.KeyID == "" {
		return fieldErrorf("signer.keyID", "missing")
	}
	if c.LeftOut < 0 {
		return fieldErrorf("leftOut", "%d is negative", c.LeftOut)
	}
	return checkPins(c.Pins)
}

// checkPins holds pins to what they are: named by where they stand, and known
// by a digest.
func checkPins(pins []Descriptor) error {
	if len(pins) > MaxPins {
		return fieldErrorf("pins", "lists %d; the limit is %d", len(pins), MaxPins)
	}
	for i, d := range pins {
		field := "pins." + strconv.Itoa(i)
		if err := d.check(); err != nil {
			return under(field, err)
		}
		if len(d.Digest) == 0 {
			return fieldErrorf(field+".digest", "missing; what has none is not pinned")
		}
	}
	return nil
}

// Pins says what a file in a Git repository pins. The subject is the file, by
// its gitBlob digest.
type Pins struct {
	Format  string       `json:"format"` // dvc, kustomize, kubernetes or kfp
	Pins    []Descriptor `json:"pins"`   // at most MaxPins, in the order of the file
	LeftOut int          `json:"leftOut,omitzero"`
}

// The formats of files that pin.
const (
	PinsDVC        = "dvc"
	PinsKustomize  = "kustomize"
	PinsKubernetes = "kubernetes"
	PinsKFP        = "kfp"
)

func (p *Pins) check() error {
	switch p.Format {
	case PinsDVC, PinsKustomize, PinsKubernetes, PinsKFP:
	default:
		return fieldErrorf("format", "%q is none of dvc, kustomize, kubernetes and kfp", clip(p.Format))
	}
	switch {
	case len(p.Pins) == 0:
		return fieldErrorf("pins", "missing")
	case p.LeftOut < 0:
		return fieldErrorf("leftOut", "%d is negative", p.LeftOut)
	}
	return checkPins(p.Pins)
}

// Ref says that a Git ref points at the subject, or was deleted while it did.
type Ref struct {
	Repository string `json:"repository"`
	Ref        string `json:"ref"`                // full, such as refs/heads/main
	Old        string `json:"old,omitempty"`      // commit that it pointed at before, in hex
	Forced     bool   `json:"forced,omitempty"`   // the old commit is not an ancestor of the new one
	Deleted    bool   `json:"deleted,omitempty"`  // the subject is what it pointed at last
	TagObject  string `json:"tag,omitempty"`      // object ID of an annotated tag
	Previous   string `json:"previous,omitempty"` // sha256 of the statement about this ref before, in hex
}

func (r *Ref) check() error {
	switch {
	case r.Repository == "":
		return fieldErrorf("repository", "missing")
	case !strings.HasPrefix(r.Ref, "refs/") && r.Ref != "HEAD":
		return fieldErrorf("ref", "%q is not a full ref name", clip(r.Ref))
	}
	if r.Old != "" {
		if err := checkDigest(GitCommit, r.Old); err != nil {
			return under("old", err)
		}
	}
	if r.TagObject != "" {
		if err := checkDigest("gitTag", r.TagObject); err != nil {
			return under("tag", err)
		}
	}
	return checkPrevious(r.Previous)
}

// Image is an OCI image manifest or index. The subject is the manifest.
type Image struct {
	Repository string            `json:"repository"`
	MediaType  string            `json:"mediaType"`
	Size       int64             `json:"size"` // bytes of the manifest
	Config     string            `json:"config,omitempty"`
	Platform   string            `json:"platform,omitempty"` // os/arch[/variant]
	Layers     []Blob            `json:"layers,omitempty"`
	Manifests  []IndexedManifest `json:"manifests,omitempty"` // of an index
	Labels     map[string]string `json:"labels,omitempty"`    // annotations and config labels: the builder's claims
	Signatures []string          `json:"signatures,omitempty"`
}

// Blob is a layer.
type Blob struct {
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"`
	DiffID    string `json:"diffID,omitempty"` // digest of the layer unpacked, says the configuration
}

// IndexedManifest is one image of an index.
type IndexedManifest struct {
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
	Platform  string `json:"platform,omitempty"`
}

func (i *Image) check() error {
	switch {
	case i.Repository == "":
		return fieldErrorf("repository", "missing")
	case i.MediaType == "":
		return fieldErrorf("mediaType", "missing")
	case i.Size < 0:
		return fieldErrorf("size", "%d is negative", i.Size)
	}
	if i.Config != "" {
		if _, err := ParseKey(i.Config); err != nil {
			return under("config", err)
		}
	}
	for n, l := range i.Layers {
		if _, err := ParseKey(l.Digest); err != nil {
			return under("layers."+strconv.Itoa(n)+".digest", err)
		}
		if l.DiffID == "" {
			continue
		}
		if _, err := ParseKey(l.DiffID); err != nil {
			return under("layers."+strconv.Itoa(n)+".diffID", err)
		}
	}
	for n, m := range i.Manifests {
		if _, err := ParseKey(m.Digest); err != nil {
			return under("manifests."+strconv.Itoa(n)+".digest", err)
		}
	}
	return nil
}

// ImageSignature is a signature on an image that is no envelope: cosign's simple
// signing (sigstore/cosign, specs/SIGNATURE_SPEC.md), as the registry kept it. The
// subject is the image. It is not verified by being here.
type ImageSignature struct {
	Payload     []byte `json:"payload"`               // what was signed, byte for byte
	Signature   string `json:"signature"`             // in base64
	Certificate string `json:"certificate,omitempty"` // PEM, of a signer without a key of their own
	Chain       string `json:"chain,omitempty"`       // PEM
	Bundle      string `json:"bundle,omitempty"`      // of the transparency log, JSON
}

func (g *ImageSignature) check() error {
	switch {
	case len(g.Payload) == 0:
		return fieldErrorf("payload", "missing")
	case g.Signature == "":
		return fieldErrorf("signature", "missing")
	}
	return nil
}

// Tag says that a tag of a registry repository points at the subject, or was
// deleted while it did.
type Tag struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	Old        string `json:"old,omitempty"` // digest that it pointed at before
	Deleted    bool   `json:"deleted,omitempty"`
	Previous   string `json:"previous,omitempty"` // sha256 of the statement about this tag before, in hex
}

func (t *Tag) check() error {
	switch {
	case t.Repository == "":
		return fieldErrorf("repository", "missing")
	case t.Tag == "":
		return fieldErrorf("tag", "missing")
	}
	if t.Old != "" {
		if _, err := ParseKey(t.Old); err != nil {
			return under("old", err)
		}
	}
	return checkPrevious(t.Previous)
}

// Snapshot is the content of a folder at one time, or of an object or all
// objects below a prefix of an object store. The subject is the folder by its
// retraceTree1 digest, a single object by its sha256.
type Snapshot struct {
	Source string `json:"source"`          // URI of the folder, dir:///path; of objects, s3://BUCKET/KEY
	Store  string `json:"store,omitempty"` // where the content is kept: "store", or "host:NAME" when it never left that host
	Handle string `json:"handle,omitempty"`
	// Durability is what the kept bytes survive: SameDisk, OtherDisk or Remote;
	// "" where that was not told.
	Durability string         `json:"durability,omitempty"`
	Count      int            `json:"count"`           // files, folders and links
	Bytes      int64          `json:"bytes"`           // sum of file sizes
	Files      []SnapshotFile `json:"files,omitempty"` // up to 10,000; beyond, the tree alone
	Excluded   []string       `json:"excluded,omitempty"`
	// Of objects: the run that wrote them, where one is recorded; of a single one,
	// its version and entity tag in the store, and when it was written, says the
	// store.
	Run      string    `json:"run,omitempty"`
	Version  string    `json:"version,omitempty"`
	ETag     string    `json:"etag,omitempty"`
	Modified time.Time `json:"modified,omitzero"`
	// Volume is set of a snapshot of a volume in a cluster. Its subject is the
	// state that is described, named snapshot:SOURCE#NAME, with the digest of the
	// predicate: of the bytes nobody knows one.
	Volume   *VolumeSnapshot `json:"volume,omitempty"`
	Previous string          `json:"previous,omitempty"`
}

// VolumeSnapshot is what a cluster says of a snapshot of a volume
// (snapshot.storage.k8s.io/v1). The driver keeps it; driver and handle identify
// it.
type VolumeSnapshot struct {
	Name string `json:"name"`          // of the VolumeSnapshot
	UID  string `json:"uid,omitempty"` // of the VolumeSnapshot
	// URI is csi://DRIVER/HANDLE, or volumesnapshot://NAMESPACE/NAME#UID where the
	// cluster does not tell the driver's handle; empty where there is none.
	URI     string            `json:"uri,omitempty"`
	Claim   string            `json:"claim,omitempty"` // pvc://NAMESPACE/NAME that it was taken of
	Class   string            `json:"class,omitempty"`
	Policy  string            `json:"deletionPolicy,omitempty"` // Retain, or Delete: the bytes go with the object
	Content string            `json:"content,omitempty"`        // name of the VolumeSnapshotContent
	Handle  string            `json:"volumeHandle,omitempty"`   // of the volume, in the words of the driver
	Mode    string            `json:"sourceVolumeMode,omitempty"`
	Group   string            `json:"group,omitempty"` // VolumeGroupSnapshot that it is of
	Created time.Time         `json:"created,omitzero"`
	Error   string            `json:"error,omitempty"`  // why it is not there
	Labels  map[string]string `json:"labels,omitempty"` // of those who make snapshots: retrace.dev, velero.io, kubeflow-kale.org
	// Pods mounted the claim when this was stated first, as far as they were there
	// to be seen; at most MaxMounts.
	Pods    []Mount `json:"pods,omitempty"`
	Deleted bool    `json:"deleted,omitzero"`
}

// MaxMounts is how many pods one statement about a snapshot lists.
const MaxMounts = 32

// Mount is a pod that mounted a claim.
type Mount struct {
	Pod  string `json:"pod"`
	UID  string `json:"uid"`
	Run  string `json:"run,omitempty"` // of the pipeline's step that it is the pod of
	Only bool   `json:"readOnly,omitzero"`
}

// The deletion policies of a VolumeSnapshotContent.
const (
	PolicyRetain = "Retain"
	PolicyDelete = "Delete"
)

func (v *VolumeSnapshot) check() error {
	switch {
	case v.Name == "":
		return fieldErrorf("name", "missing")
	case v.URI == "" && v.Error == "" && !v.Deleted:
		return fieldErrorf("uri", "missing; a snapshot without one has an error, or is deleted")
	case v.Policy != "" && v.Policy != PolicyRetain && v.Policy != PolicyDelete:
		return fieldErrorf("deletionPolicy", "%q is neither Retain nor Delete", clip(v.Policy))
	case len(v.Pods) > MaxMounts:
		return fieldErrorf("pods", "lists %d; the limit is %d", len(v.Pods), MaxMounts)
	}
	return nil
}

// Claim says what the content of a volume claim was made from. The subject is
// the state that is described, named claim:CLUSTER/NAMESPACE/NAME, with the
// digest of the predicate.
type Claim struct {
	Cluster string `json:"cluster"`
	Claim   string `json:"claim"` // pvc://NAMESPACE/NAME
	UID     string `json:"uid,omitempty"`
	// From are a snapshot, another claim, or what an annotation says, each by
	// location.
	From     []Descriptor `json:"from,omitempty"`
	Deleted  bool         `json:"deleted,omitzero"`
	Previous string       `json:"previous,omitempty"` // sha256 of the statement about it before, in hex
}

func (c *Claim) check() error {
	switch {
	case c.Cluster == "":
		return fieldErrorf("cluster", "missing")
	case !strings.HasPrefix(c.Claim, "pvc://"):
		return fieldErrorf("claim", "%q is not pvc://NAMESPACE/NAME", clip(c.Claim))
	case len(c.From) == 0 && !c.Deleted:
		return fieldErrorf("from", "missing")
	}
	for i, d := range c.From {
		if d.URI == "" || len(d.Digest) > 0 || len(d.Content) > 0 {
			return fieldErrorf("from."+strconv.Itoa(i), "want a location and no digest")
		}
	}
	return checkPrevious(c.Previous)
}

// Taking says that retrace asked a cluster for a snapshot of a volume, or to
// delete one that it had asked for. The subject is what is described, named
// taking:NAMESPACE/NAME, with the digest of the predicate.
type Taking struct {
	Action string `json:"action"` // take or delete
	Source string `json:"source"` // csi://CLUSTER[/NAMESPACE] that is configured so
	Name   string `json:"name"`   // NAMESPACE/NAME of the VolumeSnapshot
	UID    string `json:"uid"`    // of the VolumeSnapshot
	Claim  string `json:"claim"`  // pvc://NAMESPACE/NAME
	Owner  string `json:"owner"`  // which ledger: the label retrace.dev/owner
	Reason string `json:"reason"`
	Run    string `json:"run,omitempty"` // of the pipeline's step after whose end it was taken
	URI    string `json:"uri,omitempty"` // of one that is deleted
}

// What retrace does to snapshots in a cluster.
const (
	TakingTake   = "take"
	TakingDelete = "delete"
)

func (t *Taking) check() error {
	switch {
	case t.Action != TakingTake && t.Action != TakingDelete:
		return fieldErrorf("action", "%q is neither take nor delete", clip(t.Action))
	case t.Source == "":
		return fieldErrorf("source", "missing")
	case strings.Count(t.Name, "/") != 1:
		return fieldErrorf("name", "%q is not NAMESPACE/NAME", clip(t.Name))
	case t.UID == "":
		return fieldErrorf("uid", "missing")
	case !strings.HasPrefix(t.Claim, "pvc://"):
		return fieldErrorf("claim", "%q is not pvc://NAMESPACE/NAME", clip(t.Claim))
	case t.Owner == "":
		return fieldErrorf("owner", "missing")
	case t.Reason == "":
		return fieldErrorf("reason", "missing")
	}
	return nil
}

// Durabilities of a snapshot, worst first: where its bytes are kept, seen from
// the folder that it was taken of.
const (
	SameDisk  = "same-disk"  // on the disk that the folder is on: lost with it
	OtherDisk = "other-disk" // on another disk of the same machine, as far as the system tells disks apart
	Remote    = "remote"     // on another machine: an object store or a network file system
)

// SnapshotFile is one file of a snapshot.
type SnapshotFile struct {
	Path   string `json:"path"` // relative, with forward slashes
	Type   string `json:"type"` // file, folder or link
	Exec   bool   `json:"exec,omitempty"`
	Size   int64  `json:"size,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	Target string `json:"target,omitempty"` // of a link
	// Of an object in a store: its version and entity tag there.
	Version string `json:"version,omitempty"`
	ETag    string `json:"etag,omitempty"`
}

// MaxSnapshotFiles is how many files a snapshot statement lists.
const MaxSnapshotFiles = 10000

func (s *Snapshot) check() error {
	switch {
	case s.Source == "":
		return fieldErrorf("source", "missing")
	case s.Count < 0:
		return fieldErrorf("count", "%d is negative", s.Count)
	case s.Bytes < 0:
		return fieldErrorf("bytes", "%d is negative", s.Bytes)
	}
	if s.Volume != nil {
		if err := s.Volume.check(); err != nil {
			return under("volume", err)
		}
	}
	switch s.Durability {
	case "", SameDisk, OtherDisk, Remote:
	default:
		return fieldErrorf("durability", "%q is none of %s, %s and %s", clip(s.Durability), SameDisk, OtherDisk, Remote)
	}
	if len(s.Files) > MaxSnapshotFiles {
		return fieldErrorf("files", "lists %d; the limit is %d", len(s.Files), MaxSnapshotFiles)
	}
	for i, f := range s.Files {
		field := "files." + strconv.Itoa(i)
		if err := CheckPath(f.Path); err != nil {
			return under(field+".path", err)
		}
		switch f.Type {
		case "file":
			if f.Size < 0 {
				return fieldErrorf(field+".size", "%d is negative", f.Size)
			}
			if err := checkDigest(SHA256, f.SHA256); err != nil {
				return under(field+".sha256", err)
			}
		case "folder", "link":
		default:
			return fieldErrorf(field+".type", "%q is none of file, folder and link", clip(f.Type))
		}
	}
	return checkPrevious(s.Previous)
}

// CheckPath refuses paths that are not relative, slash-separated and clean, so
// that no recorded path can lead outside the place it is laid out in.
func CheckPath(p string) error {
	switch {
	case p == "":
		return fieldErrorf("", "is empty")
	case strings.HasPrefix(p, "/"):
		return fieldErrorf("", "%q is absolute", clip(p))
	case strings.ContainsRune(p, 0):
		return fieldErrorf("", "%q holds a NUL byte", clip(p))
	}
	for _, part := range strings.Split(p, "/") {
		if part == "" || part == "." || part == ".." {
			return fieldErrorf("", "%q is not a clean relative path", clip(p))
		}
	}
	return nil
}

// Model names a version of a model. The subject is its file or folder, or,
// where nobody gave those a digest, the run that made it. A version binds to the
// step that made it, not only to its bytes: retraining can give equal bytes
// (DESIGN 12.9).
type Model struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Resource is what the version is where the subject is the run: a location,
	// without a digest.
	Resource *Descriptor `json:"resource,omitempty"`
	Run      string      `json:"run,omitempty"`   // run ID of the step that made it
	Path     string      `json:"path,omitempty"`  // where that step wrote it
	Moved    bool        `json:"moved,omitempty"` // the version pointed elsewhere before
	// Alias says that the version is a name that a registry moves from one version
	// to another: it is never the newest.
	Alias bool `json:"alias,omitzero"`
	// Deleted says that the version points nowhere any more; Resource or the subject
	// is where it pointed last.
	Deleted  bool              `json:"deleted,omitzero"`
	Previous string            `json:"previous,omitempty"` // of an alias: sha256 of the statement about it before, in hex
	Metrics  map[string]any    `json:"metrics,omitempty"`  // as the step reported them
	Labels   map[string]string `json:"labels,omitempty"`
}

func (m *Model) check() error {
	if err := CheckModelName(m.Name); err != nil {
		return under("name", err)
	}
	if m.Version == "" || strings.ContainsAny(m.Version, "@ \t\n") {
		return fieldErrorf("version", "%q is not a version: one or more characters, no spaces, no @", clip(m.Version))
	}
	if r := m.Resource; r != nil && (r.URI == "" || len(r.Digest) > 0 || len(r.Content) > 0) {
		return fieldErrorf("resource", "want a location and no digest; what has a digest is the subject")
	}
	return checkPrevious(m.Previous)
}

// CheckModelName refuses names that a REF could not express.
func CheckModelName(name string) error {
	if name == "" || len(name) > 256 || strings.ContainsAny(name, "@:# \t\n=") || strings.HasPrefix(name, "/") || strings.HasPrefix(name, ".") {
		return fieldErrorf("", "%q is not a model name: 1 to 256 characters, none of @ : # = or space, not beginning with / or .", clip(name))
	}
	return nil
}

// Deployment says what a workload ran. The subjects are its images; where a
// watcher saw it, the first is the state itself, named workload:WORKLOAD with the
// digest of the predicate, since a workload may run no image that is known by
// digest.
type Deployment struct {
	Workload   string             `json:"workload"`      // CLUSTER/NAMESPACE/KIND/NAME
	UID        string             `json:"uid,omitempty"` // of the object: one of the same name that is made anew is another
	Models     []Descriptor       `json:"models,omitempty"`
	Images     map[string]string  `json:"images,omitempty"` // container name to digest
	Containers []RunningContainer `json:"containers,omitempty"`
	Revision   *AppliedRevision   `json:"revision,omitempty"`
	Changed    *Change            `json:"changed,omitempty"`
	Deleted    bool               `json:"deleted,omitempty"`
	Previous   string             `json:"previous,omitempty"` // sha256 of the statement about it before, in hex
}

// RunningContainer is a container of a workload with an image that it ran. While
// one image takes the place of another there are two of a container.
type RunningContainer struct {
	Name     string `json:"name"`
	Image    string `json:"image"`              // as asked for
	Digest   string `json:"digest,omitempty"`   // as the runtime resolved it; empty where it did not say, or nothing ran
	Platform string `json:"platform,omitempty"` // os/arch of the node
}

// AppliedRevision is the commit that a workload was put there from.
type AppliedRevision struct {
	Commit     string `json:"commit"` // in hex
	Repository string `json:"repository,omitempty"`
	By         string `json:"by"`                // who says so, such as "argocd:argocd/forecast"
	Claimed    bool   `json:"claimed,omitempty"` // a label says so, and no controller
}

// Change is who changed a workload last, by its managed fields, and what its
// annotations say of it: anybody who may change the object can write those.
type Change struct {
	By    string    `json:"by"` // manager of the fields, such as kubectl
	At    time.Time `json:"at,omitzero"`
	User  string    `json:"user,omitempty"`  // who asked for it (openshift.io/requester)
	Cause string    `json:"cause,omitempty"` // why (kubernetes.io/change-cause)
}

func (d *Deployment) check() error {
	if strings.Count(d.Workload, "/") != 3 {
		return fieldErrorf("workload", "%q is not CLUSTER/NAMESPACE/KIND/NAME", clip(d.Workload))
	}
	for i, c := range d.Containers {
		field := "containers." + strconv.Itoa(i)
		if c.Name == "" || c.Image == "" {
			return fieldErrorf(field, "want a name and an image")
		}
		if c.Digest != "" {
			if _, err := ParseKey(c.Digest); err != nil {
				return under(field+".digest", err)
			}
		}
	}
	if r := d.Revision; r != nil {
		if err := checkDigest(GitCommit, r.Commit); err != nil {
			return under("revision.commit", err)
		}
		if r.By == "" {
			return fieldErrorf("revision.by", "missing")
		}
	}
	if d.Changed != nil && d.Changed.By == "" {
		return fieldErrorf("changed.by", "missing")
	}
	return checkPrevious(d.Previous)
}

// Attestation is a person's word on the subject, such as an approval.
type Attestation struct {
	Claim   string `json:"claim"` // such as "approved"
	Comment string `json:"comment,omitempty"`
	By      string `json:"by,omitempty"`
}

func (a *Attestation) check() error {
	if a.Claim == "" {
		return fieldErrorf("claim", "missing")
	}
	return nil
}

// Retraction withdraws the entry that it names. It marks and never removes.
// The subject is the leaf commitment of that entry.
type Retraction struct {
	Index  int64  `json:"index"`
	Reason string `json:"reason"`
}

func (r *Retraction) check() error {
	if r.Index <= 0 {
		return fieldErrorf("index", "%d cannot be retracted; want the index of an entry after genesis", r.Index)
	}
	if r.Reason == "" {
		return fieldErrorf("reason", "missing")
	}
	return nil
}

// Release says that the content store let go of the bytes of snapshots, as the
// keep rules of their source say. What is recorded of them stays. The subjects
// are their folders.
type Release struct {
	Source   string `json:"source"` // URI of the folder, dir:///path
	Rules    string `json:"rules"`  // the keep rules, as JSON
	Previous string `json:"previous,omitempty"`
}

func (r *Release) check() error {
	if r.Source == "" {
		return fieldErrorf("source", "missing")
	}
	if r.Rules == "" {
		return fieldErrorf("rules", "missing")
	}
	return checkPrevious(r.Previous)
}

// Erasure says that the body of an entry was removed. The subject is the leaf
// commitment of that entry. An erasure that the ledger's own observer signed
// comes into being together with the removal, and in no other way.
type Erasure struct {
	Index  int64  `json:"index"`
	Reason string `json:"reason"`
	By     string `json:"by,omitempty"` // who asked for it, in words
	// Resources are the keys that the removed body mentioned and that other
	// entries mention too: what is told of them has a hole now.
	Resources []Key `json:"resources,omitempty"`
}

func (e *Erasure) check() error {
	if e.Index <= 0 {
		return fieldErrorf("index", "%d cannot be erased; want the index of an entry after genesis", e.Index)
	}
	if e.Reason == "" {
		return fieldErrorf("reason", "missing")
	}
	if len(e.Resources) > MaxSubjects {
		return fieldErrorf("resources", "%d of them; the limit is %d", len(e.Resources), MaxSubjects)
	}
	for i, k := range e.Resources {
		if i > 0 && k <= e.Resources[i-1] {
			return fieldErrorf("resources."+strconv.Itoa(i), "is not after the one before it; want them sorted, each once")
		}
		if k == "" {
			return fieldErrorf("resources."+strconv.Itoa(i), "is empty")
		}
	}
	return nil
}

// Restore is the verdict of a restoration: what was laid out and whether every
// digest was right. The subject is the resource that was restored.
type Restore struct {
	Ref      string   `json:"ref"`    // as asked for
	Result   string   `json:"result"` // COMPLETE or INCOMPLETE
	Plan     string   `json:"plan"`   // sha256 of the plan, in hex
	Size     int64    `json:"size"`   // ledger size that the plan speaks for
	Checked  int      `json:"checked"`
	Bytes    int64    `json:"bytes"`
	Problems []string `json:"problems,omitempty"`
}

func (r *Restore) check() error {
	if r.Result != "COMPLETE" && r.Result != "INCOMPLETE" {
		return fieldErrorf("result", "%q is neither COMPLETE nor INCOMPLETE", clip(r.Result))
	}
	return nil
}

// Verdicts of a reproduction.
const (
	BitExact      = "BIT_EXACT"
	Diverged      = "DIVERGED"
	NotReplayable = "NOT_REPLAYABLE"
)

// Reproduction is the verdict of running recorded steps again. The subject is
// the resource that was to be reproduced.
type Reproduction struct {
	Ref       string           `json:"ref"`
	Verdict   string           `json:"verdict"` // BIT_EXACT, DIVERGED or NOT_REPLAYABLE
	Reason    string           `json:"reason,omitempty"`
	Isolation string           `json:"isolation"` // what kept the steps apart from the machine, in words
	Platform  string           `json:"platform"`
	Size      int64            `json:"size"` // ledger size that the plan speaks for
	Steps     []ReproducedStep `json:"steps,omitempty"`
}

// ReproducedStep compares one step's outputs with the recorded ones.
type ReproducedStep struct {
	Step    int64              `json:"step"` // index of the entry that states it
	Run     string             `json:"run,omitempty"`
	Exit    int                `json:"exit"`
	Outputs []ReproducedOutput `json:"outputs,omitempty"`
}

// ReproducedOutput is one output, recorded and made again.
type ReproducedOutput struct {
	Path     string `json:"path"`
	Recorded string `json:"recorded"`       // key
	Made     string `json:"made,omitempty"` // key; empty when the step did not write it
}

func (r *Reproduction) check() error {
	switch r.Verdict {
	case BitExact, Diverged, NotReplayable:
		return nil
	}
	return fieldErrorf("verdict", "%q is none of %s, %s and %s", clip(r.Verdict), BitExact, Diverged, NotReplayable)
}

func checkPrevious(p string) error {
	if p == "" {
		return nil
	}
	return under("previous", checkDigest(SHA256, p))
}
