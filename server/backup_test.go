package server_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/server"
)

// TestBackup streams a backup to who holds the token, and no private key to
// anybody.
func TestBackup(t *testing.T) {
	w := newWorld(t, server.Options{})
	vkey, err := w.Log.VKey(ledgertest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.Dir(), "log.vkey"), []byte(vkey), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.Log.Create(filepath.Join(w.Dir(), "log.key")); err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(filepath.Join(w.Dir(), "log.key"))
	if err != nil {
		t.Fatal(err)
	}
	if status, body := w.call("GET", "/v1/backup", ""); status != 401 || strings.Contains(body, "retrace-backup.json") {
		t.Errorf("a backup without the token = %d %.100s", status, body)
	}
	for _, path := range []string{"/v1/backup", "/v1/backup?keys=1", "/v1/backup?withKeys=true"} {
		if status, body := w.call("GET", path, "", w.bearer()); status != 200 || strings.Contains(body, string(secret)) {
			t.Errorf("GET %s = %d, with the private key: %v", path, status, strings.Contains(body, string(secret)))
		}
	}
	r, err := w.client.Backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var copied bytes.Buffer
	info, err := ledger.CopyBackup(t.Context(), &copied, r, w.Dir(), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(copied.Bytes(), secret) || len(info.Keys) != 1 {
		t.Errorf("keys put in on this side: %q", info.Keys)
	}
	dir := filepath.Join(t.TempDir(), "new")
	if _, err := ledger.Import(t.Context(), &copied, dir, nil); err != nil {
		t.Fatal(err)
	}
	ledgertest.Check(t, dir, w.Verifier)
}
