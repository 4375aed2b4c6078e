package git

import (
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

func TestParseURL(t *testing.T) {
	for _, c := range []struct{ in, repository, name, remote string }{
		{"git+https://example.com/a/b.git", "git+https://example.com/a/b.git", "", "https://example.com/a/b.git"},
		{"git+https://ada:secret@Example.COM:443/a/b.git/", "git+https://example.com/a/b.git", "", "https://example.com/a/b.git"},
		{"git+http://127.0.0.1:8080/r", "git+http://127.0.0.1:8080/r", "", "http://127.0.0.1:8080/r"},
		{"git+https://[::1]:8443/r", "git+https://[::1]:8443/r", "", "https://[::1]:8443/r"},
		{"git+ssh://git@example.com/r", "git+ssh://example.com/r", "", "ssh://git@example.com/r"},
		{"git+ssh://example.com:22/r", "git+ssh://example.com/r", "", "ssh://git@example.com/r"},
		{"git+ssh://ada@example.com:2222/r", "git+ssh://ada@example.com:2222/r", "", "ssh://ada@example.com:2222/r"},
		{"git+file:///srv/../srv/a%20b/", "git+file:///srv/a%20b", "", ""},
		{"git+file://localhost/srv/r", "git+file:///srv/r", "", ""},
		{"git+https://h/r?ref=main", "git+https://h/r", "git+https://h/r?ref=refs%2Fheads%2Fmain", "https://h/r"},
		{"git+https://h/r?ref=tags/v1&ref=main&ref=refs/heads/main", "git+https://h/r", "git+https://h/r?ref=refs%2Fheads%2Fmain&ref=refs%2Ftags%2Fv1", "https://h/r"},
	} {
		l, err := parseURL(c.in)
		if err != nil {
			t.Errorf("parseURL(%q): %v", c.in, err)
			continue
		}
		if c.name == "" {
			c.name = c.repository
		}
		if l.repository != c.repository || l.name() != c.name || l.remote != c.remote {
			t.Errorf("parseURL(%q) is %q, named %q, fetched from %q; want %q, %q, %q", c.in, l.repository, l.name(), l.remote, c.repository, c.name, c.remote)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for in, reason := range map[string]string{
		"https://example.com/r":                  "not the scheme",
		"git+ftp://example.com/r":                "not the scheme",
		"git+https:example.com/r":                "has //",
		"git+https:///r":                         "names a host",
		"git+https://ada:secret.com:443/r":       "no IPv6 address in brackets",
		"git+https://-oProxyCommand=x/r":         "names a host",
		"git+https://example.com/":               "has a path",
		"git+https://example.com":                "has a path",
		"git+https://example.com/r#main":         "no fragment",
		"git+https://example.com/r?branch=main":  "parameter \"branch\"",
		"git+https://example.com/r?ref=":         "not the name of a ref",
		"git+https://example.com/r?ref=a..b":     "not the name of a ref",
		"git+https://example.com/r?ref=refs/*":   "not the name of a ref",
		"git+file://host/srv/r":                  "on this machine",
		"git+file://ada@/srv/r":                  "takes no user",
		"git+ssh://ada:secret@example.com/r":     "takes no password",
		"git+https://ada:sec%ret@example.com/r":  "does not parse",
		"git+https://ada:secret@example.com/%00": "NUL",
	} {
		_, err := parseURL(in)
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("parseURL(%q) = %v, want an error with %q", in, err, reason)
		}
		if err != nil && strings.Contains(err.Error(), "sec") {
			t.Errorf("parseURL(%q) repeats the password: %v", in, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{
		"git+https://ada:secret@example.com:443/a/b.git?ref=main", "git+file:///srv/a%20b", "git+ssh://git@[::1]:22/r",
		"git+http://h/r?ref=tags/v1&ref=refs/heads/x", "git+https://h/%2e%2e/r", "git+file://localhost//x//y",
		"git+https://ada:secret.com:443/a",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, rawURL string) {
		l, err := parseURL(rawURL)
		if err != nil {
			return
		}
		// The canonical name is a URL of the same source, and canonical.
		again, err := parseURL(l.name())
		if err != nil {
			t.Fatalf("the name %q of %q is refused: %v", l.name(), rawURL, err)
		}
		if again.name() != l.name() || again.repository != l.repository || again.path != l.path || !slices.Equal(again.refs, l.refs) || again.remote != l.remote {
			t.Errorf("%q is named %q, which is named %q", rawURL, l.name(), again.name())
		}
		if again.auth != nil {
			t.Errorf("the name %q of %q holds credentials", l.name(), rawURL)
		}
	})
}

func FuzzParseCursor(f *testing.F) {
	h, p := strings.Repeat("a1", 20), strings.Repeat("b2", 32)
	for _, seed := range []string{
		"", `{"v":1}`, `{"refs":{},"v":1}`,
		`{"refs":{"refs/heads/main":{"o":"` + h + `","p":"` + p + `"}},"v":1}`,
		`{"refs":{"refs/tags/v1":{"c":"` + h + `","o":"` + h + `","p":"` + p + `"},"refs/tags/x":{"o":"` + h + `","s":true}},"v":1,"want":{"refs/heads/main":""}}`,
		`{"chain":"` + p + `","done":7,"refs":{},"v":1,"want":{"refs/heads/main":"` + h + `"}}`,
		`{"refs":{},"stated":true,"v":1,"want":{"refs/heads/main":"` + h + `"}}`,
		`{"v":2}`, `{"v":1,"done":-1}`, `{"v":1,"refs":{"main":{}}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseCursor(text)
		if err != nil {
			return
		}
		once, err := c.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseCursor(once)
		if err != nil {
			t.Fatalf("%q encodes to %q, which is refused: %v", text, once, err)
		}
		if twice, err := again.encode(); err != nil || twice != once {
			t.Errorf("%q encodes to %q, then to %q (%v)", text, once, twice, err)
		}
	})
}

// TestDuringIsEncode holds the quick encoding to the slow one.
func TestDuringIsEncode(t *testing.T) {
	c, err := parseCursor("")
	if err != nil {
		t.Fatal(err)
	}
	c.Refs["refs/heads/a"] = refState{Object: strings.Repeat("1", 40), Previous: strings.Repeat("2", 64)}
	c.Want = map[string]string{"refs/heads/b": strings.Repeat("3", 40)}
	prefix, err := c.prefix()
	if err != nil {
		t.Fatal(err)
	}
	sum := chain{}.add(plumbing.NewHash(strings.Repeat("4", 40)))
	got := during(prefix, 12, sum)
	parsed, err := parseCursor(got)
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Done != 12 || len(parsed.Want) != 1 || len(parsed.Refs) != 1 {
		t.Errorf("%s parses to %+v", got, parsed)
	}
	if want, err := parsed.encode(); err != nil || got != want {
		t.Errorf("during gives %s, encode gives %s (%v)", got, want, err)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte("tree " + strings.Repeat("1", 40) + "\nparent " + strings.Repeat("2", 40) + "\nauthor A <a> 1 +0000\ncommitter A <a> 1700000000 +0000\n\nparent " + strings.Repeat("3", 40) + "\n"))
	f.Add([]byte("committer <<>> 12 12\nparent x\n"))
	f.Add([]byte("committer"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		parents, _ := header(raw)
		if n := strings.Count("\n"+string(raw), "\nparent "); len(parents) > n {
			t.Errorf("%d parents in a header with %d", len(parents), n)
		}
	})
}

func FuzzParseStatus(f *testing.F) {
	f.Add("# branch.oid " + strings.Repeat("1", 40) + "\x00# branch.head main\x001 .M N... 100644 100644 100644 " + strings.Repeat("2", 40) + " " + strings.Repeat("3", 40) + " a b\x00? new/\x00")
	f.Add("u UU N... 100644 100644 100644 100644 1 2 3 x\x00")
	f.Add("2 R. x\x00")
	f.Fuzz(func(t *testing.T, out string) {
		w := new(Worktree)
		if err := w.parseStatus(out); err == nil && len(w.Changes) > strings.Count(out, "\x00")+1 {
			t.Errorf("%d changes out of %q", len(w.Changes), out)
		}
	})
}
