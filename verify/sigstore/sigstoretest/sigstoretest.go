// Package sigstoretest is a Sigstore of its own for tests: a certificate
// authority, a timestamp authority and a transparency log, whose bundles verify
// under the trusted root that it gives and under no other.
package sigstoretest

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"

	"github.com/retrace-ledger/retrace/schema"
)

// Sigstore is one instance.
type Sigstore struct {
	*ca.VirtualSigstore
	t testing.TB
}

// New makes an instance.
func New(t testing.TB) *Sigstore {
	t.Helper()
	v, err := ca.NewVirtualSigstore()
	check(t, err)
	return &Sigstore{v, t}
}

// Identity is subject, whom issuer vouches for, under this instance.
func (s *Sigstore) Identity(subject, issuer string) *schema.Identity {
	s.t.Helper()
	return &schema.Identity{Subject: subject, Issuer: issuer, TrustedRoot: s.TrustedRoot(true, true)}
}

// TrustedRoot is the file that names the instance, with its log and its
// timestamp authority as told.
func (s *Sigstore) TrustedRoot(logs, times bool) string {
	s.t.Helper()
	var transparency map[string]*root.TransparencyLog
	var timestamps []root.TimestampingAuthority
	if logs {
		transparency = s.RekorLogs()
		for id, log := range transparency { // which give the text of their ID for it
			raw, err := hex.DecodeString(id)
			check(s.t, err)
			log.ID = raw
		}
	}
	if times {
		timestamps = s.TimestampingAuthorities()
	}
	r, err := root.NewTrustedRoot(root.TrustedRootMediaType01, s.FulcioCertificateAuthorities(), nil, timestamps, transparency)
	check(s.t, err)
	raw, err := r.MarshalJSON()
	check(s.t, err)
	return string(raw)
}

// MediaTypes are those of bundles, by version.
var MediaTypes = map[string]string{
	"0.1": "application/vnd.dev.sigstore.bundle+json;version=0.1",
	"0.2": "application/vnd.dev.sigstore.bundle+json;version=0.2",
	"0.3": "application/vnd.dev.sigstore.bundle.v0.3+json",
}

// Bundle is a bundle of a version (0.1, 0.2 or 0.3) around a statement, signed
// by subject now.
func (s *Sigstore) Bundle(version, subject, issuer string, statement []byte) []byte {
	s.t.Helper()
	return s.BundleAt(time.Now().Add(5*time.Minute), version, subject, issuer, statement) // while the certificate is valid
}

// BundleAt is Bundle whose log says that it was signed at a time.
func (s *Sigstore) BundleAt(at time.Time, version, subject, issuer string, statement []byte) []byte {
	s.t.Helper()
	entity, err := s.AttestAtTime(subject, issuer, statement, at, version != "0.1")
	check(s.t, err)
	content, err := entity.VerificationContent()
	check(s.t, err)
	signature, err := entity.SignatureContent()
	check(s.t, err)
	entries, err := entity.TlogEntries()
	check(s.t, err)
	times, err := entity.Timestamps()
	check(s.t, err)
	leaf := object{"rawBytes": content.Certificate().Raw}
	material := object{"certificate": leaf}
	if version != "0.3" {
		material = object{"x509CertificateChain": object{"certificates": []any{leaf}}}
	}
	e := entries[0].TransparencyLogEntry()
	logged := object{
		"logIndex": strconv.FormatInt(e.GetLogIndex(), 10), "logId": object{"keyId": e.GetLogId().GetKeyId()},
		"kindVersion":       object{"kind": e.GetKindVersion().GetKind(), "version": e.GetKindVersion().GetVersion()},
		"integratedTime":    strconv.FormatInt(e.GetIntegratedTime(), 10),
		"canonicalizedBody": e.GetCanonicalizedBody(),
	}
	promise, err := s.RekorSignPayload(tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(e.GetCanonicalizedBody()), IntegratedTime: e.GetIntegratedTime(),
		LogIndex: e.GetLogIndex(), LogID: hex.EncodeToString(e.GetLogId().GetKeyId()),
	})
	check(s.t, err)
	logged["inclusionPromise"] = object{"signedEntryTimestamp": promise}
	if p := e.GetInclusionProof(); p != nil {
		logged["inclusionProof"] = object{
			"logIndex": strconv.FormatInt(p.GetLogIndex(), 10), "treeSize": strconv.FormatInt(p.GetTreeSize(), 10),
			"rootHash": p.GetRootHash(), "hashes": p.GetHashes(), "checkpoint": object{"envelope": p.GetCheckpoint().GetEnvelope()},
		}
	}
	material["tlogEntries"] = []any{logged}
	material["timestampVerificationData"] = object{"rfc3161Timestamps": []any{object{"signedTimestamp": times[0]}}}
	env := signature.EnvelopeContent().RawEnvelope()
	raw, err := json.Marshal(object{
		"mediaType": MediaTypes[version], "verificationMaterial": material,
		"dsseEnvelope": object{"payload": env.Payload, "payloadType": env.PayloadType, "signatures": []any{object{"sig": env.Signatures[0].Sig}}},
	})
	check(s.t, err)
	return raw
}

// Tamper is the bundle with another statement under the same signature.
func Tamper(t testing.TB, bundle, statement []byte) []byte {
	t.Helper()
	var b struct {
		DSSE struct {
			Payload string `json:"payload"`
		} `json:"dsseEnvelope"`
	}
	check(t, json.Unmarshal(bundle, &b))
	return []byte(strings.Replace(string(bundle), b.DSSE.Payload, base64.StdEncoding.EncodeToString(statement), 1))
}

type object = map[string]any

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
