//go:build !unix

package restore

import (
	"os"
	"os/exec"
)

// ownGroup does nothing: process groups are Unix's.
func ownGroup(*exec.Cmd) {}

// endGroup kills the process.
func endGroup(p *os.Process) error { return p.Kill() }

// exitStatus is how a process ended.
func exitStatus(s *os.ProcessState) int { return s.ExitCode() }
