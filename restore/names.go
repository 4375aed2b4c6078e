package restore

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/retrace-ledger/retrace/schema"
)

// Top-level names of a restored place.
const (
	stepsFolder    = "steps"
	imagesFolder   = "images"
	outsideFolder  = "outside"
	resourceFolder = "resource"
	partialFolder  = ".partial"
	lockName       = "retrace.lock.json"
)

// maxSlug is how many bytes a name made of recorded words has at most.
const maxSlug = 40

// slug makes a file name of recorded words: ASCII letters, digits, dot, dash
// and underscore, never empty, never hidden, never special to a file system.
// It is its own fixed point.
func slug(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			b.WriteRune(r)
		default:
			b.WriteByte('-')
		}
		if b.Len() == maxSlug {
			break
		}
	}
	out := strings.Trim(b.String(), ".-")
	if out == "" {
		return "unnamed"
	}
	return out
}

// stepName is what a step is called in its folder: the words of its command up
// to the first flag, without their folders, as many as fit.
func stepName(s *schema.Step) string {
	if len(s.Argv) == 0 {
		return slug(path.Base(s.Name))
	}
	var words []string
	for i, a := range s.Argv {
		if i > 0 && (strings.HasPrefix(a, "-") || len(words) == 4) {
			break
		}
		word := path.Base(filepath.ToSlash(a))
		if i > 0 && len(strings.Join(words, "-"))+1+len(word) > maxSlug {
			break
		}
		words = append(words, word)
	}
	return slug(strings.Join(words, "-"))
}

// numbered is n with as many digits as steps need, two at least, so that
// folders sort in order.
func numbered(n, steps int) string {
	return fmt.Sprintf("%0*d", max(2, len(strconv.Itoa(steps))), n)
}

func stepPlace(n, steps int, name string) string {
	return stepsFolder + "/" + numbered(n, steps) + "-" + name
}

func imagePlace(k schema.Key) string {
	return imagesFolder + "/" + slug(k.Algorithm()) + "-" + k.Hex()
}

// resourceName is what the resource asked for is called below resource/.
func resourceName(r schema.Resource) string {
	names := []string{r.Name, strings.TrimSuffix(r.URI, ".git")}
	if alg := r.Key.Algorithm(); alg == schema.GitCommit || alg == schema.GitTree {
		slices.Reverse(names) // a repository is known by its address
	}
	for _, s := range names {
		if base := path.Base(s); s != "" && base != "/" && base != "." {
			return slug(base)
		}
	}
	return slug(r.Key.Short())
}

// checkRecordedPath refuses a recorded path that could lead out of the working
// root on any system, or into the repository's own folder, where a file can
// become a command that git runs.
func checkRecordedPath(p string) error {
	if err := schema.CheckPath(p); err != nil {
		return err
	}
	if !filepath.IsLocal(filepath.FromSlash(p)) {
		return fmt.Errorf("%q is not a path below a folder on this system", p)
	}
	if slices.ContainsFunc(strings.Split(p, "/"), isDotGit) {
		return fmt.Errorf("%q leads into a Git repository's own folder", p)
	}
	return nil
}

func isDotGit(name string) bool {
	return strings.EqualFold(name, ".git") || strings.EqualFold(name, "git~1")
}

// place is where an input that was recorded at p goes: below the step's place,
// or below outside/ if its recorded path was absolute.
func place(step *Step, p string) (string, error) {
	if p == "." {
		return step.Place, nil
	}
	if strings.HasPrefix(p, "/") || filepath.IsAbs(p) {
		clean := strings.TrimLeft(path.Clean(strings.ReplaceAll(filepath.ToSlash(p), ":", "")), "/")
		if err := checkRecordedPath(clean); err != nil {
			return "", err
		}
		return outsideFolder + "/" + path.Base(step.Place) + "/" + clean, nil
	}
	if err := checkRecordedPath(p); err != nil {
		return "", err
	}
	return step.Place + "/" + p, nil
}

// recordedPath is the path of an item in its step's working root; "." for the
// root itself, and an error for one that lies outside.
func recordedPath(step *Step, it *Item) (string, error) {
	if it.Place == step.Place {
		return ".", nil
	}
	p, ok := strings.CutPrefix(it.Place, step.Place+"/")
	if !ok {
		return "", errOutside
	}
	return p, nil
}

var errOutside = errors.New("lies outside the working root")
