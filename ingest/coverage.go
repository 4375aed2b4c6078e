package ingest

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/schema"
)

// coverageEvery is how often a source that says nothing new is recorded as
// having been looked at (DESIGN 12.14).
const coverageEvery = time.Hour

// maxBlind is how much of the reason for a blind interval is recorded.
const maxBlind = 512 // bytes

// coverageSource is the name under which the log keeps how far the coverage of
// a source has been stated.
func coverageSource(name string) string { return "coverage:" + name }

// covered is what the next coverage statement rests on. It is kept as a cursor
// and moves with the source's, so that the chain of statements outlives the
// process.
type covered struct {
	Previous string     `json:"previous,omitempty"` // sha256 of the last coverage statement, in hex
	To       time.Time  `json:"to,omitzero"`        // up to when it speaks
	Listing  schema.Key `json:"listing,omitempty"`  // what was listed then
	Count    int        `json:"count,omitempty"`
	Recorded int        `json:"recorded,omitempty"` // facts recorded since
	// Refused and LeftOut are the objects left out since.
	Refused []schema.Refusal `json:"refused,omitempty"`
	LeftOut int              `json:"leftOut,omitzero"`
}

// with is what is covered with more recorded and refused.
func (c covered) with(recorded int, refused []schema.Refusal) covered {
	c.Recorded += recorded
	room := max(schema.MaxRefused-len(c.Refused), 0)
	n := min(room, len(refused))
	c.Refused = slices.Concat(c.Refused, refused[:n])
	c.LeftOut += len(refused) - n
	return c
}

func parseCovered(s string) (covered, error) {
	var c covered
	if s == "" {
		return c, nil
	}
	err := json.Unmarshal([]byte(s), &c, json.RejectUnknownMembers(true))
	return c, err
}

func (c covered) encode() (string, error) {
	raw, err := schema.Canonical(c)
	return string(raw), err
}

// coverage returns the statements to make now that the source was read to the
// end, and what the next one rests on: one for an interval without sight that
// this read ended, and one for what was listed if something was read or an
// hour has passed.
func (b *batcher) coverage(c covered) ([]schema.Statement, covered, error) {
	now, started := stamp(b.r.opts.Now()), stamp(b.started)
	blind, since := b.r.blindness(c, started)
	fresh := c.Recorded > 0 || len(c.Refused) > 0 || b.read > 0 || b.progress.Done > 0
	if blind == "" && !fresh && !c.To.IsZero() && now.Sub(c.To) < coverageEvery {
		return nil, c, nil
	}
	chain := &coverageChain{source: b.r.name, covered: c}
	if blind != "" {
		// Nothing was recorded until the last read that came to its end, else
		// that one had stated so.
		if since.After(c.To) {
			chain.state(since, schema.Coverage{})
		}
		chain.state(started, schema.Coverage{Blind: blind})
	}
	chain.covered.Listing, chain.covered.Count = b.listed()
	chain.state(now, schema.Coverage{Recorded: c.Recorded, Refused: c.Refused, LeftOut: c.LeftOut})
	chain.covered.Recorded, chain.covered.Refused, chain.covered.LeftOut = 0, nil, 0
	return chain.statements, chain.covered, chain.err
}

// listed is what the source held at the end of the read. A kind that does not
// say is taken at the state that its cursor stands for.
func (b *batcher) listed() (schema.Key, int) {
	if b.listing != nil {
		return b.listing.Digest, b.listing.Count
	}
	return schema.BytesKey([]byte(b.to)), b.progress.Done + b.read
}

// blindness says why the source was out of sight until started, and since
// when; "" if it was not.
func (r *Runner) blindness(c covered, started time.Time) (string, time.Time) {
	seen := stamp(r.seen)
	switch {
	case c.To.IsZero():
		return "", seen // never watched before
	case r.blind != "":
		return clean(r.blind), seen
	case r.watching && r.seen.IsZero() && started.Sub(c.To) > 3*r.opts.Interval:
		return "no watcher ran, or it ended before it could say what it saw", c.To
	}
	return "", seen
}

// coverageChain makes coverage statements that each name the one before.
type coverageChain struct {
	source     string
	covered    covered
	statements []schema.Statement
	err        error
}

// state adds a statement for the time from the last one until to, which says of
// it what p does.
func (c *coverageChain) state(to time.Time, p schema.Coverage) {
	if c.err != nil {
		return
	}
	// A clock that was set back must not make an interval that ends before it
	// began.
	if to.Before(c.covered.To) {
		to = c.covered.To
	}
	p.Source, p.From, p.To = c.source, c.covered.To, to
	p.Count, p.Previous = c.covered.Count, c.covered.Previous
	listing := schema.Descriptor{Name: "listing", URI: c.source, Digest: schema.DigestSet{c.covered.Listing.Algorithm(): c.covered.Listing.Hex()}}
	s, err := schema.NewStatement(schema.CoverageV1, p, listing)
	if err != nil {
		c.err = err
		return
	}
	payload, err := s.Encode()
	if err != nil {
		c.err = err
		return
	}
	c.statements = append(c.statements, s)
	c.covered.Previous, c.covered.To = schema.BytesKey(payload).Hex(), to
}

// stamp is t as statements carry it.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// userinfo is the part of a URL that can hold a password.
var userinfo = regexp.MustCompile(`://[^/@\s]+@`)

// maxObject is how much of an object's name is recorded.
const maxObject = 256 // bytes

// quoted is a value that an error quotes.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// refusal is what is recorded of an object left out. Values that the reason
// quotes are not: the rules that keep secrets out of statements never saw them.
func (s Skip) refusal() schema.Refusal {
	return schema.Refusal{
		Object: clip(s.Object, maxObject),
		Reason: clean(quoted.ReplaceAllString(s.Reason.Error(), `"…"`)),
		Digest: string(s.Digest),
	}
}

// clean is the reason as it is signed: without credentials, and not endless.
func clean(reason string) string {
	return clip(userinfo.ReplaceAllString(reason, "://"), maxBlind)
}

func clip(text string, most int) string {
	text = strings.ToValidUTF8(text, "\ufffd")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
