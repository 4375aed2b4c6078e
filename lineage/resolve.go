package lineage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dgraph-io/badger/v4"

	"github.com/retrace-ledger/retrace/schema"
)

// Ref is what a reference was found to mean (DESIGN 7.1).
type Ref struct {
	Text  string       // as given
	Start schema.Start // the resource, and the run that made it where the reference says
	Name  string       // the full name it was reached by, such as "model:forecast@3"; empty if it was not a name
	Entry int64        // of entry:, # and step: references, and of the naming; -1 otherwise
}

// maxSpelled is how long a reference may be for others to be compared with it.
const maxSpelled = 256

// minPrefix is how many hex digits an abbreviated digest or run ID needs.
const minPrefix = 8

// wholeSHA256 is how many hex digits a SHA-256 has.
const wholeSHA256 = 64

// Resolve finds what text refers to. An unknown reference wraps ErrNotFound
// and says what is spelled alike; an ambiguous one lists what it may mean.
// References to local paths are the caller's to hash first.
func (v *View) Resolve(text string) (Ref, error) {
	ref, err := v.resolve(text)
	ref.Text = text
	if err != nil && errors.Is(err, ErrNotFound) {
		if near := v.nearby(text); near != "" {
			err = fmt.Errorf("%w; did you mean %s?", err, near)
		}
	}
	return ref, err
}

// RefError says that a text cannot be a reference to anything.
type RefError struct{ Text, Reason string }

func (e *RefError) Error() string {
	if e.Text == "" {
		return e.Reason
	}
	return fmt.Sprintf("%q %s", e.Text, e.Reason)
}

func (v *View) resolve(text string) (Ref, error) {
	if text == "" {
		return Ref{Entry: -1}, &RefError{Reason: "the reference is empty"}
	}
	if n, ok := strings.CutPrefix(text, "#"); ok {
		return v.resolveEntry(n)
	}
	kind, rest, typed := strings.Cut(text, ":")
	switch {
	case strings.Contains(text, "://"):
		return v.resolveURI(text)
	case !typed:
		return v.resolveModel(text)
	case kind == "entry":
		return v.resolveEntry(rest)
	case kind == "step":
		return v.resolveStep(rest)
	case kind == "model":
		return v.resolveModel(rest)
	case kind == "run":
		return v.resolveRun(rest)
	case kind == "git" && !strings.Contains(rest, "#"):
		return v.resolveGit(rest)
	case kind == "image":
		return v.resolveImage(rest)
	case kind == "snapshot":
		return v.resolveSnapshot(rest)
	case kind == schema.NameGit || kind == schema.NameWorkload:
		return v.resolveName(text)
	}
	return v.resolveDigest(kind, rest)
}

func (v *View) resolveEntry(n string) (Ref, error) {
	index, err := strconv.ParseInt(n, 10, 64)
	if err != nil {
		return Ref{Entry: -1}, &RefError{Text: n, Reason: "is not the index of an entry"}
	}
	if _, err := v.Entry(index); err != nil {
		return Ref{Entry: -1}, err
	}
	ref := Ref{Entry: index}
	if s, err := v.Step(context.Background(), index); err == nil {
		ref.Start = stepStart(s)
	}
	return ref, nil
}

// stepStart is where a walk from a step begins: the run itself, or its first
// output.
func stepStart(s *schema.Step) schema.Start {
	if s.Subject != "" {
		return schema.Start{Key: s.Subject, Run: s.Run}
	}
	if len(s.Generates) > 0 {
		return schema.Start{Key: s.Generates[0].Key, Run: s.Run}
	}
	return schema.Start{}
}

func (v *View) resolveStep(n string) (Ref, error) {
	ref, err := v.resolveEntry(n)
	if err == nil && ref.Start.Key == "" {
		err = fmt.Errorf("entry %s states no step: %w", n, ErrNotFound)
	}
	return ref, err
}

// resolveModel takes NAME or NAME@VERSION. Without a version it is the newest
// at the view's time.
func (v *View) resolveModel(text string) (Ref, error) {
	name, version, given := strings.Cut(text, "@")
	if given {
		return v.resolveName(schema.ModelName(name, version))
	}
	versions, err := v.Names(schema.NameModel + ":" + name + "@")
	if err != nil {
		return Ref{Entry: -1}, err
	}
	var found []Pointed
	var newest *Pointed
	for _, n := range versions {
		p, err := v.Name(n)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return Ref{Entry: -1}, err
		}
		found = append(found, p)
	}
	for _, p := range vouched(found) {
		if newest == nil || newest.Alias && !p.Alias || newest.Alias == p.Alias && p.Entry > newest.Entry {
			newest = &p
		}
	}
	if newest == nil {
		return Ref{Entry: -1}, fmt.Errorf("model %s: %w", name, ErrNotFound)
	}
	return refOfName(*newest), nil
}

func refOfName(p Pointed) Ref {
	return Ref{Start: schema.Start{Key: p.Key, Run: p.Run}, Name: p.NameFact.Name, Entry: p.Entry}
}

func (v *View) resolveName(name string) (Ref, error) {
	p, err := v.Name(name)
	if err != nil {
		return Ref{Entry: -1}, err
	}
	return refOfName(p), nil
}

func (v *View) resolveRun(id string) (Ref, error) {
	entries, err := v.RunEntries(id)
	if err != nil {
		return Ref{Entry: -1}, err
	}
	if len(entries) == 0 && len(id) >= minPrefix {
		runs, err := v.runsWithPrefix(id)
		if err != nil {
			return Ref{Entry: -1}, err
		}
		if len(runs) > 1 {
			return Ref{Entry: -1}, ambiguous("run:"+id, runs)
		}
		if len(runs) == 1 {
			entries, err = v.RunEntries(runs[0])
			if err != nil {
				return Ref{Entry: -1}, err
			}
		}
	}
	if len(entries) == 0 {
		return Ref{Entry: -1}, fmt.Errorf("run:%s: %w", id, ErrNotFound)
	}
	if entries, err = schema.Standing(context.Background(), v, entries); err != nil {
		return Ref{Entry: -1}, err
	}
	// Anybody can claim a step under the ID of somebody's run.
	best := entries[0]
	for _, entry := range entries {
		e, err := v.Entry(entry)
		if err != nil {
			return Ref{Entry: -1}, err
		}
		if e.Evidence.Trusted() {
			best = entry
			break
		}
	}
	return v.resolveStep(strconv.FormatInt(best, 10))
}

// resolveGit takes a commit, whole or abbreviated, or a branch or tag name
// that only one recorded repository has.
func (v *View) resolveGit(rest string) (Ref, error) {
	ref, err := v.resolveDigest(schema.GitCommit, rest)
	if err == nil || !isHexPrefixError(err) {
		return ref, err
	}
	names, nameErr := v.Names(schema.NameGit + ":")
	if nameErr != nil {
		return ref, nameErr
	}
	var found []string
	for _, n := range names {
		_, full, _ := strings.Cut(n, "#")
		if full == rest || full == "refs/heads/"+rest || full == "refs/tags/"+rest {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return ref, fmt.Errorf("git:%s: %w", rest, ErrNotFound)
	case 1:
		return v.resolveName(found[0])
	}
	var pointed []Pointed
	for _, n := range found {
		if p, err := v.Name(n); err == nil {
			pointed = append(pointed, p)
		} else if !errors.Is(err, ErrNotFound) {
			return ref, err
		}
	}
	if all := len(pointed); all > 1 {
		if pointed = vouched(pointed); len(pointed) == 1 {
			return refOfName(pointed[0]), nil // only a claim makes it ambiguous
		}
	}
	return ref, ambiguous("git:"+rest, found)
}

// resolveImage takes REPOSITORY:TAG, REPOSITORY@DIGEST, or REPOSITORY for its
// tag latest.
func (v *View) resolveImage(rest string) (Ref, error) {
	if _, dgst, ok := strings.Cut(rest, "@"); ok {
		alg, hex, _ := strings.Cut(dgst, ":")
		return v.resolveDigest(alg, hex)
	}
	if strings.HasPrefix(rest, "sha256:") {
		return v.resolveDigest(schema.SHA256, strings.TrimPrefix(rest, "sha256:"))
	}
	ref, err := v.resolveName(schema.NameImage + ":" + rest)
	if errors.Is(err, ErrNotFound) && !strings.Contains(rest[strings.LastIndex(rest, "/")+1:], ":") {
		return v.resolveName(schema.NameImage + ":" + rest + ":latest")
	}
	return ref, err
}

// resolveSnapshot takes a retraceTree1 digest, whole or abbreviated, or the
// source that snapshots were taken of.
func (v *View) resolveSnapshot(rest string) (Ref, error) {
	ref, err := v.resolveDigest(schema.RetraceTree1, strings.TrimPrefix(rest, schema.RetraceTree1+":"))
	if err == nil || !isHexPrefixError(err) {
		return ref, err
	}
	return v.resolveName(schema.NameSnapshot + ":" + rest)
}

// resolveURI takes a recorded location: a name of its own, or the URI where
// something was at the view's time.
func (v *View) resolveURI(uri string) (Ref, error) {
	if kind, rest, _ := strings.Cut(uri, ":"); kind == schema.NameGit || kind == schema.NameSnapshot {
		if ref, err := v.resolveName(kind + ":" + rest); err == nil || !errors.Is(err, ErrNotFound) {
			return ref, err
		}
	}
	found, err := v.at(uri)
	if err != nil {
		return Ref{Entry: -1}, err
	}
	switch len(found) {
	case 0:
		return Ref{Entry: -1}, fmt.Errorf("%s: %w", uri, ErrNotFound)
	case 1:
		return Ref{Start: schema.Start{Key: found[0]}, Entry: -1}, nil
	}
	candidates := make([]string, len(found))
	for i, k := range found {
		candidates[i] = string(k)
	}
	return Ref{Entry: -1}, ambiguous(uri, candidates)
}

// notHexError says that a reference cannot be an abbreviated digest.
type notHexError struct{ text string }

func (e *notHexError) Error() string {
	return fmt.Sprintf("%q is not a digest or a prefix of one (at least %d hex digits): %v", e.text, minPrefix, ErrNotFound)
}

func (e *notHexError) Unwrap() error { return ErrNotFound }

func isHexPrefixError(err error) bool {
	var e *notHexError
	return errors.As(err, &e)
}

func (v *View) resolveDigest(alg, hex string) (Ref, error) {
	if len(hex) < minPrefix || strings.Trim(hex, "0123456789abcdef") != "" {
		return Ref{Entry: -1}, &notHexError{alg + ":" + hex}
	}
	if alg == schema.SHA256 && len(hex) == wholeSHA256 { // begins no other: no need to search
		k := schema.Key(alg + ":" + hex)
		if _, err := v.Resource(k); err != nil {
			return Ref{Entry: -1}, err
		}
		return Ref{Start: schema.Start{Key: k}, Entry: -1}, nil
	}
	found, err := v.withPrefix(tagKey, alg+":"+hex, 1)
	if err != nil {
		return Ref{Entry: -1}, err
	}
	var visible []string
	for _, k := range found {
		if _, err := v.Resource(schema.Key(k)); err == nil {
			visible = append(visible, k)
		}
	}
	switch len(visible) {
	case 0:
		return Ref{Entry: -1}, fmt.Errorf("%s:%s: %w", alg, hex, ErrNotFound)
	case 1:
		return Ref{Start: schema.Start{Key: schema.Key(visible[0])}, Entry: -1}, nil
	}
	return Ref{Entry: -1}, ambiguous(alg+":"+hex, visible)
}

// withPrefix lists what stands between the tag and the last tail bytes of the
// keys that begin with prefix, each once.
func (v *View) withPrefix(tag byte, prefix string, tail int) ([]string, error) {
	var out []string
	err := v.read(func(txn *badger.Txn) error {
		return scanKeys(txn, append([]byte{tag}, prefix...), func(k []byte) {
			if s := string(k[1 : len(k)-tail]); len(out) == 0 || out[len(out)-1] != s {
				out = append(out, s)
			}
		})
	})
	return out, err
}

// runsWithPrefix lists the run IDs below the size that begin with prefix.
func (v *View) runsWithPrefix(prefix string) ([]string, error) {
	all, err := v.withPrefix(tagRun, prefix, 9)
	if err != nil {
		return nil, err
	}
	var runs []string
	for _, r := range all {
		entries, err := v.RunEntries(r)
		if err != nil {
			return nil, err
		}
		if len(entries) > 0 {
			runs = append(runs, r)
		}
	}
	return runs, nil
}

// AmbiguousError lists what an abbreviated reference may mean.
type AmbiguousError struct {
	Text       string
	Candidates []string
}

func (e *AmbiguousError) Error() string {
	shown := e.Candidates
	more := ""
	if len(shown) > 8 {
		shown, more = shown[:8], fmt.Sprintf(" and %d more", len(e.Candidates)-8)
	}
	return fmt.Sprintf("%s is ambiguous: it may be %s%s", e.Text, strings.Join(shown, ", "), more)
}

func ambiguous(text string, candidates []string) error {
	return &AmbiguousError{Text: text, Candidates: candidates}
}

// nearby is the name spelled most like text, if one is close enough.
func (v *View) nearby(text string) string {
	if len(text) > maxSpelled {
		return ""
	}
	names, err := v.Names("")
	if err != nil {
		return ""
	}
	want := strings.TrimPrefix(text, schema.NameModel+":")
	best, distance := "", 1+len(want)/3
	for _, n := range names {
		shown := strings.TrimPrefix(n, schema.NameModel+":")
		candidates := []string{shown}
		if name, _, ok := strings.Cut(shown, "@"); ok && !strings.Contains(want, "@") {
			candidates = []string{name}
		}
		for _, c := range candidates {
			d := editDistance(want, c)
			if d == 0 {
				return "" // spelled right, and not there at the view's time or size
			}
			if d < distance {
				best, distance = c, d
			}
		}
	}
	return best
}

// editDistance is the Levenshtein distance of a and b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost++
			}
			prev = row[j+1]
			row[j+1] = slices.Min([]int{cost, row[j] + 1, row[j+1] + 1})
		}
	}
	return row[len(b)]
}
