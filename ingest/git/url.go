package git

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/http"
)

// location is a parsed source URL.
type location struct {
	// repository is the canonical URL of the repository, as statements carry
	// it: with the git+ scheme, without credentials, query and default port.
	repository string
	refs       []string // full names to watch, sorted; none for all branches and tags
	path       string   // of a repository in the file system; else ""
	remote     string   // URL for the transport, without credentials; else ""
	user       string   // of an SSH address
	auth       transport.AuthMethod
}

func (l *location) overHTTP() bool { return strings.HasPrefix(l.remote, "http") }

func (l *location) overSSH() bool { return strings.HasPrefix(l.remote, "ssh:") }

// schemes maps those of source URLs to those that Git speaks, with their
// default ports.
var schemes = map[string]struct{ transport, port string }{
	"git+file":  {"file", ""},
	"git+https": {"https", "443"},
	"git+http":  {"http", "80"},
	"git+ssh":   {"ssh", "22"},
}

// parseURL refuses what it would otherwise ignore. Errors do not repeat the
// URL, which can hold a password.
func parseURL(rawURL string) (*location, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return nil, fmt.Errorf("the URL of a Git repository does not parse: %w", err)
	}
	s, ok := schemes[u.Scheme]
	switch {
	case !ok:
		return nil, fmt.Errorf("%q is not the scheme of a Git repository; want git+https, git+http, git+ssh or git+file", u.Scheme)
	case u.Opaque != "":
		return nil, fmt.Errorf("the URL of a Git repository has // after %s:", u.Scheme)
	case u.Fragment != "":
		return nil, fmt.Errorf("the URL of a Git repository has no fragment; #%s means nothing here, name a ref with ?ref=", u.Fragment)
	case !strings.HasPrefix(u.Path, "/") || path.Clean(u.Path) == "/":
		return nil, errors.New("the URL of a Git repository has a path")
	case strings.ContainsAny(u.Path, "\x00\n"):
		return nil, errors.New("the path of a Git repository holds a NUL or a line end")
	}
	l := new(location)
	if l.refs, err = parseRefs(u.RawQuery); err != nil {
		return nil, err
	}
	if s.transport == "file" {
		err = l.local(u)
	} else {
		err = l.overNetwork(u, s.transport, s.port)
	}
	return l, err
}

// URL is the source URL of the repository at the absolute path.
func URL(path string) string {
	return (&url.URL{Scheme: "git+file", Path: filepath.ToSlash(path)}).String()
}

func (l *location) local(u *url.URL) error {
	if u.Host != "" && u.Host != "localhost" {
		return fmt.Errorf("git+file names a path on this machine, not on %q: write git+file:///path", u.Host)
	}
	if u.User != nil {
		return errors.New("git+file takes no user")
	}
	l.path = filepath.FromSlash(path.Clean(u.Path))
	l.repository = URL(l.path)
	return nil
}

func (l *location) overNetwork(u *url.URL, scheme, defaultPort string) error {
	host := strings.ToLower(u.Hostname())
	if host == "" || strings.HasPrefix(host, "-") {
		return fmt.Errorf("git+%s names a host", scheme)
	}
	if strings.Contains(host, ":") {
		// Two colons without an @ may be a name and a password: the host is not
		// repeated.
		if _, err := netip.ParseAddr(host); err != nil || !strings.HasPrefix(u.Host, "[") {
			return fmt.Errorf("the host of a git+%s URL has a colon and is no IPv6 address in brackets; credentials end with @", scheme)
		}
		host = "[" + host + "]"
	}
	if port := u.Port(); port != "" && port != defaultPort {
		host += ":" + port
	}
	clean := url.URL{Scheme: scheme, Host: host, Path: strings.TrimRight(u.Path, "/")}
	remote := clean
	if scheme == "ssh" {
		// The user of an SSH URL is an address, not a secret, unless it is the
		// one that everybody has.
		user := u.User.Username()
		if user != "" && user != "git" {
			clean.User = url.User(user)
		}
		l.user = "git"
		if user != "" {
			l.user = user
		}
		remote.User = url.User(l.user)
		if _, ok := u.User.Password(); ok {
			return errors.New("git+ssh takes no password; keys come from the SSH agent, or a file that the setting sshKey names")
		}
	} else if u.User != nil {
		password, _ := u.User.Password()
		l.auth = &http.BasicAuth{Username: u.User.Username(), Password: password}
	}
	l.repository, l.remote = "git+"+clean.String(), remote.String()
	return nil
}

// parseRefs reads the refs to watch out of a query.
func parseRefs(query string) ([]string, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("the query of a Git URL does not parse: %w", err)
	}
	var refs []string
	for key, names := range values {
		if key != "ref" {
			return nil, fmt.Errorf("the URL of a Git repository has a parameter %q; known is ref", key)
		}
		for _, name := range names {
			full := fullName(name)
			if err := checkRefName(full); err != nil {
				return nil, err
			}
			refs = append(refs, full)
		}
	}
	slices.Sort(refs)
	return slices.Compact(refs), nil
}

// fullName is the ref that a name stands for: a branch, unless it says
// otherwise.
func fullName(name string) string {
	switch {
	case strings.HasPrefix(name, "refs/"):
		return name
	case strings.HasPrefix(name, "heads/"), strings.HasPrefix(name, "tags/"):
		return "refs/" + name
	}
	return "refs/heads/" + name
}

func checkRefName(name string) error {
	if !strings.HasPrefix(name, "refs/") || plumbing.ReferenceName(name).Validate() != nil {
		return fmt.Errorf("%q is not the name of a ref", name)
	}
	return nil
}

// name is the canonical name of the source: of the repository and of what is
// watched in it.
func (l *location) name() string {
	if len(l.refs) == 0 {
		return l.repository
	}
	return l.repository + "?" + url.Values{"ref": l.refs}.Encode()
}

// watches says whether the ref is one to watch.
func (l *location) watches(name string) bool {
	if len(l.refs) > 0 {
		return slices.Contains(l.refs, name)
	}
	return strings.HasPrefix(name, "refs/heads/") || strings.HasPrefix(name, "refs/tags/")
}
