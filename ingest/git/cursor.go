package git

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/schema"
)

// cursorVersion is of the encoding below. Cursors outlive the program.
const cursorVersion = 1

// cursor is how far a repository has been read.
type cursor struct {
	Version int `json:"v"`
	// Refs is what each ref was last stated to point at.
	Refs map[string]refState `json:"refs,omitzero"`
	// Want is what a read under way works towards: the object that each ref
	// pointed at when it began, "" for a ref that was gone. Refs leave it when
	// they are stated.
	Want map[string]string `json:"want,omitzero"`
	// Done is how many of the commits between Refs and Want are stated, and
	// Chain a digest of which, while there are any left; else both are empty.
	Done  int    `json:"done,omitzero"`
	Chain string `json:"chain,omitzero"`
	// Stated says that all commits are, and the refs are under way.
	Stated bool `json:"stated,omitzero"`
}

// refState is one ref. A ref that is gone stays, because what is said of it
// next must name what was said last.
type refState struct {
	Object   string `json:"o,omitzero"` // that the ref points at: a commit or an annotated tag; "" if it is gone
	Commit   string `json:"c,omitzero"` // where that is not the object
	Previous string `json:"p,omitzero"` // sha256 of the last statement about the ref; "" if there was none
	Odd      bool   `json:"s,omitzero"` // the object leads to no commit, so that nothing was stated of it
}

// commit is what the ref points at in the end, or "".
func (s refState) commit() string {
	if s.Odd {
		return ""
	}
	if s.Commit != "" {
		return s.Commit
	}
	return s.Object
}

// parseCursor takes what encode wrote and nothing else.
func parseCursor(text string) (*cursor, error) {
	if text == "" {
		return &cursor{Version: cursorVersion, Refs: map[string]refState{}}, nil
	}
	c := new(cursor)
	if err := json.Unmarshal([]byte(text), c, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("the cursor is not one of a Git source: %w", err)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("the cursor is not one of a Git source: %w", err)
	}
	if c.Refs == nil {
		c.Refs = map[string]refState{}
	}
	return c, nil
}

func (c *cursor) check() error {
	if c.Version != cursorVersion {
		return fmt.Errorf("its version is %d, this program reads %d", c.Version, cursorVersion)
	}
	for name, s := range c.Refs {
		if err := checkRefName(name); err != nil {
			return err
		}
		if !hashOrEmpty(s.Object, 20) || !hashOrEmpty(s.Commit, 20) || !hashOrEmpty(s.Previous, 32) || s.Object == "" && (s.Commit != "" || s.Odd) {
			return fmt.Errorf("what it says of %s is not a digest", name)
		}
	}
	for name, object := range c.Want {
		if err := checkRefName(name); err != nil {
			return err
		}
		if !hashOrEmpty(object, 20) {
			return fmt.Errorf("what it wants of %s is not a digest", name)
		}
	}
	if c.Done < 0 || !hashOrEmpty(c.Chain, 32) || (c.Done == 0) != (c.Chain == "") || c.Stated && c.Done > 0 || len(c.Want) == 0 && (c.Stated || c.Done > 0) {
		return fmt.Errorf("how far it has come makes no sense")
	}
	return nil
}

func hashOrEmpty(s string, size int) bool {
	if s == "" {
		return true
	}
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == size && hex.EncodeToString(b) == s
}

func (c *cursor) encode() (string, error) {
	raw, err := schema.Canonical(c)
	return string(raw), err
}

// prefix returns what encode gives with Done and Chain left out, cut where they
// go: a long read writes many cursors that differ in nothing else.
func (c *cursor) prefix() ([]byte, error) {
	rest := *c
	rest.Done, rest.Chain, rest.Stated = 0, "", false
	raw, err := schema.Canonical(rest)
	if err != nil {
		return nil, err
	}
	return bytes.TrimPrefix(raw, []byte("{")), nil
}

// during is the cursor after so many commits, given the prefix.
func during(prefix []byte, done int, chain chain) string {
	// In the order of canonical JSON: chain, done, refs, v, want.
	return fmt.Sprintf(`{"chain":"%x","done":%d,%s`, chain[:], done, prefix)
}

// chain is a digest of a sequence of commits.
type chain [sha256.Size]byte

func (c chain) add(h plumbing.Hash) chain {
	return sha256.Sum256(append(c[:], h[:]...))
}

// stride is how many facts are given between two cursors: cursors of many refs
// are long, and each is copied.
func stride(cursorBytes int) int { return min(max(cursorBytes/1024, 1), 256) }
