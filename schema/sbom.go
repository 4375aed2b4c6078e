package schema

import (
	"encoding/json"
	"slices"
	"strings"
)

// Predicate types of lists of what software is made of. What follows them, such as
// "/v2.3", is the version of the format.
const (
	SPDX      = "https://spdx.dev/Document"
	CycloneDX = "https://cyclonedx.org/bom"
)

// Package is one that an SBOM lists.
type Package struct {
	Name    string // package URL without version and qualifiers, else the name given
	Version string // empty where none is given
}

// Packages lists what the SBOM in s says its subjects are made of, once each, by
// name and version: SPDX 2 (packages) or CycloneDX 1 (components, nested ones
// too). False if s is not an SBOM that can be read. Older versions of cosign carry
// the document as text in a field "Data", which is read too.
func (s Statement) Packages() ([]Package, bool) {
	var found []Package
	switch {
	case isFormat(s.PredicateType, SPDX):
		var doc spdx
		if !readSBOM(s.Predicate, &doc) || doc.Version == "" {
			return nil, false
		}
		found = doc.packages()
	case isFormat(s.PredicateType, CycloneDX):
		var doc cyclonedx
		if !readSBOM(s.Predicate, &doc) || doc.Format != "CycloneDX" {
			return nil, false
		}
		found = componentPackages(nil, doc.Components)
	default:
		return nil, false
	}
	slices.SortFunc(found, func(a, b Package) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Version, b.Version)
	})
	return slices.Compact(found), true
}

func isFormat(predicateType, format string) bool {
	return predicateType == format || strings.HasPrefix(predicateType, format+"/")
}

// readSBOM decodes leniently: these formats grow with each version.
func readSBOM(predicate []byte, doc any) bool {
	var wrapped struct{ Data string }
	if json.Unmarshal(predicate, &wrapped) == nil && wrapped.Data != "" {
		predicate = []byte(wrapped.Data)
	}
	return json.Unmarshal(predicate, doc) == nil
}

type spdx struct {
	Version  string `json:"spdxVersion"`
	Packages []struct {
		Name    string `json:"name"`
		Version string `json:"versionInfo"`
		Refs    []struct {
			Type    string `json:"referenceType"`
			Locator string `json:"referenceLocator"`
		} `json:"externalRefs"`
	} `json:"packages"`
}

func (d spdx) packages() []Package {
	var out []Package
	for _, p := range d.Packages {
		purl := ""
		for _, r := range p.Refs {
			if r.Type == "purl" {
				purl = r.Locator
				break
			}
		}
		out = append(out, newPackage(p.Name, p.Version, purl))
	}
	return out
}

type component struct {
	Type       string      `json:"type"`
	Group      string      `json:"group"`
	Name       string      `json:"name"`
	Version    string      `json:"version"`
	PURL       string      `json:"purl"`
	Components []component `json:"components"`
}

type cyclonedx struct {
	Format     string      `json:"bomFormat"`
	Components []component `json:"components"`
}

func componentPackages(out []Package, components []component) []Package {
	for _, c := range components {
		if c.Type != "file" {
			out = append(out, newPackage(strings.TrimPrefix(c.Group+"/"+c.Name, "/"), c.Version, c.PURL))
		}
		out = componentPackages(out, c.Components)
	}
	return out
}

// newPackage names a package by its package URL, where it has one: types and
// namespaces tell packages of one name apart.
func newPackage(name, version, purl string) Package {
	if strings.HasPrefix(purl, "pkg:") {
		name, _, _ = strings.Cut(purl, "#")
		name, _, _ = strings.Cut(name, "?")
		if i := strings.LastIndexByte(name, '@'); i > 0 {
			name = name[:i]
		}
	}
	return Package{name, version}
}
