package verify

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/retrace-ledger/retrace/schema"
)

// asked checks that the reference which the bundle says was asked for leads,
// by the entries of the bundle, to what the claim is about. A bundle whose
// question was edited would otherwise pass for an answer to another one. What
// lies outside the ledger, such as a file on the asker's disk, it notes as not
// proven.
func (c *checkState) asked() error {
	cl := c.b.Claim
	switch {
	case c.leads():
		return nil
	case cl.Name == "" && (strings.HasPrefix(cl.Ref, ".") || strings.HasPrefix(cl.Ref, "/")):
		c.unasked = "that " + strconv.Quote(cl.Ref) + " has the digest that the proof is about"
		return nil
	case cl.Name == "" && strings.Contains(cl.Ref, "://"):
		c.unasked = "that " + strconv.Quote(cl.Ref) + " was the place of what the proof is about: no entry in the bundle says so"
		return nil
	}
	return &FalseError{"that the answer is to the question " + strconv.Quote(cl.Ref), errors.New("it is about " + c.subject())}
}

// subject is what the claim is about.
func (c *checkState) subject() string {
	switch cl := c.b.Claim; {
	case cl.Name != "":
		return cl.Name
	case cl.Root != "":
		return cl.Root.Short()
	default:
		return "entry " + strconv.FormatInt(cl.Entry, 10)
	}
}

// leads says whether the reference leads to what the claim is about.
func (c *checkState) leads() bool {
	cl := c.b.Claim
	switch {
	case cl.Ref == "":
		return true
	case cl.Name != "":
		return namedBy(cl.Ref, cl.Name)
	}
	kind, rest, _ := strings.Cut(cl.Ref, ":")
	if n, ok := strings.CutPrefix(cl.Ref, "#"); ok {
		kind, rest = "entry", n
	}
	switch kind {
	case "entry", "step":
		index, err := strconv.ParseInt(rest, 10, 64)
		return err == nil && c.entryAsked(index)
	case "run":
		// That the run is the root's is checked for every claim; the question is
		// about the run itself, or its first output where it is no resource.
		return cl.Run != "" && rest != "" && strings.HasPrefix(cl.Run, rest) && c.starts(cl.Root, cl.Run)
	case "image":
		if _, digest, ok := strings.Cut(rest, "@"); ok {
			rest = digest
		}
		return beginsWith(cl.Root, rest)
	case schema.NameGit:
		if beginsWith(cl.Root, schema.GitCommit+":"+rest) {
			return true
		}
	case schema.NameSnapshot:
		if beginsWith(cl.Root, rest) || beginsWith(cl.Root, schema.RetraceTree1+":"+rest) {
			return true
		}
	}
	return beginsWith(cl.Root, cl.Ref) || c.located(cl.Ref)
}

// beginsWith says whether text is k or an abbreviation of it.
func beginsWith(k schema.Key, text string) bool {
	_, digits, _ := strings.Cut(text, ":")
	return digits != "" && strings.HasPrefix(string(k), text)
}

// namedBy says whether ref is a way to ask for name (DESIGN 7.1).
func namedBy(ref, name string) bool {
	kind, of, _ := strings.Cut(name, ":")
	rest := strings.TrimPrefix(ref, kind+":")
	if rest == of {
		return true
	}
	switch kind {
	case schema.NameModel:
		model, _, _ := strings.Cut(of, "@")
		return rest == model
	case schema.NameImage:
		return rest+":latest" == of
	case schema.NameGit:
		_, full, _ := strings.Cut(of, "#")
		return full == rest || full == "refs/heads/"+rest || full == "refs/tags/"+rest
	}
	return false
}

// entryAsked says whether the claim is about the entry at index: about itself,
// or about what its step made.
func (c *checkState) entryAsked(index int64) bool {
	cl := c.b.Claim
	if cl.Root == "" {
		return index == cl.Entry
	}
	i := slices.IndexFunc(c.entries, func(e opened) bool { return e.Index == index })
	if i < 0 || c.entries[i].facts.Step == nil {
		return false
	}
	return c.entries[i].facts.Step.Run == cl.Run && starts(c.entries[i].facts.Step, cl.Root)
}

// starts says whether a question about the run is one about k.
func (c *checkState) starts(k schema.Key, run string) bool {
	return slices.ContainsFunc(c.entries, func(e opened) bool { return e.facts.Step != nil && e.facts.Step.Run == run && starts(e.facts.Step, k) })
}

// starts says whether a question about the step is one about k: the run itself
// or, where it is no resource, its first output.
func starts(s *schema.Step, k schema.Key) bool {
	if s.Subject != "" {
		return k == s.Subject
	}
	return len(s.Generates) > 0 && k == s.Generates[0].Key
}

// located says whether an entry states that the root is at uri.
func (c *checkState) located(uri string) bool {
	return slices.ContainsFunc(c.entries, func(e opened) bool {
		return slices.ContainsFunc(e.facts.Resources, func(r schema.Resource) bool { return r.Key == c.b.Claim.Root && r.URI == uri })
	})
}
