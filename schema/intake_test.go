package schema

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// hello and world are the digests of "hello\n" and "world\n".
const (
	hello = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
	world = "e258d248fda94c63753607f7c4494ee0fcbe92f1a76bfdac795c9d84101eb317"
)

// envelopeOf is a DSSE envelope around a statement, as `cosign download
// attestation` prints one, with a signature that nobody checks here.
func envelopeOf(statement string) string {
	return `{"payloadType":"application/vnd.in-toto+json","payload":"` + base64.StdEncoding.EncodeToString([]byte(statement)) + `","signatures":[{"keyid":"","sig":"MEUCIQ=="}]}`
}

// bundleOf is a Sigstore bundle of a version around an envelope, as that
// version lays it out.
func bundleOf(version, statement string) string {
	mediaType, certificate := "application/vnd.dev.sigstore.bundle+json;version="+version, `"x509CertificateChain":{"certificates":[{"rawBytes":"`+certificate64+`"}]}`
	proof := `"inclusionProof":{"logIndex":"1","rootHash":"AAAA","treeSize":"2","hashes":["AAAA"],"checkpoint":{"envelope":"rekor.sigstore.dev - 1\n2\nAAAA\n"}}`
	switch version {
	case "0.1":
		proof = `"inclusionPromise":{"signedEntryTimestamp":"AAAA"}`
	case "0.3":
		mediaType, certificate = "application/vnd.dev.sigstore.bundle.v0.3+json", `"certificate":{"rawBytes":"`+certificate64+`"}`
	}
	return `{"mediaType":"` + mediaType + `","verificationMaterial":{` + certificate + `,"tlogEntries":[{"logIndex":"1","logId":{"keyId":"AAAA"},"kindVersion":{"kind":"dsse","version":"0.0.1"},` + proof +
		`,"canonicalizedBody":"AAAA"}],"timestampVerificationData":{"rfc3161Timestamps":[]}},"dsseEnvelope":` + envelopeOf(statement) + `}`
}

func statementOf(predicateType, predicate string) string {
	return `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"out","digest":{"sha256":"` + hex64 + `"}}],"predicateType":"` + predicateType + `","predicate":` + predicate + `}`
}

// TestIntakeForms hands in the same statements in every form in which tools
// print them.
func TestIntakeForms(t *testing.T) {
	provenance := statementOf(ProvenanceV1, `{"buildDefinition":{"buildType":"https://actions.github.io/buildtypes/workflow/v1","externalParameters":{}},"runDetails":{"builder":{"id":"b"}}}`)
	b1, b2, b3, env := bundleOf("0.1", provenance), bundleOf("0.2", provenance), bundleOf("0.3", provenance), envelopeOf(provenance)
	long := statementOf("https://example.com/p/v1", `{"log":"`+strings.Repeat("x", 1<<20)+`"}`)
	for what, c := range map[string]struct {
		raw  string
		want []string // where each document is
	}{
		"JSON Lines of all versions":           {b1 + "\n" + b2 + "\n" + b3 + "\n", []string{"line 1", "line 2", "line 3"}},
		"with blank lines":                     {"\n" + b3 + "\n\n\n" + env + "\n\n", []string{"line 2", "line 5"}},
		"with CRLF":                            {b3 + "\r\n" + env + "\r\n", []string{"line 1", "line 2"}},
		"with a byte order mark":               {"\ufeff" + provenance, []string{""}},
		"a byte order mark and lines":          {"\ufeff" + env + "\r\n" + env, []string{"line 1", "line 2"}},
		"one after the other in a line":        {provenance + env + b3, []string{"line 1", "line 1", "line 1"}},
		"lines of a megabyte":                  {long + "\n" + envelopeOf(long) + "\n", []string{"line 1", "line 2"}},
		"an array of statements":               {"[" + provenance + "," + provenance + "]", []string{"0", "1"}},
		"an array in a line after a statement": {provenance + "\n[" + env + "]", []string{"line 1", "line 2: 0"}},
		"GitHub's API":                         {`{"attestations":[{"bundle":` + b3 + `,"repository_id":1,"bundle_url":"https://example.com/b"}]}`, []string{"attestations.0.bundle"}},
		"gh attestation verify":                {`[{"attestation":{"bundle":` + b3 + `,"bundle_url":"","initiator":"user"},"verificationResult":{"mediaType":"x"}}]`, []string{"0: attestation.bundle"}},
		"npm's registry":                       {`{"attestations":[{"predicateType":"` + ProvenanceV1 + `","bundle":` + b2 + `}]}`, []string{"attestations.0.bundle"}},
		"Statement v0.1":                       {strings.Replace(provenance, "Statement/v1", "Statement/v0.1", 1), []string{""}},
		"a media type with a space":            {strings.Replace(b1, ";version", "; version", 1), []string{""}},
		"a media type as in newer versions":    {strings.Replace(b2, "bundle+json;version=0.2", "bundle.v0.2+json", 1), []string{""}},
		"a bundle with a key":                  {strings.Replace(b3, `"certificate":{"rawBytes":"`+certificate64+`"}`, `"publicKey":{"hint":"`+hello+`","rawBytes":"AAAA"}`, 1), []string{""}},
		"a bundle without log entries": {`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":""}},"dsseEnvelope":` +
			strings.Replace(env, `"keyid":""`, `"keyid":null`, 1) + `}`, []string{""}},
		"a chain in version 0.3": {`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"x509CertificateChain":{"certificates":[{"rawBytes":"` + certificate64 + `"}]},"tlogEntries":[]},"dsseEnvelope":` + env + `}`, []string{""}},
	} {
		docs, err := ParseDocument([]byte(c.raw))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		var where []string
		for _, d := range docs {
			where = append(where, d.Where)
			if !d.Bare() && !strings.Contains(c.raw, string(d.Envelope.Raw)) {
				t.Errorf("%s: %s was not kept byte for byte", what, d.Where)
			}
		}
		if diff := cmp.Diff(c.want, where); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

// TestIntakeRefuses hands in what lacks something that its specification asks
// for.
func TestIntakeRefuses(t *testing.T) {
	plain := statementOf("https://example.com/p/v1", "{}")
	b1, b2, b3 := bundleOf("0.1", plain), bundleOf("0.2", plain), bundleOf("0.3", plain)
	vsa := `{"verifier":{"id":"v"},"timeVerified":"2026-01-02T03:04:05Z","resourceUri":"r","policy":{"uri":"p"},"verificationResult":"PASSED","verifiedLevels":["SLSA_BUILD_LEVEL_2"]}`
	model := `{"resources":[{"name":"a","algorithm":"sha256","digest":"` + hello + `"}],"serialization":{"method":"files","hash_type":"sha256"}}`
	modelStatement := strings.Replace(statementOf(ModelSignatureV1, model), hex64, string(BytesKey([]byte("x")).Hex()), 1)
	for _, c := range []struct{ raw, old, new, want string }{
		{b3, "bundle.v0.3+json", "bundle.v0.4+json", `mediaType: "application/vnd.dev.sigstore.bundle.v0.4+json" is not a version of Sigstore bundles that is read: 0.1, 0.2 or 0.3`},
		{b3, `"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",`, "", `mediaType: missing; want "application/vnd.dev.sigstore.bundle.v0.3+json"`},
		{b3, `"verificationMaterial"`, `"x"`, "verificationMaterial: missing"},
		{b3, `"certificate"`, `"x"`, "verificationMaterial: has 0 of publicKey, certificate and x509CertificateChain; want one"},
		{b3, `"certificate"`, `"publicKey":{},"certificate"`, "verificationMaterial: has 2 of publicKey, certificate and x509CertificateChain; want one"},
		{b3, certificate64, "", "verificationMaterial.certificate.rawBytes: missing"},
		{b3, certificate64, "AAAA", "verificationMaterial.certificate.rawBytes: is not an X.509 certificate in DER: x509: malformed certificate"},
		{b2, certificate64, "AAAA", "verificationMaterial.x509CertificateChain.certificates.0.rawBytes: is not an X.509 certificate in DER: x509: malformed certificate"},
		{b2, `[{"rawBytes":"` + certificate64 + `"}]`, "[]", "verificationMaterial.x509CertificateChain.certificates: missing or empty"},
		{b1, `"inclusionPromise"`, `"x"`, "verificationMaterial.tlogEntries.0.inclusionPromise: missing; version 0.1 asks for it"},
		{b2, `"inclusionProof"`, `"x"`, "verificationMaterial.tlogEntries.0.inclusionProof: missing; version 0.2 asks for it"},
		{b3, `"checkpoint"`, `"x"`, "verificationMaterial.tlogEntries.0.inclusionProof.checkpoint: missing; version 0.3 asks for it"},
		{b3, `"signatures":[`, `"signatures":[{"sig":"AAAA"},`, "dsseEnvelope.signatures: has 2; in a bundle there is exactly one"},
		{b3, `"signatures":[{"keyid":"","sig":"MEUCIQ=="}]`, `"signatures":[]`, "dsseEnvelope.signatures: has 0; in a bundle there is exactly one"},
		{b3, `"dsseEnvelope"`, `"messageSignature":{},"dsseEnvelope"`, "messageSignature: stands beside a dsseEnvelope; a bundle has one of them"},
		{`{"attestations":[{"bundle":null,"bundle_url":"https://example.com/b"}]}`, "", "", "attestations.0.bundle: missing; only its address is given, in bundle_url: get it with `gh attestation download`"},
		{`{"base64Signature":"AA==","cert":"","rekorBundle":{}}`, "", "", "bundle of cosign's own, older format: not supported; it does not hold what was signed; cosign makes Sigstore bundles with --new-bundle-format"},
		{`{"critical":{"image":{}},"optional":null}`, "", "", "claim of a signature on an image (simple signing): not supported; it states no step; want an in-toto statement, a DSSE envelope or a Sigstore bundle"},
		{`{"signatures":[],"signed":{"_type":"link","name":"x"}}`, "", "", "in-toto link of before statements: not supported; want an in-toto statement of the type " + LinkV03},
		{"\xff\xfe{\x00}\x00", "", "", "UTF-16 text: not supported; JSON is UTF-8"},
		{statementOf(ProvenanceV1, `{"buildDefinition":{"buildType":"t"},"runDetails":{"builder":{"id":"b"}}}`), "", "", "predicate.buildDefinition.externalParameters: missing"},
		{statementOf(ProvenanceV1, `{"buildDefinition":{"buildType":"t","externalParameters":[]},"runDetails":{"builder":{"id":"b"}}}`), "", "", "predicate.buildDefinition.externalParameters: a JSON array is not allowed here; want an object"},
		{statementOf("https://example.com/p/v1", "{}"), `"out"`, `"{{ .Image }}"`, `subject.0.name: "{{ .Image }}" was not filled in: the document is a template`},
		{statementOf(ProvenanceV02, `{"builder":{"id":"https://ci/${BUILDER}"},"buildType":"t"}`), "", "", `predicate: the builder is "https://ci/${BUILDER}", which was not filled in: the document is a template`},
		{statementOf(ProvenanceV02, `{"builder":{"id":"b"},"buildType":"t","materials":[{"uri":"git+https://h/${{ github.repository }}"}]}`), "", "",
			`predicate: names the location "git+https://h/${{ github.repository }}", which was not filled in: the document is a template`},
		{statementOf(VSAv1, vsa), `"policy":{"uri":"p"},`, "", "predicate.policy: missing"},
		{statementOf(VSAv1, vsa), `{"uri":"p"}`, "{}", "predicate.policy.uri: missing; it says which policy was applied"},
		{statementOf(VSAv1, vsa), `,"verifiedLevels":["SLSA_BUILD_LEVEL_2"]`, "", "predicate.verifiedLevels: missing; it is an array, empty where nothing was reached"},
		{statementOf(VSAv1, vsa), `{"uri":"p"}`, `{"uri":"p","digest":{"sha256":"x"}}`, `predicate.policy.digest.sha256: "x" is not a sha256 digest: want 64 lower-case hex digits`},
		{statementOf(VSAv1, vsa), `"PASSED"`, `"YES"`, `predicate.verificationResult: "YES" is neither PASSED nor FAILED`},
		{statementOf(VSAv02, `{"verifier":{"id":"v"},"verification_result":"PASSED"}`), "", "", "predicate.resource_uri: missing"},
		{statementOf(SCAIv03, `{}`), "", "", "predicate.attributes: missing or empty"},
		{statementOf(SCAIv03, `{"attributes":[{"conditions":{}}]}`), "", "", "predicate.attributes.0.attribute: missing"},
		{statementOf(SCAIv03, `{"attributes":[{"attribute":"a","evidence":{"name":"n"}}]}`), "", "", "predicate.attributes.0.evidence: has none of digest, uri and content"},
		{statementOf(ModelSignatureV1, "{}"), "", "", "predicate.resources: missing or empty; they are the files that are signed"},
		{modelStatement, "", "", "subject.0.digest.sha256: is not the digest of the resources listed, " + string(BytesKey(mustHex(t, hello)).Hex())},
		{modelStatement, `"files"`, `"zip"`, `predicate.serialization.method: "zip" is neither files nor shards`},
		{modelStatement, `"method":"files",`, "", "predicate.serialization.method: missing; want files or shards"},
		{modelStatement, `,"hash_type":"sha256"`, "", "predicate.serialization.hash_type: missing"},
		{modelStatement, `"name":"a"`, `"name":"../a"`, `predicate.resources.0.name: "../a" is not a path below the model's folder`},
		{modelStatement, `"name":"a"`, `"name":"/a"`, `predicate.resources.0.name: "/a" is not a path below the model's folder`},
		{modelStatement, `"name":"a"`, `"name":""`, "predicate.resources.0.name: missing"},
		{modelStatement, `"digest":"` + hello, `"digest":"` + hello[1:], `predicate.resources.0.digest: "` + hello[1:] + `" is not a sha256 digest: want 64 lower-case hex digits`},
		{modelStatement, `"digest":"` + hello + `"`, `"digest":{"sha256":"` + hello + `"}`, "predicate.resources.0.digest: a JSON object is not allowed here"},
		{modelStatement, `"algorithm":"sha256",`, "", "predicate.resources.0.algorithm: missing"},
		{modelStatement, `"method":"files"`, `"method":"shards"`, `predicate.resources.0.name: "a" is not the name of a shard: want PATH:START:END`},
		{modelStatement, `"name":"out"`, `"name":""`, "subject.0.name: missing; it is the name of the model's folder"},
	} {
		raw := c.raw
		if c.old != "" {
			if raw = strings.Replace(c.raw, c.old, c.new, 1); raw == c.raw {
				payload := base64.StdEncoding.EncodeToString([]byte(c.old))
				t.Errorf("nothing to replace by %q in %s (%s)", c.new, c.raw, payload)
			}
		}
		_, err := ParseDocument([]byte(raw))
		if got := message(err); got != c.want {
			t.Errorf("%s\n got: %s\nwant: %s", raw, got, c.want)
		}
		checkReason(t, raw, err)
	}
}

// TestIntakeSays reads what is not a step and says something all the same.
func TestIntakeSays(t *testing.T) {
	for what, c := range map[string]struct{ raw, want string }{
		"a VSA": {statementOf(VSAv1, `{"verifier":{"id":"v"},"resourceUri":"pkg:x","policy":{"uri":"p"},"verificationResult":"FAILED","verifiedLevels":[]}`), "verification of pkg:x: FAILED"},
		"a VSA before v1": {statementOf(VSAv02, `{"verifier":{"id":"v"},"time_verified":"2026-01-02T03:04:05Z","resource_uri":"https://example.com/example-1.2.3.tar.gz","policy":{"uri":"p"},`+
			`"input_attestations":[],"verification_result":"PASSED","policy_level":"SLSA_LEVEL_3","dependency_levels":{"SLSA_LEVEL_0":1}}`), "verification of https://example.com/example-1.2.3.tar.gz: PASSED"},
		"an attribute report": {statementOf(SCAIv03, `{"attributes":[{"attribute":"HasStackProtection","target":{"name":"x","digest":{"sha256":"`+hello+`"}}}],"producer":{"uri":"https://example.com/gcc"}}`), ""},
		"the first release's signature": {`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"a","digest":{"sha256":"` + hello + `"}},{"name":"b","digest":{"sha256":"` + world + `"}}],` +
			`"predicateType":"` + ModelDigestsV01 + `","predicate":{"unused":"Unused, just passed due to API requirements"}}`, "signature on 2 files of a model"},
	} {
		docs, err := ParseDocument([]byte(c.raw))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if f := docs[0].Facts; f.Summary != c.want || f.Step != nil || len(f.Relations) > 0 {
			t.Errorf("%s says %q, with step %v and relations %v; want %q", what, f.Summary, f.Step, f.Relations, c.want)
		}
	}
}

// TestModelSignature reads a signature as the reference of OpenSSF Model
// Signing writes it with a key, with the vector of its specification.
func TestModelSignature(t *testing.T) {
	const root = "96cb8058ed58b58f8fc0ad459bacf81108599b403e91674460ccb089f8ebb9db"
	sign := func(digest, predicate string) string {
		return fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"%s"}},"dsseEnvelope":%s}`, hello,
			envelopeOf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"forecast","digest":{"sha256":"`+digest+`"}}],"predicateType":"`+ModelSignatureV1+`","predicate":`+predicate+`}`))
	}
	files := `{"serialization":{"method":"files","hash_type":"sha256","allow_symlinks":false,"ignore_paths":["model.sig",".git"]},"resources":[` +
		`{"digest":"` + hello + `","name":"config.json","algorithm":"sha256"},{"digest":"` + world + `","name":"weights/model.bin","algorithm":"sha256"}]}`
	// The second file is in two shards, of which no file has the digest.
	shards := `{"serialization":{"method":"shards","hash_type":"sha256","shard_size":6,"allow_symlinks":false},"resources":[` +
		`{"digest":"` + hello + `","name":"config.json:0:6","algorithm":"sha256-sharded-6"},{"digest":"` + world + `","name":"model.bin:0:6","algorithm":"sha256-sharded-6"},` +
		`{"digest":"` + hello + `","name":"model.bin:6:12","algorithm":"sha256-sharded-6"}]}`
	shardRoot := string(BytesKey(append(append(mustHex(t, hello), mustHex(t, world)...), mustHex(t, hello)...)).Hex())
	folder, shardFolder := Key("sha256:"+root), Key("sha256:"+shardRoot)
	for what, c := range map[string]struct {
		raw     string
		want    []Relation
		summary string
	}{
		"files":  {sign(root, files), []Relation{{From: folder, To: "sha256:" + hello, Kind: RelPartOf}, {From: folder, To: "sha256:" + world, Kind: RelPartOf}}, "signature on the model forecast: 2 files"},
		"shards": {sign(shardRoot, shards), []Relation{{From: shardFolder, To: "sha256:" + hello, Kind: RelPartOf}}, "signature on the model forecast: 2 files"},
	} {
		docs, err := ParseDocument([]byte(c.raw))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		f := docs[0].Facts
		if diff := cmp.Diff(c.want, f.Relations); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		if f.Summary != c.summary || f.Resources[0].Kind != "model" || f.Resources[0].Name != "forecast" || f.Resources[1].Name != "config.json" {
			t.Errorf("%s: %q, of %v", what, f.Summary, f.Resources)
		}
	}
}

func mustHex(t *testing.T, digits string) []byte {
	t.Helper()
	raw := make([]byte, len(digits)/2)
	if _, err := fmt.Sscanf(digits, "%x", &raw); err != nil {
		t.Fatal(err)
	}
	return raw
}
