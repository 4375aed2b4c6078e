package oci

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// maxCursor is how many bytes a cursor may have: it is stored with every batch
// beside up to 8 MiB of envelopes.
const maxCursor = 1 << 20

// cursor is how far a repository has been read: for each tag, what was stated
// about it last.
type cursor map[string]tagState

// tagState is what was stated about one tag last. The zero value is a tag that
// nothing was stated about.
type tagState struct {
	digest   sum // of the manifest it points at; unset once it was deleted
	previous sum // of the last statement about the tag
	attached sum // of the list of what is attached to the image; unset for nothing
}

// sum is a SHA-256 digest, or unset.
type sum [sha256.Size]byte

func (s sum) set() bool { return s != sum{} }

// String is the digest as registries write it, or "" if unset.
func (s sum) String() string {
	if !s.set() {
		return ""
	}
	return fmt.Sprintf("sha256:%x", s[:])
}

func (s sum) encode() string {
	if !s.set() {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(s[:])
}

func parseSum(text string) (sum, error) {
	var s sum
	if text == "" {
		return s, nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != len(s) {
		return s, fmt.Errorf("%q is not a SHA-256 digest in base64url", text)
	}
	return sum(raw), nil
}

// attachedSum identifies a sorted list of attachments.
func attachedSum(attached []string) sum {
	if len(attached) == 0 {
		return sum{}
	}
	return sha256.Sum256([]byte(strings.Join(attached, "\n")))
}

// cursorJSON is the stored form. A tag is [digest, previous] or [digest,
// previous, attached], each in base64url; names are sorted, so that equal
// states have equal cursors.
type cursorJSON struct {
	Version int                 `json:"v"`
	Tags    map[string][]string `json:"tags"`
}

func (c cursor) encode() (string, error) {
	out := cursorJSON{Version: 1, Tags: make(map[string][]string, len(c))}
	for tag, s := range c {
		fields := []string{s.digest.encode(), s.previous.encode()}
		if s.attached.set() {
			fields = append(fields, s.attached.encode())
		}
		out.Tags[tag] = fields
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return "", fmt.Errorf("encoding the cursor: %w", err)
	}
	if len(raw) > maxCursor {
		return "", fmt.Errorf("%d tags need a cursor of %d bytes; the limit is %d: watch some of them, with ?tag=", len(c), len(raw), maxCursor)
	}
	return string(raw), nil
}

func parseCursor(text string) (cursor, error) {
	c := cursor{}
	if text == "" {
		return c, nil
	}
	var in cursorJSON
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return nil, fmt.Errorf("decoding the cursor: %w", err)
	}
	if dec.More() {
		return nil, errors.New("decoding the cursor: data after its end")
	}
	if in.Version != 1 {
		return nil, fmt.Errorf("decoding the cursor: version %d is not one that this program knows; it reads 1", in.Version)
	}
	for tag, fields := range in.Tags {
		state, err := parseTagState(fields)
		if err != nil {
			return nil, fmt.Errorf("decoding the cursor: tag %q: %w", tag, err)
		}
		c[tag] = state
	}
	return c, nil
}

func parseTagState(fields []string) (tagState, error) {
	var s tagState
	if len(fields) != 2 && len(fields) != 3 {
		return s, fmt.Errorf("has %d fields; want 2 or 3", len(fields))
	}
	for i, into := range []*sum{&s.digest, &s.previous, &s.attached}[:len(fields)] {
		var err error
		if *into, err = parseSum(fields[i]); err != nil {
			return s, err
		}
	}
	if !s.previous.set() {
		return s, errors.New("names no statement before")
	}
	return s, nil
}
