package content

import (
	"io/fs"
	"syscall"
)

// fingerprintOf describes a file as the system does; false where the system
// does not say when it last changed.
func fingerprintOf(info fs.FileInfo) (fingerprint, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fingerprint{}, false
	}
	return fingerprint{
		Size: info.Size(), Modified: info.ModTime().UnixNano(), Changed: st.Ctim.Nano(),
		Inode: st.Ino, Device: uint64(st.Dev), Exec: executable(info),
	}, true
}
