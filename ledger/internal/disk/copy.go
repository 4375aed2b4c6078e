package disk

import (
	"io"
	"os"
)

// Copy copies the file at from to a new file at to, with its permissions and
// its holes: a store that was not closed has files of hundreds of megabytes with
// little in them.
func Copy(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm()|0o200)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		start, end, err := nextData(src, at, info.Size())
		if err != nil {
			return err
		}
		if start == end {
			break
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, start), io.NewSectionReader(src, start, end-start)); err != nil {
			return err
		}
		at = end
	}
	return dst.Close()
}
