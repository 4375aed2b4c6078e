package schema

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
)

// EmptyTree is the retraceTree1 digest of a folder that holds nothing, in hex.
const EmptyTree = "3371c0688dcfd6a0e030491f42d24fa5d2e5da632cf08b514e7d86ce8726da2c"

// TreeDigest is the retraceTree1 digest, in hex, of a folder that holds files:
// SHA-256 over "retraceTree1\n" and, for each file, folder and link below the
// folder in bytewise order of path,
//
//	uint32 length of path ‖ path ‖ type ('f', 'd' or 'l') ‖
//	of a file:   executable (0 or 1) ‖ uint64 size ‖ SHA-256 of the content
//	of a folder: nothing
//	of a link:   uint32 length of target ‖ target
//
// with integers big-endian. Times, owners and permission bits other than
// "executable by its owner" do not count, so that the digest survives a copy,
// a checkout and another umask. The folder itself is not listed. Files must
// hold clean relative paths without repetition; the caller has checked that.
func TreeDigest(files []SnapshotFile) (string, error) {
	sorted := slices.Clone(files)
	slices.SortFunc(sorted, func(a, b SnapshotFile) int { return strings.Compare(a.Path, b.Path) })
	h := sha256.New()
	h.Write([]byte("retraceTree1\n"))
	var rec []byte
	for i, f := range sorted {
		if err := CheckPath(f.Path); err != nil {
			return "", under("path", err)
		}
		if i > 0 && sorted[i-1].Path == f.Path {
			return "", fieldErrorf("path", "%q is listed twice", clip(f.Path))
		}
		rec = binary.BigEndian.AppendUint32(rec[:0], uint32(len(f.Path)))
		rec = append(rec, f.Path...)
		switch f.Type {
		case "file":
			sum, err := hex.DecodeString(f.SHA256)
			if err != nil || len(sum) != sha256.Size {
				return "", fieldErrorf("sha256", "%q of %q is not a SHA-256 digest", clip(f.SHA256), clip(f.Path))
			}
			if f.Size < 0 {
				return "", fieldErrorf("size", "%d of %q is negative", f.Size, clip(f.Path))
			}
			exec := byte(0)
			if f.Exec {
				exec = 1
			}
			rec = append(rec, 'f', exec)
			rec = binary.BigEndian.AppendUint64(rec, uint64(f.Size))
			rec = append(rec, sum...)
		case "folder":
			rec = append(rec, 'd')
		case "link":
			rec = append(rec, 'l')
			rec = binary.BigEndian.AppendUint32(rec, uint32(len(f.Target)))
			rec = append(rec, f.Target...)
		default:
			return "", fieldErrorf("type", "%q of %q is none of file, folder and link", clip(f.Type), clip(f.Path))
		}
		h.Write(rec)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
