package restore

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/retrace-ledger/retrace/schema"
)

// Result is the outcome of a reproduction.
type Result struct {
	Ref       string
	Name      string
	Key       schema.Key
	Verdict   string // BIT_EXACT, DIVERGED or NOT_REPLAYABLE
	Reason    string
	Isolation string // what kept the steps apart from the machine, in words
	Platform  string
	Size      int64 // ledger size that the plan speaks for
	Plan      string
	Steps     []schema.ReproducedStep // that were run, in order
	// First is the first thing that differs; nil unless the verdict is
	// DIVERGED.
	First *Difference
}

// Difference is where a reproduction left the recorded path.
type Difference struct {
	Step     int // number in the plan
	Entry    int64
	Name     string // of the step
	Path     string // of the output; empty where it is the exit status that differs
	Recorded string // key, or exit status
	Made     string // the same; empty where the step did not write the output
}

func (d *Difference) String() string {
	step := fmt.Sprintf("step %d (%s, entry:%d)", d.Step, d.Name, d.Entry)
	switch {
	case d.Path == "":
		return fmt.Sprintf("%s ended with exit status %s, recorded is %s", step, d.Made, d.Recorded)
	case d.Made == "":
		return fmt.Sprintf("%s did not write %s, recorded is %s", step, d.Path, d.Recorded)
	}
	return fmt.Sprintf("%s made another %s: %s, recorded is %s", step, d.Path, d.Made, d.Recorded)
}

// Statement is the verdict as a statement to sign and append. Its subject is
// the resource, or the plan where the resource has no digest.
func (r *Result) Statement() (schema.Statement, error) {
	return schema.NewStatement(schema.ReproductionV1, &schema.Reproduction{
		Ref: r.Ref, Verdict: r.Verdict, Reason: r.Reason, Isolation: r.Isolation, Platform: r.Platform, Size: r.Size, Steps: r.Steps,
	}, subject(r.Key, r.Name, r.Plan))
}

// Outputs counts the outputs that were compared.
func (r *Result) Outputs() int {
	n := 0
	for _, s := range r.Steps {
		n += len(s.Outputs)
	}
	return n
}

// Command is what reproducing is about to run, for a person to judge.
type Command struct {
	Step        int // number in the plan
	Entry       int64
	Name        string
	Dir         string // below the step's working root
	Argv        []string
	Program     string // the file that argv[0] resolves to; empty where a step before makes it
	Environment map[string]string
	Parameters  map[string]string
	Evidence    schema.Evidence
}

func (c Command) String() string {
	quoted := make([]string, len(c.Argv))
	for i, a := range c.Argv {
		quoted[i] = quote(a)
	}
	return strings.Join(quoted, " ")
}

// quote writes an argument as a POSIX shell reads it, and so that nothing in
// it can move a terminal's cursor or turn the direction of writing.
func quote(s string) string {
	plain := s != ""
	for _, r := range s {
		switch {
		case unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r):
			return fmt.Sprintf("$%s", ansi(s))
		case !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=,@%+", r):
			plain = false
		}
	}
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// ansi is s in the form of $'…'.
func ansi(s string) string {
	var b strings.Builder
	b.WriteByte('\'')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < 0x20 || c >= 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('\'')
	return b.String()
}
