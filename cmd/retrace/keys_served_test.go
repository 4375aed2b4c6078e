package main

import (
	"strings"
	"testing"
)

// TestRotateServed rotates nothing beside a server, which signs with the old
// keys, and everything once it has stopped.
func TestRotateServed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	done(t, dir, "init")
	_, stop := serveSources(t, dir, "  []\n")
	for _, role := range []string{"log", "observer"} {
		_, errs, status := retrace(t, dir, "keys", "rotate", role)
		if status != 2 || !strings.Contains(errs, "a server holds this ledger") || !strings.Contains(errs, "stop the server, rotate, start it again") {
			t.Errorf("keys rotate %s beside a server ended with %d: %s", role, status, errs)
		}
	}
	stop()
	done(t, dir, "keys", "rotate", "log")
	done(t, dir, "keys", "rotate", "observer")
	done(t, dir, "fsck")
}
