package picture

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// printable replaces what does not print, such as control characters, escape
// sequences and marks that turn the direction of text, by codes that do.
func printable(s string) string {
	clean := true
	for _, r := range s {
		clean = clean && r != utf8.RuneError && unicode.IsPrint(r)
	}
	if clean {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
		s = s[n:]
	}
	return b.String()
}

// clip shortens s to n characters. What is cut is the middle: paths and images
// differ at their ends.
func clip(s string, n int, dots string) string {
	runes := []rune(s)
	d := []rune(dots)
	if len(runes) <= n {
		return s
	}
	if n <= len(d) {
		return string(runes[:max(n, 0)])
	}
	tail := (n - len(d)) / 2
	head := n - len(d) - tail
	return string(runes[:head]) + dots + string(runes[len(runes)-tail:])
}

// clipEnd shortens s to n characters at its end.
func clipEnd(s string, n int, dots string) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	d := []rune(dots)
	if n <= len(d) {
		return string(runes[:max(n, 0)])
	}
	return string(runes[:n-len(d)]) + dots
}

// stepTitle is what a step did: the command as typed, with the program's base
// name, or the name of its build type.
func stepTitle(s *schema.Step) string {
	if len(s.Argv) == 0 {
		name := s.Name
		if _, rest, ok := strings.Cut(name, "://"); ok {
			name = rest
		}
		if name == "" {
			name = "step"
		}
		return printable(name)
	}
	words := make([]string, len(s.Argv))
	for i, a := range s.Argv {
		if i == 0 && path.IsAbs(a) {
			a = path.Base(a)
		}
		words[i] = shellWord(a)
	}
	return strings.Join(words, " ")
}

// shellWord quotes an argument where a shell would take it apart.
func shellWord(a string) string {
	p := printable(a)
	if a == "" || p != a || strings.ContainsAny(a, " \t\"'`$&|;<>(){}*?!\\#~") {
		return "'" + strings.ReplaceAll(p, "'", `'\''`) + "'"
	}
	return p
}

// exitOf says how a step ended: "exit 0", or "" where the statement does not
// say.
func exitOf(s *schema.Step) string {
	if s.Exit == nil {
		return ""
	}
	return "exit " + strconv.Itoa(*s.Exit)
}

func failed(s *schema.Step) bool { return s.Exit != nil && *s.Exit != 0 }

// when is the time a step started, else ended, by its builder's clock.
func when(s *schema.Step) time.Time {
	if !s.Started.IsZero() {
		return s.Started
	}
	return s.Finished
}

// took is how long a step took, "" where the statement does not say.
func took(s *schema.Step) string {
	if s.Started.IsZero() || s.Finished.Before(s.Started) {
		return ""
	}
	return duration(s.Finished.Sub(s.Started))
}

// duration in at most two units, as people read it.
func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// resourceName is what people call a resource: its name, else its location.
func resourceName(r schema.Resource) string {
	switch {
	case r.Name != "":
		return printable(r.Name)
	case r.URI != "":
		return printable(r.URI)
	case !r.Key.Digested():
		return printable(r.Key.Hex())
	}
	return ""
}

// pairs are values as NAME=VALUE, in order of their names.
func pairs[V any](m map[string]V) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		v := fmt.Sprint(m[k])
		if f, ok := any(m[k]).(float64); ok {
			v = strconv.FormatFloat(f, 'g', 6, 64)
		}
		out = append(out, printable(k)+"="+printable(v))
	}
	return out
}

// question is what a lineage answers, in words.
func question(l *lineage.Lineage) string {
	if l.Direction == schema.Downstream {
		return "What was made from " + rootName(l)
	}
	return "What produced " + rootName(l)
}

// rootName is how the lineage's resource was asked for, and the version it was
// found to be where that was left open.
func rootName(l *lineage.Lineage) string {
	name := strings.TrimPrefix(l.Ref.Name, schema.NameModel+":")
	switch {
	case name != "":
		return printable(name)
	case l.Ref.Text != "" && l.Ref.Text != string(l.Ref.Start.Key):
		return printable(l.Ref.Text)
	}
	if len(l.Resources) > 0 {
		if name := resourceName(l.Resources[0]); name != "" {
			return name
		}
	}
	return printable(l.Ref.Start.Key.Short())
}

// count is n and a noun, in the plural where it must be.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if rest, ok := strings.CutSuffix(noun, "y"); ok {
		return strconv.Itoa(n) + " " + rest + "ies"
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// speaksFor is what the answer rests on.
func speaksFor(l *lineage.Lineage) string {
	s := "speaks for the first " + count(int(l.Size), "entry") + " of the ledger"
	if !l.Recorded.IsZero() {
		s += ", recorded until " + stamp(l.Recorded)
	}
	if !l.Time.IsZero() {
		s += "; names as of " + stamp(l.Time)
	}
	return s
}
