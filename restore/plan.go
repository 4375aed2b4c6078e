package restore

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/schema"
)

// PlanVersion is the version of the plan's JSON.
const PlanVersion = 1

// Plan is what restoring a resource lays out, and where. It is a pure function
// of the entries below Size and of what the sources hold, and changes nothing.
type Plan struct {
	Version int        `json:"version"`
	Ref     string     `json:"ref"`            // as asked for
	Name    string     `json:"name,omitempty"` // the full name it was reached by, such as "model:forecast@3"
	Key     schema.Key `json:"key,omitempty"`  // of the resource
	Run     string     `json:"run,omitempty"`  // of the step that the reference names
	Size    int64      `json:"size"`           // ledger size that the plan speaks for
	// Steps are everything that was run to produce the resource, each once,
	// dependencies first.
	Steps []Step `json:"steps,omitempty"`
	// Images are the images that steps ran in or used, or the resource itself.
	Images []Item `json:"images,omitempty"`
	// Resource is the thing asked for. Where a step made it, it is laid out if
	// its bytes are kept and not missed if they are not.
	Resource *Item `json:"resource,omitempty"`
	// Notes are what a reader should know: ambiguous producers, cycles.
	Notes []string `json:"notes,omitempty"`
}

// Step is one execution in a plan.
type Step struct {
	Number      int               `json:"number"` // from 1
	Place       string            `json:"place"`  // "steps/NN-NAME", its working root
	Entry       int64             `json:"entry"`  // that states it
	Run         string            `json:"run,omitempty"`
	Name        string            `json:"name"`
	BuildType   string            `json:"buildType,omitempty"`
	Builder     string            `json:"builder,omitempty"`
	Evidence    schema.Evidence   `json:"evidence"`
	Argv        []string          `json:"argv,omitempty"`
	Dir         string            `json:"dir,omitempty"` // working directory below Place
	Parameters  map[string]string `json:"parameters,omitempty"`
	Environment map[string]string `json:"environment,omitempty"`
	Secrets     []string          `json:"secrets,omitempty"`
	Platform    string            `json:"platform,omitempty"`
	Exit        *int              `json:"exit,omitempty"`
	Tool        *Tool             `json:"tool,omitempty"`
	Image       schema.Key        `json:"image,omitempty"` // that it ran in
	Items       []Item            `json:"items,omitempty"`
	Outputs     []Output          `json:"outputs,omitempty"`
	Gaps        []schema.GapFact  `json:"gaps,omitempty"`
	// Needed says that reproducing has to run the step again: its outputs are
	// inputs of another, or the resource. The step that built an image is part
	// of the plan and is not needed.
	Needed bool `json:"needed,omitzero"`
}

// Tool is the program that argv[0] resolved to.
type Tool struct {
	Key  schema.Key `json:"key"`
	Name string     `json:"name,omitempty"` // where it was
	Path string     `json:"path,omitempty"` // in the working root, if it lay there
	// Producer is the number of the step that made it; 0 for none.
	Producer int `json:"producer,omitzero"`
}

// Output is what a step generated.
type Output struct {
	Path string     `json:"path"`
	Key  schema.Key `json:"key"`
}

// Item is a resource that is laid out.
type Item struct {
	Key       schema.Key       `json:"key"`
	Kind      string           `json:"kind"` // file, folder, git, oci, or the resource's own
	Role      string           `json:"role,omitempty"`
	Name      string           `json:"name,omitempty"`
	URI       string           `json:"uri,omitempty"`
	Digests   schema.DigestSet `json:"digests,omitempty"`
	MediaType string           `json:"mediaType,omitempty"`
	Bytes     int64            `json:"bytes"`         // -1 where not known
	Exec      bool             `json:"exec,omitzero"` // a file that its owner may execute
	// Place is where it goes, relative to the restored folder, with forward
	// slashes. It is empty where the recorded path was refused.
	Place string `json:"place,omitempty"`
	// Producer is the number of the step of this plan that made it; 0 for
	// none. Reproducing takes it from there.
	Producer int `json:"producer,omitzero"`
	// Within is the folder that the step made, where the item is a file in it.
	Within schema.Key `json:"within,omitempty"`
	// Members are files of a folder that steps of this plan made.
	Members []Member `json:"members,omitempty"`
	// Origin says where the bytes will come from: "content store" or an
	// address. It is empty where they cannot be had, and Missing says why.
	Origin  string `json:"origin,omitempty"`
	Missing string `json:"missing,omitempty"`
}

// Member is a file of a folder that a step made.
type Member struct {
	Key      schema.Key `json:"key"`
	Producer int        `json:"producer"`
}

// Kinds of items that this package knows how to lay out and digest itself.
// All others go through a Fetcher.
const (
	kindFile     = "file"
	kindFolder   = "folder"
	kindGit      = "git"
	kindSnapshot = "snapshot"
	kindOCI      = "oci"
)

// OriginStore is the origin of what the content store holds.
const OriginStore = "content store"

// Digest identifies what the plan lays out: SHA-256, in hex, of the canonical
// JSON of the plan without its size, its reference as typed, its notes, and
// the grades and origins of what is in it. Two plans with the same digest put
// the same bytes at the same paths, wherever the bytes come from and however
// the ledger has grown, so that one resumes the other.
func (p *Plan) Digest() (string, error) {
	q := *p
	q.Ref, q.Name, q.Size, q.Notes = "", "", 0, nil
	q.Images = withoutOrigins(p.Images)
	q.Steps = slices.Clone(p.Steps)
	for i := range q.Steps {
		q.Steps[i].Evidence = ""
		q.Steps[i].Items = withoutOrigins(q.Steps[i].Items)
	}
	if p.Resource != nil {
		q.Resource = &withoutOrigins([]Item{*p.Resource})[0]
	}
	raw, err := schema.Canonical(q)
	if err != nil {
		return "", err
	}
	return schema.BytesKey(raw).Hex(), nil
}

func withoutOrigins(items []Item) []Item {
	items = slices.Clone(items)
	for i := range items {
		it := &items[i]
		it.Origin, it.URI, it.Bytes = "", "", 0
		if it.Place != "" {
			it.Missing = ""
		}
	}
	return items
}

// Encode returns the plan as canonical JSON.
func (p *Plan) Encode() ([]byte, error) { return schema.Canonical(p) }

// MaxPlan is how many bytes of JSON a plan has at most.
const MaxPlan = 64 << 20

// ParsePlan decodes a plan, which may come from a server that is not trusted:
// unknown fields are refused, and so is every place that NewPlan would not have
// chosen.
func ParsePlan(raw []byte) (*Plan, error) {
	if len(raw) > MaxPlan {
		return nil, fmt.Errorf("the plan is %d bytes; the limit is %d", len(raw), MaxPlan)
	}
	p := new(Plan)
	if err := json.Unmarshal(raw, p, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("decoding the plan: %w", err)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("the plan is not one that retrace makes: %w", err)
	}
	return p, nil
}

// check holds everything that Restore and Reproduce rely on.
func (p *Plan) check() error {
	if p.Version != PlanVersion {
		return fmt.Errorf("version %d; this program reads %d", p.Version, PlanVersion)
	}
	for i, s := range p.Steps {
		if s.Number != i+1 {
			return fmt.Errorf("steps.%d.number is %d, not %d", i, s.Number, i+1)
		}
		if err := s.check(len(p.Steps)); err != nil {
			return fmt.Errorf("steps.%d.%w", i, err)
		}
	}
	for i, it := range p.Images {
		if it.Place != "" && it.Place != imagePlace(it.Key) {
			return fmt.Errorf("images.%d.place %q is not %q", i, it.Place, imagePlace(it.Key))
		}
		if err := it.check(len(p.Steps)); err != nil {
			return fmt.Errorf("images.%d.%w", i, err)
		}
	}
	if r := p.Resource; r != nil {
		if r.Place != "" && (path.Dir(r.Place) != resourceFolder || slug(path.Base(r.Place)) != path.Base(r.Place)) {
			return fmt.Errorf("resource.place %q is not below %s/", r.Place, resourceFolder)
		}
		if err := r.check(len(p.Steps)); err != nil {
			return fmt.Errorf("resource.%w", err)
		}
	}
	return nil
}

func (s *Step) check(steps int) error {
	folder, label, _ := strings.Cut(s.Place, "/")
	number, name, ok := strings.Cut(label, "-")
	if folder != stepsFolder || !ok || number != numbered(s.Number, steps) || slug(name) != name {
		return fmt.Errorf("place %q is not that of step %d", s.Place, s.Number)
	}
	if s.Dir != "" && s.Dir != "." {
		if err := checkRecordedPath(s.Dir); err != nil {
			return fmt.Errorf("dir: %w", err)
		}
	}
	for i, it := range s.Items {
		if it.Place != "" {
			below, isBelow := strings.CutPrefix(it.Place, s.Place+"/")
			outside, isOutside := strings.CutPrefix(it.Place, outsideFolder+"/"+label+"/")
			switch {
			case it.Place == s.Place:
			case isBelow && checkRecordedPath(below) == nil:
			case isOutside && checkRecordedPath(outside) == nil:
			default:
				return fmt.Errorf("items.%d.place %q is not in the step's place", i, it.Place)
			}
		}
		if err := it.check(s.Number - 1); err != nil {
			return fmt.Errorf("items.%d.%w", i, err)
		}
	}
	if t := s.Tool; t != nil {
		if t.Producer < 0 || t.Producer >= s.Number {
			return fmt.Errorf("tool.producer %d is not an earlier step", t.Producer)
		}
		if t.Path != "" {
			if err := checkRecordedPath(t.Path); err != nil {
				return fmt.Errorf("tool.path: %w", err)
			}
		}
	}
	return nil
}

func (it *Item) check(steps int) error {
	if it.Place != "" {
		if _, err := schema.ParseKey(string(it.Key)); err != nil {
			return fmt.Errorf("key %q: %w", it.Key, err)
		}
	}
	if it.Producer < 0 || it.Producer > steps {
		return fmt.Errorf("producer %d is not a step before", it.Producer)
	}
	for i, m := range it.Members {
		if m.Producer < 1 || m.Producer > steps {
			return fmt.Errorf("members.%d.producer %d is not a step before", i, m.Producer)
		}
	}
	return nil
}

// items are all items of the plan, in the order in which they are laid out.
func (p *Plan) items() []*Item {
	var all []*Item
	for i := range p.Steps {
		for j := range p.Steps[i].Items {
			all = append(all, &p.Steps[i].Items[j])
		}
	}
	for i := range p.Images {
		all = append(all, &p.Images[i])
	}
	if p.Resource != nil {
		all = append(all, p.Resource)
	}
	return all
}

// Missing are the items that cannot be had, as far as the plan knows. The
// resource itself is not among them where a step of the plan makes it.
func (p *Plan) Missing() []Item {
	var out []Item
	for _, it := range p.items() {
		if it.Missing != "" && !(it == p.Resource && it.Producer > 0) {
			out = append(out, *it)
		}
	}
	return out
}

// resource is the item as a Fetcher takes it.
func (it *Item) resource() schema.Resource {
	r := schema.Resource{
		Key: it.Key, Kind: it.Kind, Name: it.Name, URI: it.URI, Digests: it.Digests, MediaType: it.MediaType, Size: it.Bytes,
	}
	if it.Origin == OriginStore {
		// The store knows a commit's pack by the commit itself, too.
		r.Content = "store:" + string(it.Key)
	}
	return r
}

// Sources are the places that bytes come from, and how they are digested. The
// zero value holds nothing.
type Sources struct {
	Content  Content
	Fetchers map[string]Fetcher // by kind of resource
	// Digest is the key of the file or folder at path and what it holds,
	// without what is excluded. content.Digest is one.
	Digest func(ctx context.Context, path string, exclude ...string) (schema.Key, []schema.SnapshotFile, error)
	// MayFetch, if set, refuses resources that a Fetcher would have to read
	// from an address: what a statement says is data, not an instruction to
	// connect. It is not asked for what the content store holds.
	MayFetch func(r schema.Resource) error
}

// Content is where bytes are kept. *content.Store is one.
type Content interface {
	// Has says whether the bytes of key are kept.
	Has(ctx context.Context, key schema.Key) (bool, error)
	// Fetch lays the content of key out at path, which must not exist.
	Fetch(ctx context.Context, key schema.Key, path string) error
}

// A Fetcher brings back the content of resources of one kind. Those of ingest
// are.
type Fetcher interface {
	// Fetch lays the content of r out in dir, an existing empty directory.
	Fetch(ctx context.Context, r schema.Resource, dir string) error
	// Digest is the key of what Fetch left in dir.
	Digest(ctx context.Context, dir string) (schema.Key, error)
}
