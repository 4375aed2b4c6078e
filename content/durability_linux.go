package content

import (
	"bufio"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/retrace-ledger/retrace/schema"
)

func deviceOf(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev)
	}
	return 0
}

// networked are file systems whose files lie on other machines, by the type that
// statfs says (linux/magic.h, and the sources of those that are not in it).
func networked(kind int64) bool {
	switch uint32(kind) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC,
		unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC, unix.CODA_SUPER_MAGIC, unix.NCP_SUPER_MAGIC,
		0x0BD00BD0, // Lustre
		0x47504653, // GPFS
		0x19830326: // BeeGFS
		return true
	}
	return false
}

func durabilityOf(dir, store string) string {
	var at unix.Statfs_t
	if unix.Statfs(store, &at) != nil {
		return ""
	}
	if networked(int64(at.Type)) {
		return schema.Remote
	}
	same, err := sameFileSystem(dir, store)
	if err != nil {
		return ""
	}
	if same {
		return schema.SameDisk
	}
	var from unix.Statfs_t
	if unix.Statfs(dir, &from) != nil {
		return ""
	}
	theirs := disks(store)
	if len(theirs) == 0 {
		return "" // tmpfs, overlay, FUSE, ZFS, 9p: nobody says on which disk
	}
	if networked(int64(from.Type)) {
		return schema.OtherDisk
	}
	ours := disks(dir)
	if len(ours) == 0 {
		return ""
	}
	for disk := range ours {
		if theirs[disk] {
			return schema.SameDisk
		}
	}
	return schema.OtherDisk
}

// disks are the physical block devices that the file system of path is on, by
// name; none where that cannot be told.
func disks(path string) map[string]bool {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	dev := deviceOf(info)
	if unix.Major(dev) == 0 { // a file system on several devices, such as Btrfs
		if dev = mountedFrom(path); dev == 0 {
			return nil
		}
	}
	found := map[string]bool{}
	if !below(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(dev), unix.Minor(dev)), found, 0) {
		return nil
	}
	return found
}

// below adds the physical devices under the block device at sys, and says
// whether it found all.
func below(sys string, found map[string]bool, depth int) bool {
	real, err := filepath.EvalSymlinks(sys)
	if err != nil || depth > 16 {
		return false
	}
	if _, err := os.Stat(filepath.Join(real, "partition")); err == nil {
		return below(filepath.Dir(real), found, depth+1)
	}
	slaves, err := os.ReadDir(filepath.Join(real, "slaves"))
	if err != nil {
		return false
	}
	if len(slaves) == 0 {
		name := filepath.Base(real)
		if strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "ram") || strings.HasPrefix(name, "nbd") || strings.HasPrefix(name, "rbd") {
			return false // a file, memory or another machine: not seen from here
		}
		found[name] = true
		return true
	}
	all := maps.Clone(found)
	for _, s := range slaves {
		if !below(filepath.Join(real, "slaves", s.Name()), all, depth+1) {
			return false
		}
	}
	maps.Copy(found, all)
	return true
}

// mountedFrom is the block device that the file system of path was mounted
// from, 0 if none.
func mountedFrom(path string) uint64 {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	best, source := "", ""
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// proc(5): ID parent major:minor root mount-point options … - type source …
		before, after, ok := strings.Cut(sc.Text(), " - ")
		fields, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(tail) < 2 {
			continue
		}
		at := unescape(fields[4])
		if (at == "/" || path == at || strings.HasPrefix(path, at+"/")) && len(at) >= len(best) {
			best, source = at, ""
			if tail[0] == "btrfs" || tail[0] == "bcachefs" {
				source = unescape(tail[1])
			}
		}
	}
	info, err := os.Stat(source)
	if err != nil {
		return 0
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&fs.ModeDevice == 0 {
		return 0
	}
	return uint64(st.Rdev)
}

// unescape undoes how the kernel writes spaces and the like in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
