package audit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"unicode"

	"github.com/retrace-ledger/retrace/schema"
)

// Result of a check, or of an image.
type Result string

// The results. NOTE is for reasons only.
const (
	Pass    Result = "PASS"
	Fail    Result = "FAIL"
	Unknown Result = "UNKNOWN" // could not be checked
	Note    Result = "NOTE"    // said, and decides nothing
)

// The checks.
const (
	CheckResolved = "resolved"
	CheckRecorded = "recorded"
	CheckOrigin   = "origin"
	CheckSigned   = "signed"
	CheckGaps     = "gaps" // a NOTE for each
)

// Reason is what one check found.
type Reason struct {
	Check  string `json:"check"`
	Result Result `json:"result"`
	Detail string `json:"detail"`
	Entry  int64  `json:"entry"` // that it rests on; -1 for none
}

// Verdict is what was found about one image.
type Verdict struct {
	Ref       string     `json:"ref"`                 // as given
	Container string     `json:"container,omitempty"` // that runs it
	Digest    schema.Key `json:"digest,omitempty"`    // empty if it could not be resolved
	Result    Result     `json:"result"`              // PASS, FAIL or UNKNOWN
	Reasons   []Reason   `json:"reasons"`
}

// Exit statuses of an audit, by its verdicts.
const (
	ExitPass    = 0 // every image passed
	ExitFail    = 1 // at least one failed
	ExitUnknown = 2 // none failed, and at least one could not be checked
)

// Exit is the exit status for all verdicts of an audit. No verdicts at all are
// an audit that checked nothing: ExitUnknown.
func Exit(results ...Result) int {
	exit := ExitPass
	if len(results) == 0 {
		exit = ExitUnknown
	}
	for _, r := range results {
		switch r {
		case Fail:
			return ExitFail
		case Pass:
		default:
			exit = ExitUnknown
		}
	}
	return exit
}

// A Resolver says what image references point at.
type Resolver interface {
	// Resolve returns the digest of the manifest that ref points at. found is
	// false if whoever is asked says that there is no such image; an error
	// means that nobody could tell.
	Resolve(ctx context.Context, ref string) (digest schema.Key, found bool, err error)
}

// A Ledger says what is recorded about images.
type Ledger interface {
	// Image returns what is recorded about the image with the given digest.
	// Nothing being recorded is a Record without entries, not an error.
	Image(ctx context.Context, digest schema.Key) (Record, error)
	// Manifest returns the digest of the image whose configuration has the given
	// digest, by which some runtimes name images; the same digest if none has.
	Manifest(ctx context.Context, digest schema.Key) (schema.Key, error)
}

// A Signer checks signatures of images by one key or identity. *cosign.Key and
// *cosign.Identity are.
type Signer interface {
	// ID identifies the key or identity.
	ID() string
	// Signed says whether the image in repository (HOST/REPOSITORY) is signed
	// by the key, and in words why, or why not. An error means that it could
	// not tell.
	Signed(ctx context.Context, repository string, image schema.Key) (signed bool, why string, err error)
}

// Record is what a ledger holds about an image.
type Record struct {
	// Entries are those whose statement has the image as a subject, ascending.
	Entries []Entry
	// Origins are what it was built from, strongest evidence first.
	Origins []Origin
	// Gaps are what stands in the way of restoring or reproducing it, in words.
	Gaps []string
	// Said is what people say of it, in words: that they vouch for it, or no longer do.
	Said []string
	// Size is that of the ledger that was asked.
	Size int64
}

// Entry is one entry about an image, with how we know what it states.
type Entry struct {
	Index    int64
	Evidence schema.Evidence
	// Withdrawn is set if a later entry retracts this one, and says why. It
	// does not count any more.
	Withdrawn string
}

// Origin is what an image was built from, as one entry states it.
type Origin struct {
	Commit     schema.Key // gitCommit; empty if it is not stated
	Repository string     // of the commit, if stated
	Step       string     // name of the step that built it, if one is recorded
	Entry      int64
	Evidence   schema.Evidence
}

// String says the origin for people.
func (o Origin) String() string {
	var parts []string
	if o.Commit != "" {
		from := "from commit " + o.Commit.Hex()
		if o.Repository != "" {
			from += " of " + o.Repository
		}
		parts = append(parts, from)
	}
	if o.Step != "" {
		parts = append(parts, "by step "+o.Step)
	}
	return fmt.Sprintf("built %s (%s)", strings.Join(parts, " "), o.Evidence)
}

// Auditor checks images. Resolver and Ledger are needed; Signer is where the
// policy names a key, and Models where workloads are audited.
type Auditor struct {
	Resolver Resolver
	Ledger   Ledger
	Signer   Signer
	Models   Models
	Policy   Policy
}

// Audit yields a verdict for each image, in order. What could not be checked
// is in the verdict; an error ends the sequence and is either the context's or
// says that the auditor cannot apply its policy at all.
func (a *Auditor) Audit(ctx context.Context, images []Image) iter.Seq2[Verdict, error] {
	return func(yield func(Verdict, error) bool) {
		if err := a.check(); err != nil {
			yield(Verdict{}, err)
			return
		}
		for _, image := range images {
			v := a.audit(ctx, image)
			if err := ctx.Err(); err != nil {
				yield(Verdict{}, err) // the verdict would blame the registry
				return
			}
			if !yield(v, nil) {
				return
			}
		}
	}
}

func (a *Auditor) check() error {
	switch {
	case a.Resolver == nil || a.Ledger == nil:
		return errors.New("auditing: neither a resolver nor a ledger may be missing")
	case a.Policy.Key == "" && a.Signer != nil:
		return errors.New("auditing: a signer is given for a policy without a key")
	case a.Policy.Key != "" && (a.Signer == nil || a.Signer.ID() != a.Policy.Key):
		return fmt.Errorf("auditing: the policy asks for signatures by the key %s, which is not at hand", a.Policy.Key)
	}
	return nil
}

func (a *Auditor) audit(ctx context.Context, image Image) Verdict {
	v := Verdict{Ref: image.Ref}
	if a.resolve(ctx, image, &v) {
		a.recorded(ctx, &v)
		a.signed(ctx, image, &v)
	}
	v.Result = overall(v.Reasons)
	return v
}

// overall is the result that reasons add up to.
func overall(reasons []Reason) Result {
	result := Pass
	for _, r := range reasons {
		switch r.Result {
		case Fail:
			return Fail
		case Unknown:
			result = Unknown
		}
	}
	return result
}

func (v *Verdict) add(check string, result Result, entry int64, format string, args ...any) {
	detail := printable(fmt.Sprintf(format, args...))
	v.Reasons = append(v.Reasons, Reason{Check: check, Result: result, Entry: entry, Detail: detail})
}

// maxDetail is how many characters of a reason are kept.
const maxDetail = 1000

// printable makes text that others had a part in, such as a registry's error,
// fit for a line on a terminal and for a statement.
func printable(s string) string {
	runes := []rune(strings.ToValidUTF8(s, "\ufffd"))
	if len(runes) > maxDetail {
		runes = append(runes[:maxDetail-1], '…')
	}
	for i, r := range runes {
		if !unicode.IsPrint(r) {
			runes[i] = ' '
		}
	}
	return string(runes)
}

// resolve finds the digest of the image. A reference by digest is one already,
// whether or not its registry can be reached.
func (a *Auditor) resolve(ctx context.Context, image Image, v *Verdict) bool {
	if image.Digest != "" {
		v.Digest = image.Digest
		v.add(CheckResolved, Pass, -1, "named by its digest")
		return true
	}
	digest, found, err := a.Resolver.Resolve(ctx, image.Ref)
	switch {
	case err != nil:
		v.add(CheckResolved, Unknown, -1, "could not be resolved: %v", err)
		return false
	case !found:
		v.add(CheckResolved, Fail, -1, "there is no such image")
		return false
	}
	v.Digest = digest
	v.add(CheckResolved, Pass, -1, "points at %s", digest)
	return true
}

// recorded asks the ledger about the image: is it recorded, and what was it
// built from.
func (a *Auditor) recorded(ctx context.Context, v *Verdict) {
	record, err := a.Ledger.Image(ctx, v.Digest)
	if err != nil {
		v.add(CheckRecorded, Unknown, -1, "the ledger could not be asked: %v", err)
		if a.Policy.Origin {
			v.add(CheckOrigin, Unknown, -1, "the ledger could not be asked")
		}
		return
	}
	v.recordedBy(record)
	v.builtFrom(record, a.Policy.Origin)
	for _, said := range record.Said {
		v.add(CheckRecorded, Note, -1, "%s", said)
	}
	for _, g := range record.Gaps {
		v.add(CheckGaps, Note, -1, "%s", g)
	}
}

// recordedBy judges the entries about an image. Entries that are merely
// claimed, which anyone who may submit can bring about, do not count.
func (v *Verdict) recordedBy(record Record) {
	entry, claims := Entry{Index: -1}, 0
	for _, e := range record.Entries {
		switch {
		case e.Withdrawn != "":
			v.add(CheckRecorded, Note, e.Index, "entry %d was withdrawn: %s", e.Index, e.Withdrawn)
		case e.Evidence == schema.Attested || e.Evidence == schema.Observed:
			if entry.Index < 0 || e.Evidence == schema.Attested && entry.Evidence == schema.Observed {
				entry = e
			}
		default:
			claims++
		}
	}
	switch {
	case entry.Index >= 0:
		v.add(CheckRecorded, Pass, entry.Index, "%s in entry %d", entry.Evidence, entry.Index)
	case claims > 0:
		v.add(CheckRecorded, Fail, -1, "only claimed, in %d of the ledger's %d entries: no trusted key vouches for it", claims, record.Size)
	case len(record.Entries) > 0:
		v.add(CheckRecorded, Fail, -1, "every entry about it was withdrawn")
	default:
		v.add(CheckRecorded, Fail, -1, "not recorded in the ledger's %d entries", record.Size)
	}
}

// builtFrom says what the image was built from. Where an origin is required, a
// claimed one, such as an image's own label, does not count.
func (v *Verdict) builtFrom(record Record, required bool) {
	result := func(good bool) Result {
		switch {
		case !required:
			return Note
		case good:
			return Pass
		}
		return Fail
	}
	if len(record.Origins) == 0 {
		v.add(CheckOrigin, result(false), -1, "what it was built from is not recorded")
		return
	}
	o := record.Origins[0]
	v.add(CheckOrigin, result(o.Evidence == schema.Attested || o.Evidence == schema.Observed), o.Entry, "%s", o)
	for _, o := range record.Origins[1:] {
		v.add(CheckOrigin, Note, o.Entry, "also recorded: %s", o)
	}
}

func (a *Auditor) signed(ctx context.Context, image Image, v *Verdict) {
	if a.Policy.Key == "" {
		return
	}
	signed, why, err := a.Signer.Signed(ctx, image.Repository, v.Digest)
	switch {
	case err != nil:
		v.add(CheckSigned, Unknown, -1, "the signatures could not be checked: %v", err)
	case !signed:
		v.add(CheckSigned, Fail, -1, "not signed by %s: %s", a.Policy.Key, why)
	default:
		v.add(CheckSigned, Pass, -1, "by %s: %s", a.Policy.Key, why)
	}
}
