package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// sums lists the files of the repository with a checksum of each, so that
// damage is found in every byte of them: much of a pack is padding or an index
// that reading does not look at. Each line is
//
//	name ' ' size ' ' CRC-32C of the file ' ' CRC-32C of all before
//
// with eight hex digits for each checksum. A file is listed when it is made
// durable and never changes after. The sums are against accidents; against
// people there are the digests.
type sums struct{ file string }

type sum struct {
	size int64
	crc  uint32
}

// read returns what is listed, and how many lines do not check.
func (s sums) read() (map[string]sum, int, error) {
	raw, err := os.ReadFile(s.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("reading the checksums of the content store: %w", err)
	}
	listed, bad := map[string]sum{}, 0
	for len(raw) > 0 {
		line, rest, ended := bytes.Cut(raw, []byte{'\n'})
		if !ended {
			if damagedEnd(raw, parsesAsSum) {
				bad++
			}
			break
		}
		if name, v, ok := parseSum(line); ok {
			listed[name] = v
		} else {
			bad++
		}
		raw = rest
	}
	return listed, bad, nil
}

// add lists the files of dir, by path relative to it, that are not listed.
func (s sums) add(ctx context.Context, dir string, names []string) error {
	listed, _, err := s.read()
	if err != nil {
		return err
	}
	var lines []byte
	for _, name := range names {
		if _, ok := listed[name]; ok {
			continue
		}
		v, err := sumOf(ctx, filepath.Join(dir, filepath.FromSlash(name)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a marker of another writer, which it took away again
		}
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %d %08x ", name, v.size, v.crc)
		lines = fmt.Appendf(lines, "%s%08x\n", line, crc(line))
	}
	if len(lines) == 0 {
		return nil
	}
	return appendDurably(s.file, lines, parsesAsSum)
}

// drop takes the files off the list that are gone on purpose. Lines that do not
// check stay, to be found. Nobody else may use the store meanwhile.
func (s sums) drop(gone func(name string) bool) error {
	raw, err := os.ReadFile(s.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the checksums of the content store: %w", err)
	}
	var kept []byte
	for line := range bytes.Lines(raw) {
		if name, _, ok := parseSum(bytes.TrimSuffix(line, []byte{'\n'})); !ok || !gone(name) {
			kept = append(kept, line...)
		}
	}
	if len(kept) == len(raw) {
		return nil
	}
	return writeDurably(s.file, kept)
}

func sumOf(ctx context.Context, name string) (sum, error) {
	f, err := os.Open(name)
	if err != nil {
		return sum{}, err
	}
	defer f.Close()
	h := crc32.New(castagnoli())
	n, err := io.Copy(h, &contextReader{ctx, f})
	return sum{size: n, crc: h.Sum32()}, err
}

func parsesAsSum(line []byte) bool {
	_, _, ok := parseSum(line)
	return ok
}

func parseSum(line []byte) (string, sum, bool) {
	body, ok := checkedLine(string(line))
	if !ok {
		return "", sum{}, false
	}
	fields := strings.Split(body, " ")
	if len(fields) != 4 || !filepath.IsLocal(filepath.FromSlash(fields[0])) {
		return "", sum{}, false
	}
	size, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil || size < 0 {
		return "", sum{}, false
	}
	c, err := strconv.ParseUint(fields[2], 16, 32)
	return fields[0], sum{size: size, crc: uint32(c)}, err == nil
}
