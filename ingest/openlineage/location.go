package openlineage

import (
	"net/url"
	"strings"

	"github.com/retrace-ledger/retrace/ingest"
)

// location is where a dataset is, as other kinds write it (OpenLineage, "Dataset
// naming"): the namespace and the name, which for stores, databases and brokers
// is a URL cut in two. A namespace that is no URL is only a word, and the
// location has a scheme that says whose word.
func location(namespace, name string) string {
	switch scheme, rest, isURL := strings.Cut(namespace, "://"); {
	case namespace == "file", isURL && scheme == "file" && rest == "":
		return "file:///" + escaped(strings.TrimPrefix(name, "/"))
	case isURL:
		if scheme == "s3a" || scheme == "s3n" { // Hadoop's names for the same store
			scheme = "s3"
		}
		at := scheme + "://" + strings.TrimSuffix(rest, "/")
		return ingest.WithoutCredentials(escaped(at + "/" + strings.TrimPrefix(name, "/")))
	}
	return "openlineage://" + url.PathEscape(namespace) + "/" + escaped(strings.TrimPrefix(name, "/"))
}

// versioned is the location of a version of what is at one.
func versioned(at, version string) string {
	if version == "" {
		return at
	}
	mark := "?"
	if strings.Contains(at, "?") {
		mark = "&"
	}
	return at + mark + "version=" + url.QueryEscape(version)
}

// escaped writes out what no URI may hold (RFC 3986): blanks, controls, quotes
// and brackets. All else stands as it came, so that names meet.
func escaped(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}#", c) >= 0 {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
