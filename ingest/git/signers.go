package git

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/retrace-ledger/retrace/schema"
)

// signers are the keys that signatures of commits are verified with. A nil
// *signers verifies none.
type signers struct {
	ssh     []allowedSigner
	openPGP openpgp.EntityList
}

// allowedSigner is a line of an allowed_signers file (ssh-keygen(1), ALLOWED
// SIGNERS).
type allowedSigner struct {
	key        ssh.PublicKey
	principals string
	namespaces []string  // for what the key may sign; empty for anything
	notBefore  time.Time // zero for no bound
	notAfter   time.Time
}

// signers reads the keys anew.
func (s *settings) signers() (*signers, error) {
	if s.AllowedSigners == "" && s.Keyring == "" {
		return nil, nil
	}
	out := new(signers)
	if s.AllowedSigners != "" {
		raw, err := os.ReadFile(s.AllowedSigners)
		if err != nil {
			return nil, fmt.Errorf("reading the keys that may sign commits: %w", err)
		}
		if out.ssh, err = parseAllowedSigners(raw); err != nil {
			return nil, fmt.Errorf("reading the keys that may sign commits: %s: %w", s.AllowedSigners, err)
		}
	}
	if s.Keyring != "" {
		raw, err := os.ReadFile(s.Keyring)
		if err != nil {
			return nil, fmt.Errorf("reading the keys that may sign commits: %w", err)
		}
		if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("-----BEGIN PGP")) {
			out.openPGP, err = openpgp.ReadArmoredKeyRing(bytes.NewReader(raw))
		} else {
			out.openPGP, err = openpgp.ReadKeyRing(bytes.NewReader(raw))
		}
		if err != nil {
			return nil, fmt.Errorf("reading the keys that may sign commits: %s is no OpenPGP key ring: %w", s.Keyring, err)
		}
	}
	return out, nil
}

func parseAllowedSigners(raw []byte) ([]allowedSigner, error) {
	var all []allowedSigner
	scan := bufio.NewScanner(bytes.NewReader(raw))
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimSpace(scan.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s, err := parseAllowedSigner(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		all = append(all, s)
	}
	return all, scan.Err()
}

func parseAllowedSigner(line string) (allowedSigner, error) {
	var s allowedSigner
	rest := ""
	if quoted, ok := strings.CutPrefix(line, `"`); ok {
		s.principals, rest, ok = strings.Cut(quoted, `"`)
		if !ok {
			return s, errors.New("a quotation mark is not closed")
		}
	} else if i := strings.IndexAny(line, " \t"); i > 0 {
		s.principals, rest = line[:i], line[i:]
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(rest))
	if err != nil {
		return s, errors.New("want PRINCIPALS [OPTIONS] KEYTYPE KEY")
	}
	s.key = key
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		value = strings.Trim(value, `"`)
		switch strings.ToLower(name) {
		case "namespaces":
			s.namespaces = strings.Split(value, ",")
		case "valid-after":
			s.notBefore, err = signerTime(value)
		case "valid-before":
			s.notAfter, err = signerTime(value)
		case "cert-authority":
			err = errors.New("cert-authority: certificates are not supported, name the keys themselves")
		default:
			err = fmt.Errorf("%q is no option of an allowed signer", name)
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// signerTime is a time as allowed_signers files write it. Without a zone it is
// local, as it is for ssh-keygen.
func signerTime(text string) (time.Time, error) {
	local, zone := text, time.Local
	if t, ok := strings.CutSuffix(text, "Z"); ok {
		local, zone = t, time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if t, err := time.ParseInLocation(layout, local, zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: want YYYYMMDD or YYYYMMDDHHMM[SS], and Z for UTC", text)
}

// gitNamespace is what Git signs under (git's gpg-interface.c).
const gitNamespace = "git"

// verify says by which of the keys the commit is signed, nil if by none. A key
// counts if it was valid when the commit was made, says the committer or the
// OpenPGP signature, so that the answer is the same whenever it is asked.
func (s *signers) verify(repo *repository, c *object.Commit) (*schema.Signer, error) {
	if s == nil || c.PGPSignature == "" {
		return nil, nil
	}
	raw, err := repo.raw(plumbing.CommitObject, c.Hash)
	if err != nil {
		return nil, err
	}
	payload, signature := splitSignature(raw)
	if bytes.HasPrefix(signature, []byte("-----BEGIN SSH SIGNATURE-----")) {
		return s.verifySSH(payload, signature, c.Committer.When), nil
	}
	return s.verifyOpenPGP(payload, signature), nil
}

func (s *signers) verifySSH(payload, signature []byte, at time.Time) *schema.Signer {
	sig, err := sshsig.Unarmor(signature)
	if err != nil {
		return nil
	}
	for _, k := range s.ssh {
		switch {
		case !bytes.Equal(k.key.Marshal(), sig.PublicKey.Marshal()):
		case len(k.namespaces) > 0 && !slices.Contains(k.namespaces, gitNamespace):
		case at.Before(k.notBefore), !k.notAfter.IsZero() && at.After(k.notAfter):
		case sshsig.Verify(bytes.NewReader(payload), sig, k.key, sig.HashAlgorithm, gitNamespace) != nil:
		default:
			return &schema.Signer{KeyID: ssh.FingerprintSHA256(k.key), Name: clip(k.principals, maxName)}
		}
	}
	return nil
}

func (s *signers) verifyOpenPGP(payload, signature []byte) *schema.Signer {
	block, err := armor.Decode(bytes.NewReader(signature))
	if err != nil {
		return nil
	}
	p, err := packet.Read(block.Body)
	if err != nil {
		return nil
	}
	sig, ok := p.(*packet.Signature)
	if !ok {
		return nil
	}
	by, err := openpgp.CheckArmoredDetachedSignature(s.openPGP, bytes.NewReader(payload), bytes.NewReader(signature),
		&packet.Config{Time: func() time.Time { return sig.CreationTime }})
	if err != nil || by == nil {
		return nil
	}
	signer := &schema.Signer{KeyID: hex.EncodeToString(by.PrimaryKey.Fingerprint)}
	if id := by.PrimaryIdentity(); id != nil {
		signer.Name = clip(id.Name, maxName)
	}
	return signer
}

// splitSignature takes the signature out of a commit object: what it signs is
// the rest, byte for byte (gitformat-signature(5)).
func splitSignature(raw []byte) (payload, signature []byte) {
	header, message, _ := bytes.Cut(raw, []byte("\n\n"))
	inside, ours := false, false
	for line := range bytes.Lines(append(bytes.Clone(header), '\n')) {
		if text, ok := bytes.CutPrefix(line, []byte(" ")); ok && inside {
			if ours {
				signature = append(signature, text...)
			}
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(" "))
		ours = string(name) == "gpgsig"
		inside = ours || string(name) == "gpgsig-sha256"
		switch {
		case ours:
			signature = append(signature, value...)
		case !inside:
			payload = append(payload, line...)
		}
	}
	payload = append(payload, '\n')
	return append(payload, message...), signature
}
