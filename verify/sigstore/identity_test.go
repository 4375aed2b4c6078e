package sigstore

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify/sigstore/sigstoretest"
)

var update = flag.Bool("update", false, "rewrite golden files")

const (
	beacon  = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main"
	actions = "https://token.actions.githubusercontent.com"
)

// publicGood is the trusted root of the public instance, as sigstore-go keeps it.
func publicGood(t testing.TB) string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/sigstore/sigstore-go").Output()
	if err != nil {
		t.Fatalf("go list -m github.com/sigstore/sigstore-go: %v", err)
	}
	raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "examples", "trusted-root-public-good.json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func newIdentity(t testing.TB, who schema.Identity) *Identity {
	t.Helper()
	i, err := New(who)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestCorpus verifies the bundles of sigstore-conformance: those that must
// verify do, and those that must not, do not, for the reason that they are
// there for.
func TestCorpus(t *testing.T) {
	const golden = "testdata/corpus.golden"
	folders, _ := filepath.Glob("../../../shared/corpus/sigstore/*/bundle.sigstore.json") // the pattern is well-formed
	if len(folders) == 0 {
		const reason = "../shared/corpus is not beside this clone"
		if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	var got bytes.Buffer
	verified, refused := 0, 0
	for _, file := range folders {
		folder := filepath.Base(filepath.Dir(file))
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		who := schema.Identity{Subject: beacon, Issuer: actions, TrustedRoot: publicGood(t)}
		if own, err := os.ReadFile(filepath.Join(filepath.Dir(file), "trusted_root.json")); err == nil {
			who.TrustedRoot = string(own)
		}
		err = verifyFile(t, who, raw)
		if must := !strings.HasSuffix(folder, "_fail"); (err == nil) != must {
			t.Errorf("%s: verifies = %v, want %v: %v", folder, err == nil, must, err)
		}
		if err != nil {
			refused++
			fmt.Fprintf(&got, "%s: refused: %v\n", folder, err)
			continue
		}
		verified++
		fmt.Fprintf(&got, "%s: signed by %s by %s\n", folder, who.Subject, who.Issuer)
	}
	fmt.Fprintf(&got, "%d verified, %d refused\n", verified, refused)
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func verifyFile(t *testing.T, who schema.Identity, raw []byte) error {
	t.Helper()
	if !bytes.Contains(raw, []byte(`"dsseEnvelope"`)) {
		return newIdentity(t, who).VerifyBare(raw)
	}
	env, err := schema.ParseEnvelope(raw)
	if err != nil {
		t.Fatal(err)
	}
	return newIdentity(t, who).Verify(env)
}

const (
	builder = "https://git.example.com/ml/trainer/.github/workflows/build.yml@refs/heads/main"
	login   = "https://token.example.com"
)

// statement is about the bytes "hello\n".
var statement = []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"m","digest":{"sha256":"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"}}],"predicateType":"https://example.com/p/v1","predicate":{}}`)

func verifies(t *testing.T, i *Identity, raw []byte) error {
	t.Helper()
	env, err := schema.ParseEnvelope(raw)
	if err != nil {
		t.Fatal(err)
	}
	return i.Verify(env)
}

func TestVerify(t *testing.T) {
	ours, theirs := sigstoretest.New(t), sigstoretest.New(t)
	for _, root := range []struct{ logs, times bool }{{true, true}, {true, false}, {false, true}} {
		who := schema.Identity{Subject: builder, Issuer: login, TrustedRoot: ours.TrustedRoot(root.logs, root.times)}
		i := newIdentity(t, who)
		if i.ID() != who.ID() {
			t.Errorf("ID is %s, want %s", i.ID(), who.ID())
		}
		for version := range sigstoretest.MediaTypes {
			good := ours.Bundle(version, builder, login, statement)
			if err := verifies(t, i, good); err != nil {
				t.Errorf("%+v: version %s: %v", root, version, err)
			}
			subject, issuer, err := certified(t, good)
			if subject != builder || issuer != login || err != nil {
				t.Errorf("version %s is certified to be by %s by %s (%v)", version, subject, issuer, err)
			}
			other := bytes.Replace(statement, []byte(`"m"`), []byte(`"n"`), 1)
			for what, bad := range map[string]struct {
				raw  []byte
				want string
			}{
				"somebody else":    {ours.Bundle(version, "mallory@example.com", login, statement), "its certificate is of mallory@example.com by " + login},
				"another issuer":   {ours.Bundle(version, builder, "https://login.example.org", statement), "by https://login.example.org, not of"},
				"another instance": {theirs.Bundle(version, builder, login, statement), ""},
				"another payload":  {sigstoretest.Tamper(t, good, other), ""},
			} {
				if err := verifies(t, i, bad.raw); err == nil || !strings.Contains(err.Error(), bad.want) {
					t.Errorf("%+v: version %s by %s: %v, want %q", root, version, what, err, bad.want)
				}
			}
			if err := verifies(t, i, ours.BundleAt(time.Now().Add(3*time.Hour), version, builder, login, statement)); root.logs && err == nil {
				t.Errorf("%+v: version %s signed after its certificate expired verifies", root, version)
			}
		}
	}
}

func certified(t *testing.T, raw []byte) (string, string, error) {
	t.Helper()
	env, err := schema.ParseEnvelope(raw)
	if err != nil {
		t.Fatal(err)
	}
	return Certified(env.Certificate)
}

// TestVerifyReadsOnce changes what surrounds a good signature so that another
// parser may find another statement in it.
func TestVerifyReadsOnce(t *testing.T) {
	s := sigstoretest.New(t)
	i := newIdentity(t, *s.Identity(builder, login))
	good := s.Bundle("0.3", builder, login, statement)
	env, err := schema.ParseEnvelope(good)
	if err != nil {
		t.Fatal(err)
	}
	env.Payload = bytes.Replace(env.Payload, []byte(`"m"`), []byte(`"n"`), 1)
	if err := i.Verify(env); err == nil || !strings.Contains(err.Error(), "in two ways") {
		t.Errorf("a payload that is not the signed one: %v", err)
	}
	bare, err := schema.NewEnvelope(schema.PayloadType, statement)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Verify(bare); err == nil || !strings.Contains(err.Error(), "not a Sigstore bundle") {
		t.Errorf("a bare envelope: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	s := sigstoretest.New(t)
	for what, c := range map[string]struct {
		who  schema.Identity
		want string
	}{
		"no subject": {schema.Identity{Issuer: login, TrustedRoot: s.TrustedRoot(true, true)}, "a subject and the issuer"},
		"no issuer":  {schema.Identity{Subject: builder, TrustedRoot: s.TrustedRoot(true, true)}, "a subject and the issuer"},
		"no root":    {schema.Identity{Subject: builder, Issuer: login, TrustedRoot: "{}"}, "reading the trusted root"},
		"no times":   {schema.Identity{Subject: builder, Issuer: login, TrustedRoot: s.TrustedRoot(false, false)}, "neither a transparency log nor a timestamp authority"},
		"a long one": {schema.Identity{Subject: builder, Issuer: login, TrustedRoot: strings.Repeat(" ", schema.MaxTrustedRoot+1)}, "the limit is"},
	} {
		if _, err := New(c.who); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}

// FuzzVerify hands an identity bundles with anything in them: none may panic,
// and none but the one that it signed verifies.
func FuzzVerify(f *testing.F) {
	s := sigstoretest.New(f)
	i := newIdentity(f, *s.Identity(builder, login))
	for version := range sigstoretest.MediaTypes {
		f.Add(s.Bundle(version, builder, login, statement))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		env, err := schema.ParseEnvelope(raw)
		if err != nil {
			i.VerifyBare(raw)
			return
		}
		if i.Verify(env) == nil && !bytes.Equal(env.Payload, statement) {
			t.Errorf("verifies with the payload %s", env.Payload)
		}
	})
}
