package server

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/retrace-ledger/retrace/client"
)

// writeAddress writes the address file, readable by its owner only, whole or
// not at all.
func writeAddress(dir string, addr net.Addr, token string) error {
	raw, err := json.Marshal(client.Address{Address: "http://" + addr.String(), Token: token, PID: os.Getpid()})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+client.AddressFile+"-*") // 0600
	if err != nil {
		return fmt.Errorf("saying where the server listens: %w", err)
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(append(raw, '\n')); err != nil {
		f.Close()
		return fmt.Errorf("saying where the server listens: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("saying where the server listens: %w", err)
	}
	return os.Rename(f.Name(), filepath.Join(dir, client.AddressFile))
}

// removeAddress removes the address file, if it is still ours.
func removeAddress(dir, token string) {
	name := filepath.Join(dir, client.AddressFile)
	raw, err := os.ReadFile(name)
	var a client.Address
	if err == nil && json.Unmarshal(raw, &a) == nil && a.Token == token {
		os.Remove(name)
	}
}
