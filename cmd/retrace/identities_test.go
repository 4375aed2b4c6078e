package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify/sigstore/sigstoretest"
)

// build is provenance of a model, as a CI service states it.
func build(name string) []byte {
	digest := sha256.Sum256([]byte(name))
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":%q,"digest":{"sha256":"%x"}}],"predicateType":"https://slsa.dev/provenance/v1",`+
		`"predicate":{"buildDefinition":{"buildType":"https://actions.github.io/buildtypes/workflow/v1","externalParameters":{}},"runDetails":{"builder":{"id":"https://git.example.com/ci"}}}}`, name, digest)
}

// shown is what `retrace show -o json entry:N` says.
type shown struct {
	Evidence    string
	Signers     []string
	Certificate *certificateJSON
}

func show(t *testing.T, dir string, entry int) (e shown) {
	t.Helper()
	if err := json.Unmarshal([]byte(done(t, dir, "show", "-o", "json", fmt.Sprint("entry:", entry))), &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestRecordIdentity records bundles that are verified under a trusted root,
// trusts who signed them, and checks it offline, by another machine's server and
// in an audit of the ledger.
func TestRecordIdentity(t *testing.T) {
	t.Parallel()
	const builder, login = "https://git.example.com/ml/.github/workflows/build.yml@refs/heads/main", "https://token.example.com"
	ours, theirs := sigstoretest.New(t), sigstoretest.New(t)
	dir := t.TempDir()
	write := func(name string, raw ...[]byte) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), slices.Concat(raw...), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	write("root.json", []byte(ours.TrustedRoot(true, true)))
	identity := []string{"--trusted-root", "root.json", "--certificate-identity", builder, "--certificate-oidc-issuer", login}
	with := func(args ...string) []string { return append(args, identity...) }
	refused := func(want string, args ...string) {
		t.Helper()
		if out, errs, status := retrace(t, dir, args...); status != 2 || !strings.Contains(errs, want) {
			t.Errorf("retrace %s ended with %d: %s%s, want 2 and %q", strings.Join(args, " "), status, out, errs, want)
		}
	}
	done(t, dir, "init")
	lines := [][]byte{ours.Bundle("0.1", builder, login, build("a")), []byte("\r\n"), ours.Bundle("0.2", builder, login, build("b")), []byte("\n\n"), ours.Bundle("0.3", builder, login, build("c"))}
	good := write("good.jsonl", lines...)
	refused("line 1: does not verify: ", with("record", write("tampered.jsonl", sigstoretest.Tamper(t, lines[0], build("x")), []byte("\n"), lines[2]))...)
	refused("does not verify: ", with("record", write("payload.json", sigstoretest.Tamper(t, lines[4], build("x"))))...)
	refused("does not verify: its certificate is of mallory@example.com by "+login, with("record", write("mallory.json", ours.Bundle("0.3", "mallory@example.com", login, build("a"))))...)
	refused("does not verify: ", with("record", write("foreign.json", theirs.Bundle("0.3", builder, login, build("a"))))...)
	refused("does not verify: it is not a Sigstore bundle with a certificate", with("record", write("bare.json", build("a")))...)
	refused("go together", "record", "--trusted-root", "root.json", good)
	refused("root2.json: reading the trusted root", "record", "--trusted-root", write("root2.json"), "--certificate-identity", builder, "--certificate-oidc-issuer", login, good)
	if n := size(t, dir); n != 1 {
		t.Errorf("%d entries after what was refused", n)
	}

	var recorded []recordedJSON
	if err := json.Unmarshal([]byte(done(t, dir, with("record", "-o", "json", good)...)), &recorded); err != nil {
		t.Fatal(err)
	}
	if len(recorded) != 3 || recorded[2].Signer == nil || *recorded[2].Signer != (certificateJSON{builder, login}) || recorded[2].Where != "line 4" {
		t.Errorf("recorded %+v", recorded)
	}
	who := ours.Identity(builder, login)
	recognized := show(t, dir, 3)
	if recognized.Evidence != "claimed" || len(recognized.Signers) != 1 || !strings.HasPrefix(recognized.Signers[0], builder+" by "+login+" under sha256:") || *recognized.Certificate != (certificateJSON{builder, login}) {
		t.Errorf("entry 3 is %+v", recognized)
	}
	before := size(t, dir)
	if done(t, dir, with("record", good)...); size(t, dir) != before {
		t.Error("recording it again says something new")
	}
	// The ledger knows the identity: what passes itself off as its is refused.
	refused("the bundle does not verify as signed by "+builder, "record", "foreign.json")

	done(t, dir, with("keys", "trust", "--name", "CI", "--type", "https://slsa.dev/provenance/v1")...)
	if e := show(t, dir, 3); e.Evidence != "attested" {
		t.Errorf("once trusted, entry 3 is %+v", e)
	}
	refused("give one of them", with("keys", "trust", "x.pub")...)
	refused("want the FILE of a public key, or --certificate-identity", "keys", "trust")
	if out := done(t, dir, "keys"); !strings.Contains(out, "recognize") || !strings.Contains(out, "CI") {
		t.Errorf("retrace keys: %s", out)
	}
	subject := hex.EncodeToString(sum("c"))
	done(t, dir, "prove", "sha256:"+subject, "--bundle", "b")
	if out := done(t, dir, "verify", "b", "--key", ".retrace/log.vkey"); !strings.Contains(out, "attested  "+builder+" by "+login) {
		t.Errorf("offline: %s", out)
	}
	// By the verifier's own trust, whatever the operator's is.
	write("others.json", []byte(theirs.TrustedRoot(true, true)))
	own := []string{"verify", "b", "--key", ".retrace/log.vkey", "--certificate-identity", builder, "--certificate-oidc-issuer", login, "--trusted-root"}
	if out := done(t, dir, append(own, "root.json")...); !strings.Contains(out, "graded by the verifier's own keys") || !strings.Contains(out, "attested  "+builder) {
		t.Errorf("by the verifier's own trust: %s", out)
	}
	if out := done(t, dir, append(own, "others.json")...); strings.Contains(out, "attested") {
		t.Errorf("under a root of others: %s", out)
	}
	if out := done(t, dir, "impact", "key:"+recognized.Signers[0], "-o", "json"); !strings.Contains(out, `"running": 0`) {
		t.Errorf("what rests on the identity's word: %s", out)
	}
	done(t, dir, "fsck")

	// Through a server, with a token that records and trusts nobody.
	address, stop := serveSources(t, dir, "  []\n")
	defer stop()
	token := strings.TrimSpace(done(t, dir, "tokens", "create", "ci", "--role", "recorder"))
	remote := func(args ...string) (string, string, int) {
		t.Helper()
		cmd := retraceCommand(t, t.TempDir(), args...)
		cmd.Env = append(cmd.Env, "RETRACE_TOKEN="+token, "XDG_CONFIG_HOME="+t.TempDir())
		raw, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(raw), "", cmd.ProcessState.ExitCode()
	}
	more := write("more.json", ours.Bundle("0.3", builder, login, build("d")))
	if out, _, status := remote("--server", "http://"+address, "record", filepath.Join(dir, more)); status != 0 {
		t.Errorf("through a server: %d %s", status, out)
	}
	n := size(t, dir)
	if e := show(t, dir, n-1); e.Evidence != "attested" {
		t.Errorf("through a server, entry %d is %+v", n-1, e)
	}
	if out, _, status := remote("--server", "http://"+address, "record", filepath.Join(dir, "foreign.json")); status != 2 || !strings.Contains(out, "does not verify as signed by") || size(t, dir) != n {
		t.Errorf("through a server, what is not by the identity: %d %s", status, out)
	}

	// A replay grades what it reads by what was known before: the last one only.
	if out := done(t, dir, "audit", "--ledger", ".retrace", "--key", ".retrace/log.vkey"); !strings.Contains(out, " 1 attested, ") {
		t.Errorf("the audit of the ledger: %s", out)
	}

	done(t, dir, "keys", "revoke", "--certificate-identity", builder, "--certificate-oidc-issuer", login, "--since", "2020-01-01", "--reason", "the workflow was taken over")
	if e := show(t, dir, 3); e.Evidence != "claimed" || !slices.Contains(e.Signers, who.ID()) && len(e.Signers) != 1 {
		t.Errorf("once revoked, entry 3 is %+v", e)
	}
	refused("no entry trusts ada@example.com by "+login, "keys", "revoke", "--certificate-identity", "ada@example.com", "--certificate-oidc-issuer", login)
}

func sum(name string) []byte {
	digest := sha256.Sum256([]byte(name))
	return digest[:]
}

// TestRecordModelSignature signs a model with a key as the OpenSSF does: its
// files lead to the signature, which is attested once the key is trusted.
func TestRecordModelSignature(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"config.json": "hello\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		pem, err := keys.MarshalPublic(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		name := curve.Params().Name
		statement := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":%q,"digest":{"sha256":"96cb8058ed58b58f8fc0ad459bacf81108599b403e91674460ccb089f8ebb9db"}}],`+
			`"predicateType":"https://model_signing/signature/v1.0","predicate":{"serialization":{"method":"files","hash_type":"sha256","allow_symlinks":false,"ignore_paths":["model.sig"]},"resources":[`+
			`{"name":"config.json","algorithm":"sha256","digest":"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"},`+
			`{"name":"model.bin","algorithm":"sha256","digest":"e258d248fda94c63753607f7c4494ee0fcbe92f1a76bfdac795c9d84101eb317"}]}}`, "forecast-"+name)
		h := map[string]crypto.Hash{"P-256": crypto.SHA256, "P-384": crypto.SHA384, "P-521": crypto.SHA512}[name].New()
		h.Write(dsse.PAE(schema.PayloadType, statement))
		sig, err := ecdsa.SignASN1(rand.Reader, key, h.Sum(nil))
		if err != nil {
			t.Fatal(err)
		}
		hint := sha256.Sum256([]byte(pem))
		bundle := fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"%x"}},"dsseEnvelope":{"payload":%q,"payloadType":"application/vnd.in-toto+json","signatures":[{"sig":%q,"keyid":null}]}}`,
			hint, base64.StdEncoding.EncodeToString(statement), base64.StdEncoding.EncodeToString(sig))
		for file, text := range map[string]string{name + ".sig": bundle, name + ".pub": pem} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	done(t, dir, "init")
	done(t, dir, "run", "--in", "config.json", "--out", "model.bin", "--", "sh", "-c", "echo world >model.bin")
	done(t, dir, "record", "P-256.sig", "P-384.sig", "P-521.sig")
	for i, curve := range []string{"P-256", "P-384", "P-521"} {
		if e := show(t, dir, i+2); e.Evidence != "claimed" {
			t.Errorf("%s is %+v before its key is trusted", curve, e)
		}
		done(t, dir, "keys", "trust", curve+".pub", "--type", schema.ModelSignatureV1)
		if e := show(t, dir, i+2); e.Evidence != "attested" || len(e.Signers) != 1 {
			t.Errorf("%s is %+v once its key is trusted", curve, e)
		}
	}
	if out := done(t, dir, "lineage", "--down", "./model.bin"); !strings.Contains(out, "forecast-P-256") {
		t.Errorf("what the model's file is in: %s", out)
	}
	if out := done(t, dir, "lineage", "sha256:96cb8058"); !strings.Contains(out, "config.json") || !strings.Contains(out, "echo world") {
		t.Errorf("what the model is made of: %s", out)
	}
}
