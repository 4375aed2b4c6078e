package ingest

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// This file is the one rule that keeps secrets out of what is signed (DESIGN
// 12.18): by the names of values, and by how they are written.

// Names by their last word or two, as in api_token, --dbPassword, AUTH-KEY.
// Only the end of a name says what its value is: a token_file is a path and
// max_tokens a number.
var (
	secretWords = []string{
		"password", "passwd", "passphrase", "pwd", "secret", "secrets", "token", "apikey", "credential", "credentials",
		"authtoken", "accesskey", "secretkey", "privatekey", "bearer",
	}
	secretKeys = []string{"api", "access", "secret", "private", "auth", "signing", "encryption", "master", "account", "service", "license"}
)

// SecretName says why a value under this name is taken for a secret, or
// nothing. Values that cannot be one are let through.
func SecretName(name, value string) string {
	if harmless(value) {
		return ""
	}
	words := split(name)
	if len(words) == 0 {
		return ""
	}
	last := words[len(words)-1]
	switch {
	case slices.Contains(secretWords, last):
		if last == "token" && !random(value) {
			return "" // of a vocabulary, such as pad_token=<pad>
		}
		return "its name ends in " + last
	case last != "key":
		return ""
	case len(words) > 1 && slices.Contains(secretKeys, words[len(words)-2]):
		return "its name ends in " + words[len(words)-2] + " key"
	case len(value) >= 20 && random(value):
		return "its name ends in key and its value looks random"
	}
	return ""
}

var keyPattern = regexp.MustCompile(`^[A-Za-z0-9+/=_.-]{8,}$`)

// random says whether a value is written as keys are: letters and digits mixed,
// or long, and no words or markup.
func random(value string) bool {
	if !keyPattern.MatchString(value) {
		return false
	}
	mixed := strings.ContainsAny(value, "0123456789") && strings.IndexFunc(value, unicode.IsLetter) >= 0
	return mixed || len(value) >= 24 && !strings.ContainsAny(value, "0123456789_-./")
}

func harmless(value string) bool {
	switch strings.ToLower(value) {
	case "", "true", "false", "yes", "no", "on", "off", "none", "null", "nil", "0", "1":
		return true
	}
	return false
}

// split takes a name apart into lower-case words.
func split(name string) []string {
	var b strings.Builder
	var before rune
	for _, r := range name {
		if unicode.IsUpper(r) && unicode.IsLower(before) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
		before = r
	}
	return strings.FieldsFunc(b.String(), func(r rune) bool { return r == '_' || r == '-' || r == '.' })
}

// form is how some secret is written.
type form struct {
	name    string
	pattern *regexp.Regexp
}

// forms are secrets that are known by how they are written, wherever they
// stand.
var forms = []form{
	{"a private key", regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----`)},
	{"an AWS access key", regexp.MustCompile(`\b(AKIA|ASIA)[0-9A-Z]{16}\b`)},
	{"a GitHub token", regexp.MustCompile(`\b(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})`)},
	{"a GitLab token", regexp.MustCompile(`\bglpat-[A-Za-z0-9_-]{20,}`)},
	{"a Slack token", regexp.MustCompile(`\bxox[abeoprs]-[A-Za-z0-9-]{10,}`)},
	{"a Hugging Face token", regexp.MustCompile(`\bhf_[A-Za-z0-9]{30,}`)},
	{"a Google API key", regexp.MustCompile(`\bAIza[0-9A-Za-z_-]{35}`)},
	{"an API key", regexp.MustCompile(`\bsk-[A-Za-z0-9_-]*[A-Za-z0-9]{20,}`)},
	{"an npm token", regexp.MustCompile(`\bnpm_[A-Za-z0-9]{36}`)},
	{"a JSON web token", regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`)},
	{"a bearer token", regexp.MustCompile(`(?i)\bauthorization:\s*(bearer|basic|token)\s+\S{8,}`)},
	{"a storage key", regexp.MustCompile(`(?i)\b(AccountKey|SharedAccessSignature|SharedAccessKey)=\S{16,}`)},
	{"a signed URL", regexp.MustCompile(`(?i)[?&](X-Amz-Signature|X-Goog-Signature|sig)=[A-Za-z0-9%+/=_-]{16,}`)},
}

var urlPattern = regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/?#"'<>]*@[^\s"'<>]+`)

// SecretValue names what kind of secret stands in s, or nothing.
func SecretValue(s string) string {
	for _, f := range forms {
		if f.pattern.MatchString(s) {
			return f.name
		}
	}
	for _, raw := range urlPattern.FindAllString(s, -1) {
		u, err := url.Parse(raw)
		if err != nil || u.User == nil {
			continue
		}
		if _, has := u.User.Password(); has || strings.HasPrefix(u.Scheme, "http") && len(u.User.Username()) >= 20 {
			return "a URL with credentials"
		}
	}
	return ""
}

// WithoutCredentials is a URL without what stands before the host: of an SSH
// address, only a password goes, since the user belongs to it.
func WithoutCredentials(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil || u.User == nil {
		return rawURL
	}
	_, password := u.User.Password()
	switch {
	case u.Scheme == "ssh" && !password:
		return rawURL
	case u.Scheme == "ssh":
		u.User = url.User(u.User.Username())
	default:
		u.User = nil
	}
	return u.String()
}
