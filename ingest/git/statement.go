package git

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/retrace-ledger/retrace/schema"
)

// Limits of what a commit statement carries of texts that Git does not limit.
const (
	maxMessage = 64 << 10 // bytes
	maxName    = 1 << 10  // bytes of a name or an address
)

// commitStatement is what the commit object says. The commit's own digest
// covers whatever had to be cut or replaced.
func commitStatement(repository string, c *object.Commit, signer *schema.Signer, pins []pin, left int) (schema.Statement, error) {
	p := schema.Commit{
		Tree:      c.TreeHash.String(),
		Author:    person(c.Author),
		Committer: person(c.Committer),
		Message:   clip(c.Message, maxMessage),
		Signature: valid(c.PGPSignature),
		Signer:    signer,
		LeftOut:   left,
	}
	for _, x := range pins {
		p.Pins = append(p.Pins, x.Descriptor)
	}
	for _, parent := range c.ParentHashes {
		p.Parents = append(p.Parents, parent.String())
	}
	return schema.NewStatement(schema.CommitV1, p, commitDescriptor(repository, c.Hash.String()))
}

func commitDescriptor(repository, commit string) schema.Descriptor {
	return schema.Descriptor{Name: "commit", URI: repository, Digest: schema.DigestSet{schema.GitCommit: commit}}
}

func person(s object.Signature) schema.Person {
	return schema.Person{Name: clip(s.Name, maxName), Email: clip(s.Email, maxName), When: when(s.When)}
}

// when is t in its own zone where that can be written down (RFC 3339), else in
// UTC: Git keeps zones of any number of hours.
func when(t time.Time) time.Time {
	if _, offset := t.Zone(); offset%60 != 0 || offset <= -24*3600 || offset >= 24*3600 {
		return t.UTC()
	}
	return t
}

// valid replaces what is not UTF-8: Git keeps texts in any encoding, JSON does
// not.
func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

// clip cuts a text that is longer than limit, and says so in it.
func clip(s string, limit int) string {
	s = valid(s)
	if len(s) <= limit {
		return s
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%s\n[retrace: cut here, %d of %d bytes]", s[:cut], cut, len(s))
}

// refChange is one change of a ref.
type refChange struct {
	name   string
	before refState
	commit string // that it points at now; "" if it is gone
	tag    string // annotated tag between the two
	forced bool
}

func (c refChange) statement(repository string) (schema.Statement, error) {
	p := schema.Ref{
		Repository: repository, Ref: c.name,
		Old: c.before.commit(), Forced: c.forced, Deleted: c.commit == "", TagObject: c.tag, Previous: c.before.Previous,
	}
	subject := c.commit
	if p.Deleted {
		subject = c.before.commit()
	}
	return schema.NewStatement(schema.RefV1, p, commitDescriptor(repository, subject))
}

// maxTagDepth is how many tags may point at each other.
const maxTagDepth = 16

// peel follows annotated tags from the object to a commit. A *schema.FieldError
// says that the ref points at something else.
func (r *repository) peel(h plumbing.Hash) (commit, tag plumbing.Hash, err error) {
	at := h
	for range maxTagDepth {
		o, err := r.EncodedObject(plumbing.AnyObject, at)
		if err != nil {
			return commit, tag, fmt.Errorf("reading object %s: %w", at, err)
		}
		switch o.Type() {
		case plumbing.CommitObject:
			if at != h {
				tag = h
			}
			return at, tag, nil
		case plumbing.TagObject:
			t, err := object.DecodeTag(r, o)
			if err != nil {
				return commit, tag, &schema.FieldError{Field: "tag", Reason: err.Error()}
			}
			at = t.Target
		default:
			return commit, tag, &schema.FieldError{Reason: fmt.Sprintf("points at a %s, not at a commit", o.Type())}
		}
	}
	return commit, tag, &schema.FieldError{Reason: fmt.Sprintf("points at more than %d tags in a row", maxTagDepth)}
}
