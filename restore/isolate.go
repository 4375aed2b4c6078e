package restore

import (
	"fmt"
	"os"
	"strings"
)

// isolation is what keeps a step apart from the machine.
type isolation struct {
	network bool   // no network but its own, in which nothing is up
	how     string // by what, or why not
}

// words say what the isolation was and, as plainly, what it was not.
func (i isolation) words() string {
	var parts []string
	if i.network {
		parts = append(parts, "no network ("+i.how+")")
	} else {
		parts = append(parts, "network of this machine ("+i.how+")")
	}
	user := "the files that its user may read"
	if os.Geteuid() == 0 {
		user = "all files, as root"
	}
	return strings.Join(append(parts,
		"own process group",
		"scratch HOME, TMPDIR and working root",
		fmt.Sprintf("could read %s", user)), "; ")
}
