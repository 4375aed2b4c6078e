package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/retrace-ledger/retrace/schema"
)

// Limits of a list of images.
const (
	maxLine   = 4096   // bytes
	maxImages = 10_000 // lines with one
)

// Image is an image to audit, parsed.
type Image struct {
	Ref        string     // as given
	Repository string     // HOST/REPOSITORY, with what the reference leaves out
	Digest     schema.Key // empty for a reference by tag
	Line       int        // of the list; 0 if there is none

	full string // Ref, with what it leaves out
}

// ParseImage parses an image reference: HOST/REPOSITORY with :TAG or @DIGEST.
// Docker Hub and latest are filled in where they are left out, as everywhere.
func ParseImage(ref string) (Image, error) {
	if len(ref) > maxLine {
		return Image{}, fmt.Errorf("the image reference is %d bytes; the limit is %d", len(ref), maxLine)
	}
	if strings.Contains(ref, "://") {
		return Image{}, fmt.Errorf("image reference %q has a scheme; want HOST/REPOSITORY:TAG or HOST/REPOSITORY@DIGEST", ref)
	}
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return Image{}, fmt.Errorf("parsing image reference %q: %w", ref, err)
	}
	image := Image{Ref: ref, Repository: parsed.Context().Name(), full: parsed.Name()}
	if d, ok := parsed.(name.Digest); ok {
		if image.Digest, err = schema.ParseKey(d.DigestStr()); err != nil {
			return Image{}, fmt.Errorf("parsing image reference %q: %w", ref, err)
		}
	}
	return image, nil
}

// ParseImages reads a list of images, one reference a line. Empty lines are
// ignored, and so is what follows a # that begins a line or comes after a
// space. An error names the line. A list without an image is an error: an audit of
// nothing must not pass.
func ParseImages(r io.Reader) ([]Image, error) {
	var images []Image
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		line := lines.Text()
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff") // as some editors begin a file
		}
		ref := strings.TrimSpace(withoutComment(line))
		if ref == "" {
			continue
		}
		image, err := ParseImage(ref)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if image.Line = n; len(images) == maxImages {
			return nil, fmt.Errorf("line %d: more than %d images", n, maxImages)
		}
		images = append(images, image)
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("line %d: longer than %d bytes", n+1, maxLine)
	} else if err != nil {
		return nil, fmt.Errorf("reading the list of images: %w", err)
	}
	if len(images) == 0 {
		return nil, errors.New("the list names no image")
	}
	return images, nil
}

func withoutComment(line string) string {
	if strings.HasPrefix(line, "#") {
		return ""
	}
	for _, mark := range []string{" #", "\t#"} {
		line, _, _ = strings.Cut(line, mark)
	}
	return line
}
