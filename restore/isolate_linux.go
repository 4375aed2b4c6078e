package restore

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

// isolate finds out, once, how far steps can be kept apart from the network,
// and returns what to start them with. It starts a program that does not
// exist: the kernel makes the namespaces first, so an error that says so is
// proof that it would have made them.
func isolate() (isolation, func(*exec.Cmd)) {
	namespaces := []struct {
		how  string
		attr func() *syscall.SysProcAttr
	}{
		{"own network namespace", func() *syscall.SysProcAttr {
			return &syscall.SysProcAttr{Setpgid: true, Cloneflags: syscall.CLONE_NEWNET}
		}},
		{"own network and user namespace", func() *syscall.SysProcAttr {
			return &syscall.SysProcAttr{
				Setpgid: true, Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
			}
		}},
	}
	var why error
	for _, ns := range namespaces {
		probe := exec.Cmd{Path: "/nonexistent/retrace-probe", SysProcAttr: ns.attr()}
		err := probe.Start()
		if errors.Is(err, fs.ErrNotExist) {
			return isolation{network: true, how: ns.how}, func(c *exec.Cmd) { c.SysProcAttr = ns.attr() }
		}
		why = err
	}
	how := "this system allows no network namespace"
	var errno syscall.Errno
	if errors.As(why, &errno) {
		how += ": " + errno.Error()
	}
	return isolation{how: how}, ownGroup
}
