package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/metrics"
)

// anonymous is how much memory of the process no file stands behind. Where the
// system does not say, it is what the Go runtime holds.
func anonymous() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		metrics.Read(s)
		return int64(s[0].Value.Uint64() - s[1].Value.Uint64()), nil
	case err != nil:
		return 0, err
	}
	for line := range bytes.Lines(status) {
		var kb int64
		if n, _ := fmt.Sscanf(string(line), "RssAnon: %d kB", &kb); n == 1 {
			return kb << 10, nil
		}
	}
	return 0, errors.New("/proc/self/status has no RssAnon")
}
