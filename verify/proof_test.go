package verify_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/verify"
)

// The vectors are of a log with the entries "alpha", "beta" and "gamma" and
// the seed 00 01 … 1f; x/mod, Tessera's libraries and torchwood agree on them.
const (
	vectorKey        = "retrace.example/log1+460c398b+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
	vectorOrigin     = "retrace.example/log1"
	vectorCheckpoint = `retrace.example/log1
3
OF2jDzkXKCyJOd/4UZV+UZqxhGsTUaFMCts7EWMnQqo=

— retrace.example/log1 Rgw5i/xf5JKt/xS43maWSdESYPBW/CTlTT2apexSmyWesVjimJFn1cp6C4N6Hc2c3NqrmzQMCihbK8q0h6q/vWzEIwM=
— witness.example/w1 IDJKvgAAAABlU/EAEzfs1zG7AG+53PxJaFy5+Z9O5gQLACpeY+Hq5PWcjDulTsJvAIzQE8t7O88dUqXwCz3zNoLkroZTZ+3jgOMbDQ==
`
	vectorProof = `c2sp.org/tlog-proof@v1
index 1
KhWNiv1I4/iMtBld/bKp5IF9lfpX/TREDZP5quXE+Cs=
THnQ1i989cqIdBVfLTuHXyYl2iuzq8hrvWgz8lupDlE=

` + vectorCheckpoint
)

func vectorVerifier(t testing.TB) note.Verifier {
	t.Helper()
	v, err := verify.ParseLogKey([]byte(vectorKey+"\n"), vectorOrigin)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// isFalse and isMalformed report which of the two an error is; it must never
// be both.
func isFalse(err error) bool {
	var f *verify.FalseError
	return errors.As(err, &f) && !isMalformed(err)
}

func isMalformed(err error) bool {
	var m *verify.MalformedError
	return errors.As(err, &m)
}

func TestOpenCheckpoint(t *testing.T) {
	v := vectorVerifier(t)
	c, err := verify.OpenCheckpoint([]byte(vectorCheckpoint), v)
	if err != nil {
		t.Fatal(err)
	}
	root, _ := base64.StdEncoding.DecodeString("OF2jDzkXKCyJOd/4UZV+UZqxhGsTUaFMCts7EWMnQqo=")
	want := verify.Checkpoint{Origin: vectorOrigin, Size: 3, Root: tlog.Hash(root), Note: []byte(vectorCheckpoint)}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
	if got := verify.FormatCheckpoint(c.Origin, c.Size, c.Root); !strings.HasPrefix(vectorCheckpoint, got+"\n") {
		t.Errorf("FormatCheckpoint = %q", got)
	}
	for _, c := range []struct {
		name, text string
		is         func(error) bool
	}{
		{"another size", strings.Replace(vectorCheckpoint, "\n3\n", "\n4\n", 1), isFalse},
		{"flipped signature", strings.Replace(vectorCheckpoint, "Rgw5i/xf5", "Rgw5i/xf6", 1), isFalse},
		{"no signature of the log", strings.Replace(vectorCheckpoint, "— retrace.example/log1 Rgw5i/", "— retrace.example/log1 Rgw5j/", 1), isFalse},
		{"empty", "", isMalformed},
		{"no signatures", "retrace.example/log1\n3\nx\n", isMalformed},
		{"too long", strings.Repeat("x", verify.MaxCheckpoint+1), isMalformed},
	} {
		if _, err := verify.OpenCheckpoint([]byte(c.text), v); !c.is(err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestOpenCheckpointOfOtherText opens notes that the key signed and that are
// not checkpoints of its log.
func TestOpenCheckpointOfOtherText(t *testing.T) {
	key, err := keys.FromSeed(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := key.NoteSigner("example.com/log")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text string
		is   func(error) bool
	}{
		{"example.com/other\n1\n" + strings.Repeat("A", 43) + "=\n", isFalse},
		{"example.com/log\n01\n" + strings.Repeat("A", 43) + "=\n", isMalformed},
		{"example.com/log\n-1\n" + strings.Repeat("A", 43) + "=\n", isMalformed},
		{"example.com/log\n1\nAAAA\n", isMalformed},
		{"example.com/log\n", isMalformed},
	} {
		signed, err := note.Sign(&note.Note{Text: c.text}, signer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verify.OpenCheckpoint(signed, signer.(note.Verifier)); !c.is(err) {
			t.Errorf("%q: %v", c.text, err)
		}
	}
}

func TestProof(t *testing.T) {
	v := vectorVerifier(t)
	p, err := verify.ParseProof([]byte(vectorProof))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(p.Marshal()); got != vectorProof {
		t.Errorf("Marshal = %q", got)
	}
	// The vector's leaf data is "beta" itself, and a ledger's is 32 bytes: the
	// tree part is checked with the leaf hash, the rest with a commitment.
	c, err := verify.OpenCheckpoint(p.Checkpoint, v)
	if err != nil {
		t.Fatal(err)
	}
	if err := tlog.CheckRecord(p.Hashes, c.Size, c.Root, p.Index, tlog.RecordHash([]byte("beta"))); err != nil {
		t.Error(err)
	}
	if _, err := p.Verify([32]byte{1}, v); !isFalse(err) {
		t.Errorf("Verify of another entry: %v", err)
	}
}

func TestProofVerify(t *testing.T) {
	key, err := keys.FromSeed(bytes.Repeat([]byte{2}, 32))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := key.NoteSigner("example.com/log")
	if err != nil {
		t.Fatal(err)
	}
	v := signer.(note.Verifier)
	commitments := [][32]byte{{1}, {2}, {3}}
	leaf := func(i int) tlog.Hash { return tlog.RecordHash(commitments[i][:]) }
	left := tlog.NodeHash(leaf(0), leaf(1))
	root := tlog.NodeHash(left, leaf(2))
	signed, err := note.Sign(&note.Note{Text: verify.FormatCheckpoint("example.com/log", 3, root)}, signer)
	if err != nil {
		t.Fatal(err)
	}
	p := verify.Proof{Index: 1, Hashes: []tlog.Hash{leaf(0), leaf(2)}, Checkpoint: signed}
	if c, err := p.Verify(commitments[1], v); err != nil || c.Size != 3 {
		t.Errorf("Verify = %+v, %v", c, err)
	}
	for name, wrong := range map[string]verify.Proof{
		"another index":     {Index: 0, Hashes: p.Hashes, Checkpoint: signed},
		"beyond the size":   {Index: 3, Hashes: p.Hashes, Checkpoint: signed},
		"a negative index":  {Index: -1, Hashes: p.Hashes, Checkpoint: signed},
		"a hash left out":   {Index: 1, Hashes: p.Hashes[:1], Checkpoint: signed},
		"a hash too many":   {Index: 1, Hashes: append(p.Hashes[:2:2], root), Checkpoint: signed},
		"swapped hashes":    {Index: 1, Hashes: []tlog.Hash{leaf(2), leaf(0)}, Checkpoint: signed},
		"another signature": {Index: 1, Hashes: p.Hashes, Checkpoint: []byte(vectorCheckpoint)},
	} {
		if _, err := wrong.Verify(commitments[1], v); !isFalse(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (verify.Proof{Index: 1, Hashes: p.Hashes, Checkpoint: []byte("x")}).Verify(commitments[1], v); !isMalformed(err) {
		t.Errorf("no checkpoint: %v", err)
	}
}

func TestParseProofRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":          "",
		"another header": strings.Replace(vectorProof, "@v1", "@v2", 1),
		"no index":       strings.Replace(vectorProof, "index 1\n", "", 1),
		"leading zero":   strings.Replace(vectorProof, "index 1", "index 01", 1),
		"negative":       strings.Replace(vectorProof, "index 1", "index -1", 1),
		"short hash":     strings.Replace(vectorProof, "KhWNiv1I4/iMtBld/bKp5IF9lfpX/TREDZP5quXE+Cs=", "KhWN", 1),
		"loose base64":   strings.Replace(vectorProof, "XE+Cs=", "XE+Ct=", 1),
		"extra":          strings.Replace(vectorProof, "index", "extra AAAA\nindex", 1),
		"carriage":       strings.ReplaceAll(vectorProof, "\n", "\r\n"),
		"no blank line":  strings.Replace(vectorProof, "\n\n", "\n", 1),
	} {
		if p, err := verify.ParseProof([]byte(text)); !isMalformed(err) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func TestVerifyConsistency(t *testing.T) {
	h := func(b byte) tlog.Hash { return tlog.RecordHash([]byte{b}) }
	two, three := tlog.NodeHash(h(1), h(2)), tlog.NodeHash(tlog.NodeHash(h(1), h(2)), h(3))
	cp := func(size int64, root tlog.Hash) verify.Checkpoint {
		return verify.Checkpoint{Origin: "x", Size: size, Root: root}
	}
	for _, c := range []struct {
		name       string
		old, newer verify.Checkpoint
		proof      []tlog.Hash
		holds      bool
	}{
		{"2 in 3", cp(2, two), cp(3, three), []tlog.Hash{h(3)}, true},
		{"same", cp(3, three), cp(3, three), nil, true},
		{"from nothing", cp(0, tlog.Hash{}), cp(3, three), nil, true},
		{"same size, other root", cp(3, two), cp(3, three), nil, false},
		{"smaller", cp(3, three), cp(2, two), nil, false},
		{"another root", cp(2, three), cp(3, three), []tlog.Hash{h(3)}, false},
		{"no proof", cp(2, two), cp(3, three), nil, false},
		{"a proof where none is", cp(3, three), cp(3, three), []tlog.Hash{h(3)}, false},
		{"another log", verify.Checkpoint{Origin: "y", Size: 2, Root: two}, cp(3, three), []tlog.Hash{h(3)}, false},
	} {
		err := verify.VerifyConsistency(c.old, c.newer, c.proof)
		if c.holds && err != nil || !c.holds && !isFalse(err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestParseLogKey(t *testing.T) {
	v := vectorVerifier(t)
	key, err := keys.FromSeed([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f"))
	if err != nil {
		t.Fatal(err)
	}
	pem, err := key.PublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	same, err := verify.ParseLogKey([]byte(pem), vectorOrigin)
	if err != nil {
		t.Fatal(err)
	}
	if same.Name() != v.Name() || same.KeyHash() != v.KeyHash() {
		t.Errorf("PEM gives %s+%08x, the verifier key %s+%08x", same.Name(), same.KeyHash(), v.Name(), v.KeyHash())
	}
	if _, err := verify.OpenCheckpoint([]byte(vectorCheckpoint), same); err != nil {
		t.Error(err)
	}
	if _, err := verify.ParseLogKey([]byte(vectorKey), ""); err != nil {
		t.Errorf("without an origin: %v", err)
	}
	if _, err := verify.ParseLogKey([]byte(vectorKey), "another"); !isFalse(err) {
		t.Errorf("a key of another log: %v", err)
	}
	for name, text := range map[string]string{
		"empty": "", "words": "not a key", "half": vectorKey[:30], "PEM of nothing": "-----BEGIN X-----\n-----END X-----\n",
	} {
		if _, err := verify.ParseLogKey([]byte(text), "x"); !isMalformed(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := verify.ParseLogKey([]byte(pem), ""); !isMalformed(err) {
		t.Errorf("PEM without an origin: %v", err)
	}
}

func FuzzParseProof(f *testing.F) {
	f.Add([]byte(vectorProof))
	f.Add([]byte(strings.Replace(vectorProof, "index", "extra AAAA\nindex", 1)))
	v := vectorVerifier(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := verify.ParseProof(text)
		if err != nil {
			if !isMalformed(err) {
				t.Errorf("ParseProof: %v", err)
			}
			return
		}
		if again := p.Marshal(); !bytes.Equal(again, text) {
			t.Errorf("%q is read and comes back as %q", text, again)
		}
		if _, err := p.Verify([32]byte{1}, v); err == nil {
			t.Error("a proof for a commitment that the log does not hold")
		}
	})
}

func FuzzOpenCheckpoint(f *testing.F) {
	f.Add([]byte(vectorCheckpoint))
	v := vectorVerifier(f)
	f.Fuzz(func(t *testing.T, signed []byte) {
		c, err := verify.OpenCheckpoint(signed, v)
		switch {
		case err == nil:
			if c.Size != 3 || c.Origin != vectorOrigin {
				t.Errorf("%q opens as %+v; the key signed one checkpoint", signed, c)
			}
		case !isFalse(err) && !isMalformed(err):
			t.Errorf("OpenCheckpoint: %v is neither", err)
		}
	})
}
