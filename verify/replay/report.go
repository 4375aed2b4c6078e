package replay

import (
	"maps"
	"slices"
)

// Kind says what rule a finding is about.
type Kind string

// The kinds of findings.
const (
	KindBody      Kind = "body"      // a body is not what its commitment stands for, or is none
	KindOrder     Kind = "order"     // entries are left out, doubled or swapped
	KindShort     Kind = "short"     // the log has fewer entries than its checkpoint covers
	KindRoot      Kind = "root"      // the entries give another root than the checkpoint signs
	KindGenesis   Kind = "genesis"   // entry 0 does not make this a ledger of this key
	KindTime      Kind = "time"      // recordedAt decreases
	KindSignature Kind = "signature" // a signature names a known key and is not by it
	KindObserver  Kind = "observer"  // the same, of the ledger's own observer
	KindErasure   Kind = "erasure"   // erased bodies and erasure entries do not account for each other
	KindChain     Kind = "chain"     // a statement names another one as the one before it
	KindQuorum    Kind = "quorum"    // the checkpoint lacks the witnesses that the policy asks for
	KindLineage   Kind = "lineage"   // the ledger's index is not the one that its entries give
)

// MaxListed is how many findings, unreadable entries and ranges of withheld
// bodies a report lists. All are counted.
const MaxListed = 100

// Finding is something that was checked and is not so.
type Finding struct {
	Entry   int64  `json:"entry"` // -1 if it is about no single entry
	Kind    Kind   `json:"kind"`
	Problem string `json:"problem"`
}

// Unreadable is an entry whose statement this program cannot read. That is no
// fault of the log, but what it states was not checked.
type Unreadable struct {
	Entry   int64  `json:"entry"`
	Problem string `json:"problem"`
}

// Range is a run of entries, from From up to and without To.
type Range struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Report is what was replayed and found.
type Report struct {
	Origin string `json:"origin"`
	Size   int64  `json:"size"`
	Root   []byte `json:"root"`
	// ResumedAt is how many entries earlier runs replayed, by the state that
	// this one went on from. They were not read again.
	ResumedAt int64 `json:"resumedAt,omitzero"`

	Present  int64 `json:"present"`
	Erased   int64 `json:"erased"`
	Withheld int64 `json:"withheld"`

	Attested int64 `json:"attested"`
	Observed int64 `json:"observed"`
	Claimed  int64 `json:"claimed"`

	Signatures        int64 `json:"signatures"`        // verified
	UnknownSignatures int64 `json:"unknownSignatures"` // by keys that no entry before names: nobody can check them
	TrustEntries      int64 `json:"trustEntries"`

	Links      int64 `json:"links"`      // of coverage, ref and tag statements to those before, that hold
	Beginnings int64 `json:"beginnings"` // such statements that name none before
	OpenLinks  int64 `json:"openLinks"`  // that a body which is not here, or a limit, keeps from being checked

	Unreadable     int64        `json:"unreadable"`
	UnreadableList []Unreadable `json:"unreadableList,omitempty"`

	WithheldRanges []Range `json:"withheldRanges,omitempty"` // the first MaxListed
	MoreRanges     int64   `json:"moreRanges,omitzero"`

	Faults   int64     `json:"faults"`
	Findings []Finding `json:"findings,omitempty"` // the first MaxListed

	// Lineage and Witnessed are of whoever looked at them beside the entries.
	Lineage   string `json:"lineage,omitempty"`  // sha256 of the index that the entries give
	Witnessed int64  `json:"witnessed,omitzero"` // size of the newest checkpoint that meets the quorum
}

// OK reports whether nothing was found.
func (r Report) OK() bool { return r.Faults == 0 }

// Report is what was replayed and found so far.
func (r *Replay) Report() (Report, error) {
	out := r.report
	root, err := r.tree.root()
	if err != nil {
		return out, err
	}
	out.Size, out.Root = r.tree.size(), root[:]
	out.Faults += int64(len(r.final))
	out.Findings = slices.Concat(out.Findings, r.final)
	out.Findings = out.Findings[:min(len(out.Findings), MaxListed)]
	out.UnreadableList = slices.Clone(out.UnreadableList)
	out.WithheldRanges = slices.Clone(out.WithheldRanges)
	return out, nil
}

// withhold counts an entry whose body is not shown to us.
func (r *Report) withhold(index int64) {
	r.Withheld++
	n := len(r.WithheldRanges)
	switch {
	case r.MoreRanges == 0 && n > 0 && r.WithheldRanges[n-1].To == index:
		r.WithheldRanges[n-1].To++
	case n < MaxListed:
		r.WithheldRanges = append(r.WithheldRanges, Range{index, index + 1})
	default:
		r.MoreRanges++
	}
}

func sortedKeys[V any](m map[int64]V) []int64 { return slices.Sorted(maps.Keys(m)) }
