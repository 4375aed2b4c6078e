package verify_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/verify"
)

func cosigner(t *testing.T, name string) *torchwood.CosignatureSigner {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := torchwood.NewCosignatureSigner(name, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPolicy(t *testing.T) {
	k, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := k.NoteSigner("log.example/1")
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := k.VKey("log.example/1")
	if err != nil {
		t.Fatal(err)
	}
	log, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	_, otherVKey, err := note.GenerateKey(rand.Reader, "log.example/2")
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := cosigner(t, "a.example"), cosigner(t, "b.example"), cosigner(t, "c.example")
	text := verify.FormatCheckpoint("log.example/1", 7, tlog.Hash{1})
	sign := func(by ...note.Signer) verify.Checkpoint {
		signed, err := note.Sign(&note.Note{Text: text}, append([]note.Signer{signer}, by...)...)
		if err != nil {
			t.Fatal(err)
		}
		cp, err := verify.OpenCheckpoint(signed, log)
		if err != nil {
			t.Fatal(err)
		}
		return cp
	}
	lines := fmt.Sprintf("# ours\nwitness a %s http://127.0.0.1:1/\nwitness b %s\nwitness c %s\ngroup two 2 a b c\n", a.Verifier(), b.Verifier(), c.Verifier())
	for _, tt := range []struct {
		name   string
		policy string
		cp     verify.Checkpoint
		found  int
		holds  bool
	}{
		{"two of three", lines + "quorum two", sign(a, b), 2, true},
		{"all three", lines + "quorum two", sign(c, a, b), 3, true},
		{"one of three", lines + "quorum two", sign(a), 1, false},
		{"none", lines + "quorum two", sign(), 0, false},
		{"one twice", lines + "quorum two", sign(a, a), 1, false},
		{"a stranger", lines + "quorum two", sign(a, cosigner(t, "a.example"), cosigner(t, "d.example")), 1, false},
		{"no quorum", lines + "quorum none", sign(c), 1, true},
		{"one witness", lines + "quorum b", sign(b), 1, true},
		{"our log", "log " + vkey + "\n" + lines + "quorum b", sign(b), 1, true},
		{"one of two logs", "log " + otherVKey + " https://log.example/\nlog " + vkey + "\n" + lines + "quorum b", sign(b), 1, true},
		{"another log", "log " + otherVKey + "\n" + lines + "quorum b", sign(b), -1, false},
	} {
		p, err := verify.ParsePolicy([]byte(tt.policy))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		found, err := p.Cosignatures(tt.cp, log)
		if tt.found >= 0 && (err != nil || len(found) != tt.found) {
			t.Errorf("%s: Cosignatures = %v, %v, want %d", tt.name, found, err, tt.found)
		}
		_, err = p.Check(tt.cp, log)
		var no *verify.FalseError
		if (err == nil) != tt.holds || err != nil && !errors.As(err, &no) {
			t.Errorf("%s: Check = %v, want it to hold: %v", tt.name, err, tt.holds)
		}
	}
	// A cosignature over another checkpoint is false, not absent.
	p, err := verify.ParsePolicy([]byte(lines + "quorum b"))
	if err != nil {
		t.Fatal(err)
	}
	good := sign(a, b)
	elsewhere, err := note.Sign(&note.Note{Text: verify.FormatCheckpoint("log.example/1", 7, tlog.Hash{2})}, c)
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(elsewhere), "\n\n")
	good.Note = append(good.Note, line...)
	var no *verify.FalseError
	if _, err := p.Check(good, log); !errors.As(err, &no) {
		t.Errorf("Check of a cosignature over something else = %v, want a FalseError", err)
	}

	for _, bad := range []string{
		"", "\f", "quorum", "quorum a", "witness a\nquorum a", "nonsense\nquorum none", "log x\nquorum none",
		lines, lines + "quorum two\nquorum two", lines + "quorum two three", lines + "group more 1 a\nquorum more",
		lines + "group three 3 two\nquorum three", lines + "group self 1 self\nquorum self",
		lines + "witness again " + a.Verifier().String() + "\nquorum two",
		"witness a " + vkey + "\nquorum a",
		"witness a " + a.Verifier().String() + " file:///etc/passwd\nquorum a",
		"witness a " + a.Verifier().String() + " https://a.example/ more\nquorum a",
	} {
		var malformed *verify.MalformedError
		if _, err := verify.ParsePolicy([]byte(bad)); !errors.As(err, &malformed) {
			t.Errorf("ParsePolicy(%q) = %v, want a MalformedError", bad, err)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte("witness a a.example+00000000+BAAA http://a/\ngroup g any a\nquorum g\n"))
	f.Add([]byte("quorum none\n"))
	f.Add([]byte("\f\nquorum none\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := verify.ParsePolicy(text)
		if (p == nil) == (err == nil) {
			t.Errorf("ParsePolicy(%q) = %v, %v", text, p, err)
		}
	})
}
