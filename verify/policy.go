package verify

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
)

// MaxPolicy is the size in bytes above which a policy is refused unread.
const MaxPolicy = 1 << 20

// Policy says whose cosignatures a checkpoint needs (C2SP tlog-policy).
type Policy struct {
	Witnesses []Witness // in the order of the file

	logs   []note.Verifier // if any are named, the checkpoint must be of one of them
	quorum torchwood.Policy
}

// Witness is a cosigner that a policy names.
type Witness struct {
	Name string // in the policy, which is not that of its key
	Key  *torchwood.CosignatureVerifier
	URL  string // submission prefix; empty if the policy has none
}

// Cosignature is what a witness says about a checkpoint: when it signed this
// one, it was consistent with all that the witness had signed before.
type Cosignature struct {
	Witness string    `json:"witness"` // name in the policy
	Key     string    `json:"key"`     // name+hash
	Time    time.Time `json:"time"`    // by the witness's clock
}

// ParsePolicy reads a policy file: log, witness, group and quorum lines (C2SP
// tlog-policy). A witness or group that is a member twice, or a key that two
// witnesses share, is refused: it would count twice. The error is a
// *MalformedError.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > MaxPolicy {
		return nil, malformed("policy", "%d bytes; the limit is %d", len(text), MaxPolicy)
	}
	p := new(Policy)
	member := map[string]bool{}
	var rest strings.Builder // all but the log lines
	for i, line := range strings.Split(string(text), "\n") {
		line, _, _ = strings.Cut(strings.TrimSuffix(line, "\r"), "#")
		fields := strings.Fields(line)
		var err error
		switch {
		case len(fields) == 0:
		case fields[0] == "log":
			err = p.addLog(fields[1:])
			fields = nil
		case fields[0] == "witness":
			err = p.addWitness(fields[1:])
		case fields[0] == "group" && len(fields) > 3:
			for _, name := range fields[3:] {
				if member[name] {
					err = fmt.Errorf("%q is a member already", name)
				}
				member[name] = true
			}
		case fields[0] == "quorum" && len(fields) > 2:
			err = errors.New("a quorum is one name, or none")
		}
		if err != nil {
			return nil, malformed("policy", "line %d: %w", i+1, err)
		}
		// Joined anew: torchwood v0.9.0 panics on a line of white space that is
		// neither blank nor tab.
		rest.WriteString(strings.Join(fields, " ") + "\n")
	}
	var err error
	// torchwood demands the signatures of all logs that a policy names; logs
	// are alternatives here.
	if p.quorum, err = torchwood.ParsePolicy([]byte(rest.String())); err != nil {
		return nil, &MalformedError{What: "policy", Err: err}
	}
	return p, nil
}

func (p *Policy) addLog(fields []string) error {
	if len(fields) < 1 || len(fields) > 2 {
		return errors.New("want log VKEY [URL]")
	}
	v, err := note.NewVerifier(fields[0])
	if err != nil {
		return fmt.Errorf("log key %q: %w", fields[0], err)
	}
	p.logs = append(p.logs, v)
	return nil
}

func (p *Policy) addWitness(fields []string) error {
	if len(fields) < 2 || len(fields) > 3 {
		return errors.New("want witness NAME VKEY [URL]")
	}
	w := Witness{Name: fields[0]}
	var err error
	if w.Key, err = torchwood.NewCosignatureVerifier(fields[1]); err != nil {
		return fmt.Errorf("witness key %q: %w", fields[1], err)
	}
	for _, other := range p.Witnesses {
		if rawKey(other.Key) == rawKey(w.Key) {
			return fmt.Errorf("witnesses %q and %q have one key", other.Name, w.Name)
		}
	}
	if len(fields) == 3 {
		u, err := url.Parse(fields[2])
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return fmt.Errorf("%q is not an http or https URL", fields[2])
		}
		w.URL = strings.TrimSuffix(fields[2], "/")
	}
	p.Witnesses = append(p.Witnesses, w)
	return nil
}

// rawKey is the public key without the name that it goes by.
func rawKey(v *torchwood.CosignatureVerifier) string {
	text := v.String()
	return text[strings.LastIndex(text, "+")+1:]
}

// Cosignatures verifies the cosignatures on c by the witnesses of p and
// returns them by time, whether or not they meet the quorum; c was opened with
// the log's key. Signatures by keys that p does not name are ignored. The error
// is a *FalseError if a known witness's signature does not verify, or if p is
// about other logs.
func (p *Policy) Cosignatures(c Checkpoint, log note.Verifier) ([]Cosignature, error) {
	found, _, err := p.open(c, log)
	return found, err
}

// Check is Cosignatures, and demands the quorum: without it the error is a
// *FalseError.
func (p *Policy) Check(c Checkpoint, log note.Verifier) ([]Cosignature, error) {
	found, sigs, err := p.open(c, log)
	if err != nil {
		return nil, err
	}
	if err := p.quorum.Check(c.Origin, sigs); err != nil {
		names := "none"
		for i, f := range found {
			if i == 0 {
				names = f.Witness
			} else {
				names += ", " + f.Witness
			}
		}
		return nil, &FalseError{
			Claim: "that the policy's quorum of witnesses cosigned the checkpoint",
			Err:   fmt.Errorf("of its %d witnesses, these did: %s", len(p.Witnesses), names),
		}
	}
	return found, nil
}

// open returns p's cosignatures on c, ordered and raw.
func (p *Policy) open(c Checkpoint, log note.Verifier) ([]Cosignature, []note.Signature, error) {
	if len(p.logs) > 0 && !slices.ContainsFunc(p.logs, func(v note.Verifier) bool {
		return v.Name() == log.Name() && v.KeyHash() == log.KeyHash()
	}) {
		return nil, nil, &FalseError{"that the policy is about this log", fmt.Errorf("it names other log keys than %s+%08x", log.Name(), log.KeyHash())}
	}
	known := []note.Verifier{log}
	for _, w := range p.Witnesses {
		known = append(known, w.Key)
	}
	n, err := note.Open(c.Note, note.VerifierList(known...))
	if err != nil {
		var invalid *note.InvalidSignatureError
		if errors.As(err, &invalid) {
			return nil, nil, &FalseError{fmt.Sprintf("the signature of %s+%08x on the checkpoint", invalid.Name, invalid.Hash), errors.New("it is not over this text")}
		}
		return nil, nil, noteError(log, err)
	}
	var found []Cosignature
	var sigs []note.Signature
	for _, s := range n.Sigs {
		i := slices.IndexFunc(p.Witnesses, func(w Witness) bool { return w.Key.Name() == s.Name && w.Key.KeyHash() == s.Hash })
		if i < 0 {
			continue // the log's own
		}
		at, err := torchwood.CosignatureTimestamp(s)
		if err != nil {
			return nil, nil, &MalformedError{What: "cosignature", Err: err}
		}
		sigs = append(sigs, s)
		found = append(found, Cosignature{Witness: p.Witnesses[i].Name, Key: fmt.Sprintf("%s+%08x", s.Name, s.Hash), Time: time.Unix(at, 0).UTC()})
	}
	slices.SortStableFunc(found, func(a, b Cosignature) int { return a.Time.Compare(b.Time) })
	return found, sigs, nil
}
