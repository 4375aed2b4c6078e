package replay

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// stateHead begins the first line of a state, before the SHA-256 of the JSON
// that is the rest.
const stateHead = "retrace replay v1 "

// MaxState is how many bytes of a state are read.
const MaxState = 256 << 20

// state is a Replay as it is stored.
type state struct {
	LogKey      string         `json:"logKey"`               // NAME+HASH of the key that signs the log
	Checkpoint  []byte         `json:"checkpoint,omitempty"` // signed note that was replayed towards
	Size        int64          `json:"size"`
	Edge        [][]byte       `json:"edge"`             // roots of the largest complete subtrees, the largest first
	Last        time.Time      `json:"last,omitzero"`    // recordedAt of the newest entry
	Observer    string         `json:"observer"`         // PEM of genesis; "" where there was none
	Trust       []schema.Trust `json:"trust,omitempty"`  // in order
	Own         []stateOwn     `json:"own,omitempty"`    // ascending: genesis and the rotations of the ledger's keys
	Hidden      int64          `json:"hidden"`           // newest entry without a body; -1 for none
	Unexplained []stateErased  `json:"erased,omitempty"` // ascending
	Chains      []stateChain   `json:"chains,omitempty"` // ascending
	Report      Report         `json:"report"`
}

type stateOwn struct {
	Entry      int64     `json:"entry"`
	RecordedAt time.Time `json:"recordedAt"`
	Envelope   []byte    `json:"envelope"`
}

type stateErased struct {
	Entry      int64  `json:"entry"`
	Commitment []byte `json:"commitment"`
}

type stateChain struct {
	ID     []byte `json:"id"`
	Entry  int64  `json:"entry"`
	Digest []byte `json:"digest"` // sha256 of the statement
}

func keyName(v note.Verifier) string { return fmt.Sprintf("%s+%08x", v.Name(), v.KeyHash()) }

// State is what Resume goes on from. Whoever can write it decides what a
// resumed replay believes of the entries before: it is kept like the verdict.
func (r *Replay) State() ([]byte, error) {
	s := state{
		LogKey: keyName(r.key), Checkpoint: r.note, Size: r.tree.size(), Edge: r.tree.rng.Hashes(), Last: r.last,
		Observer: r.trust.observer, Trust: r.trust.applied, Hidden: r.hidden, Report: r.report,
	}
	for _, e := range r.own {
		s.Own = append(s.Own, stateOwn{e.Index, e.Header.RecordedAt, e.Envelope.Raw})
	}
	for _, index := range r.Unexplained() {
		c := r.unexplained[index]
		s.Unexplained = append(s.Unexplained, stateErased{index, c[:]})
	}
	ids := slices.SortedFunc(maps.Keys(r.chains), func(a, b chainID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range ids {
		l := r.chains[id]
		s.Chains = append(s.Chains, stateChain{id[:], l.index, l.digest[:]})
	}
	raw, err := json.Marshal(s, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("storing the state of a replay: %w", err)
	}
	sum := sha256.Sum256(raw)
	return slices.Concat([]byte(stateHead), []byte(hex.EncodeToString(sum[:])), []byte("\n"), raw), nil
}

// Resume goes on from a state. One that is cut off, altered or of another
// version gives a *verify.MalformedError, one of another log a
// *verify.FalseError. It knows nothing of what the log holds now: see Confirm.
func Resume(raw []byte, key note.Verifier) (*Replay, error) {
	s, err := parseState(raw)
	if err != nil {
		return nil, &verify.MalformedError{What: "state of a replay", Err: err}
	}
	if s.LogKey != keyName(key) {
		return nil, &verify.FalseError{
			Claim: fmt.Sprintf("that the state is of a replay of the log of key %s", keyName(key)),
			Err:   fmt.Errorf("it is of %q", s.LogKey),
		}
	}
	r := New(key)
	if err := r.restore(s); err != nil {
		return nil, &verify.MalformedError{What: "state of a replay", Err: err}
	}
	if s.Checkpoint != nil {
		if _, err := r.openOlder(); err != nil {
			return nil, err
		}
	}
	r.report.ResumedAt = s.Size
	return r, nil
}

func parseState(raw []byte) (state, error) {
	var s state
	if len(raw) > MaxState {
		return s, fmt.Errorf("it has %d bytes; the limit is %d", len(raw), MaxState)
	}
	head, text, ok := bytes.Cut(raw, []byte("\n"))
	sum, versioned := bytes.CutPrefix(head, []byte(stateHead))
	if !ok || !versioned {
		return s, fmt.Errorf("it does not begin with %q", stateHead)
	}
	if got := sha256.Sum256(text); hex.EncodeToString(got[:]) != string(sum) {
		return s, fmt.Errorf("it hashes to %x, and its first line says %.80q", got, sum)
	}
	return s, json.Unmarshal(text, &s, json.RejectUnknownMembers(true))
}

// restore fills r, which is new, and refuses what no replay can have left.
func (r *Replay) restore(s state) error {
	var err error
	if r.tree, err = openTree(s.Size, s.Edge); err != nil {
		return err
	}
	rep := s.Report
	if rep.Origin != r.key.Name() || rep.Present < 0 || rep.Erased < 0 || rep.Withheld < 0 || rep.Present+rep.Erased+rep.Withheld != s.Size {
		return fmt.Errorf("it reports %d + %d + %d entries of %q, and its size is %d", rep.Present, rep.Erased, rep.Withheld, rep.Origin, s.Size)
	}
	if len(rep.Findings) > MaxListed || int64(len(rep.Findings)) > rep.Faults || len(rep.WithheldRanges) > MaxListed || len(rep.UnreadableList) > MaxListed {
		return fmt.Errorf("it lists more than a report has: %d findings of %d", len(rep.Findings), rep.Faults)
	}
	r.report, r.note, r.last = rep, s.Checkpoint, s.Last
	if r.hidden = s.Hidden; s.Hidden < -1 || s.Hidden >= s.Size {
		return fmt.Errorf("it names entry %d of %d", s.Hidden, s.Size)
	}
	if err := r.restoreTrust(s); err != nil {
		return err
	}
	if err := r.restoreOwn(s); err != nil {
		return err
	}
	if err := r.restoreErased(s); err != nil {
		return err
	}
	return r.restoreChains(s)
}

func (r *Replay) restoreTrust(s state) error {
	if s.Observer == "" {
		if len(s.Trust) > 0 {
			return fmt.Errorf("it has %d trust entries and no observer", len(s.Trust))
		}
		return nil
	}
	observer, err := keys.ParsePublic([]byte(s.Observer))
	if err != nil {
		return fmt.Errorf("observer key: %w", err)
	}
	r.trust.begin(observer, s.Observer)
	for i, t := range s.Trust {
		if err := r.trust.learn(t); err != nil {
			return fmt.Errorf("trust entry %d: %w", i, err)
		}
	}
	return nil
}

// restoreOwn makes the chain of the ledger's keys again.
func (r *Replay) restoreOwn(s state) error {
	for i, own := range s.Own {
		env, err := schema.ParseEnvelope(own.Envelope)
		if err != nil {
			return err
		}
		e := schema.Entry{Index: own.Entry, State: schema.Present, Header: schema.Header{RecordedAt: own.RecordedAt}, Envelope: env}
		if i == 0 {
			var g schema.Genesis
			st, err := e.Envelope.Statement()
			if err == nil {
				err = schema.DecodePredicate(st, true, &g)
			}
			if err == nil {
				r.succession, err = verify.NewChain(g)
			}
			if err != nil || own.Entry != 0 {
				return fmt.Errorf("entry %d is no genesis: %w", own.Entry, err)
			}
		} else {
			chain, err := r.succession.Follow(e)
			if err != nil || chain == r.succession || own.Entry >= s.Size {
				return fmt.Errorf("entry %d is no rotation of the ledger's keys: %w", own.Entry, err)
			}
			r.succession = chain
		}
		r.own = append(r.own, e)
	}
	return nil
}

func (r *Replay) restoreErased(s state) error {
	if len(s.Unexplained) > maxUnexplained || !increasing(s.Unexplained, func(a, b stateErased) int { return cmp.Compare(a.Entry, b.Entry) }) {
		return fmt.Errorf("its %d erased entries are too many, or not in order", len(s.Unexplained))
	}
	for _, e := range s.Unexplained {
		if e.Entry < 0 || e.Entry >= s.Size || len(e.Commitment) != sha256.Size {
			return fmt.Errorf("erased entry %d of %d has a commitment of %d bytes", e.Entry, s.Size, len(e.Commitment))
		}
		r.unexplained[e.Entry] = commitment(e.Commitment)
	}
	return nil
}

func (r *Replay) restoreChains(s state) error {
	if len(s.Chains) > maxChains || !increasing(s.Chains, func(a, b stateChain) int { return bytes.Compare(a.ID, b.ID) }) {
		return fmt.Errorf("its %d chains are too many, or not in order", len(s.Chains))
	}
	for _, c := range s.Chains {
		if len(c.ID) != len(chainID{}) || c.Entry < 0 || c.Entry >= s.Size || len(c.Digest) != sha256.Size {
			return fmt.Errorf("chain %x at entry %d of %d is malformed", c.ID, c.Entry, s.Size)
		}
		r.chains[chainID(c.ID)] = link{[sha256.Size]byte(c.Digest), c.Entry}
	}
	return nil
}

func increasing[E any](list []E, compare func(a, b E) int) bool {
	for i := 1; i < len(list); i++ {
		if compare(list[i-1], list[i]) >= 0 {
			return false
		}
	}
	return true
}
