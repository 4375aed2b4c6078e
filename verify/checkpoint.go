package verify

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/keys"
)

// FalseError says that something was checked and is not so: a signature that
// is not the key's, a proof that leads to another root. It is never returned
// for what could not be read.
type FalseError struct {
	Claim string // what was checked, such as "inclusion of entry 7"
	Err   error  // why it does not hold
}

func (e *FalseError) Error() string { return fmt.Sprintf("%s does not hold: %v", e.Claim, e.Err) }

// Unwrap returns why the claim does not hold.
func (e *FalseError) Unwrap() error { return e.Err }

// MalformedError says that a document could not be read, so that nothing was
// checked: neither that it holds nor that it does not.
type MalformedError struct {
	What string // which document, such as "checkpoint"
	Err  error  // what is wrong with its form
}

func (e *MalformedError) Error() string { return fmt.Sprintf("malformed %s: %v", e.What, e.Err) }

// Unwrap returns what is wrong with the form.
func (e *MalformedError) Unwrap() error { return e.Err }

func malformed(what, format string, args ...any) error {
	return &MalformedError{What: what, Err: fmt.Errorf(format, args...)}
}

// MaxCheckpoint is the size in bytes above which a checkpoint is refused
// unread. It leaves room for a hundred cosignatures.
const MaxCheckpoint = 1 << 20

// Checkpoint is a tree head whose signature was verified (C2SP
// tlog-checkpoint).
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
	Note   []byte // the signed note, byte for byte
}

// OpenCheckpoint verifies that v's key signed the checkpoint in noteBytes and
// that the checkpoint is of the log that the key is named after. Signatures by
// other keys are ignored, as C2SP signed-note asks.
//
// The error is a *MalformedError if noteBytes is not a checkpoint, and a
// *FalseError if it is one that v's key did not sign or that is of another
// log.
func OpenCheckpoint(noteBytes []byte, v note.Verifier) (Checkpoint, error) {
	if len(noteBytes) > MaxCheckpoint {
		return Checkpoint{}, malformed("checkpoint", "%d bytes; the limit is %d", len(noteBytes), MaxCheckpoint)
	}
	n, err := note.Open(noteBytes, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, noteError(v, err)
	}
	c, err := torchwood.ParseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, malformed("checkpoint", "the signed text is not origin, size and root")
	}
	if c.Origin != v.Name() {
		return Checkpoint{}, &FalseError{
			Claim: fmt.Sprintf("that the checkpoint is of log %q", v.Name()),
			Err:   fmt.Errorf("its origin is %q", c.Origin),
		}
	}
	return Checkpoint{Origin: c.Origin, Size: c.N, Root: c.Hash, Note: bytes.Clone(noteBytes)}, nil
}

// noteError sorts what note.Open says into false and unreadable.
func noteError(v note.Verifier, err error) error {
	var unverified *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	claim := fmt.Sprintf("the signature of %s+%08x on the checkpoint", v.Name(), v.KeyHash())
	switch {
	case errors.As(err, &invalid):
		return &FalseError{Claim: claim, Err: errors.New("it is not over this text")}
	case errors.As(err, &unverified):
		return &FalseError{Claim: claim, Err: errors.New("the note carries no signature of that key")}
	}
	return &MalformedError{What: "checkpoint", Err: err}
}

// FormatCheckpoint returns the text that is signed for a tree of the given
// size and root: origin, size and root, a line each.
func FormatCheckpoint(origin string, size int64, root tlog.Hash) string {
	return torchwood.Checkpoint{Origin: origin, Tree: tlog.Tree{N: size, Hash: root}}.String()
}

// VerifyConsistency verifies that the tree of newer begins with the tree of
// older. Both were opened with the log's key, so a *FalseError here is
// evidence that the log rewrote its history, provided that the proof is the
// log's own.
func VerifyConsistency(older, newer Checkpoint, proof []tlog.Hash) error {
	claim := fmt.Sprintf("that size %d extends size %d", newer.Size, older.Size)
	switch {
	case older.Origin != newer.Origin:
		return &FalseError{claim, fmt.Errorf("the origins are %q and %q", older.Origin, newer.Origin)}
	case older.Size > newer.Size:
		return &FalseError{claim, errors.New("the newer checkpoint is the smaller one")}
	case older.Size == newer.Size && older.Root != newer.Root:
		return &FalseError{claim, errors.New("same size, other root")}
	case older.Size == newer.Size || older.Size == 0:
		if len(proof) != 0 {
			return &FalseError{claim, fmt.Errorf("the proof has %d hashes, not 0", len(proof))}
		}
		return nil
	}
	if err := tlog.CheckTree(proof, newer.Size, newer.Root, older.Size, older.Root); err != nil {
		return &FalseError{claim, err}
	}
	return nil
}

// ParseLogKey reads the public key of a log: a C2SP verifier key, or an
// Ed25519 public key in PEM, which needs the log's origin beside it. A verifier
// key must be named origin, unless origin is empty.
func ParseLogKey(text []byte, origin string) (note.Verifier, error) {
	if strings.Contains(string(text), "-----BEGIN") {
		return parsePEMLogKey(text, origin)
	}
	v, err := note.NewVerifier(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, &MalformedError{What: "log key", Err: fmt.Errorf("neither a verifier key (NAME+HASH+BASE64) nor PEM: %w", err)}
	}
	if origin != "" && v.Name() != origin {
		return nil, &FalseError{fmt.Sprintf("that the key is of log %q", origin), fmt.Errorf("it is named %q", v.Name())}
	}
	return v, nil
}

func parsePEMLogKey(text []byte, origin string) (note.Verifier, error) {
	if origin == "" {
		return nil, malformed("log key", "a key in PEM does not name its log; give the origin too, or the verifier key")
	}
	pub, err := keys.ParsePublic(text)
	if err != nil {
		return nil, &MalformedError{What: "log key", Err: err}
	}
	ed, ok := pub.Key.(ed25519.PublicKey)
	if !ok {
		return nil, malformed("log key", "it is a %T; logs sign with Ed25519", pub.Key)
	}
	vkey, err := note.NewEd25519VerifierKey(origin, ed)
	if err != nil {
		return nil, &MalformedError{What: "log key", Err: err}
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, &MalformedError{What: "log key", Err: fmt.Errorf("%q cannot name a log: %w", origin, err)}
	}
	return v, nil
}
