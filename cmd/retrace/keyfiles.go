package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/term"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/verify"
	"github.com/retrace-ledger/retrace/verify/cosign"
)

// passwordEnv names the variable with the password of a key file that cosign
// wrote; cosign reads it too.
const passwordEnv = "COSIGN_PASSWORD"

// loadKey reads a private key: one of ours, or one that cosign wrote, whose
// password comes from COSIGN_PASSWORD or is asked for.
func loadKey(path string) (*keys.Private, error) {
	text, err := keys.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if !cosign.IsPrivateKey(text) {
		return keys.Parse(path, text)
	}
	password, err := readPassword(path)
	if err != nil {
		return nil, err
	}
	k, err := cosign.LoadPrivate(text, password)
	if err != nil {
		return nil, &hinted{fmt.Errorf("opening %s: %w", path, err), "the password is read from " + passwordEnv + ", or asked for on a terminal where that is not set"}
	}
	return k, nil
}

func readPassword(path string) ([]byte, error) {
	if password, ok := os.LookupEnv(passwordEnv); ok {
		return []byte(password), nil
	}
	if !isTerminal(os.Stdin) {
		return nil, &hinted{
			fmt.Errorf("%s is encrypted, and there is no terminal to ask for its password on", path),
			"set " + passwordEnv + "; to an empty text if it has none",
		}
	}
	fmt.Fprintf(os.Stderr, "retrace: password of %s: ", path)
	password, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(os.Stderr)
	if err != nil {
		return nil, fmt.Errorf("reading the password of %s: %w", path, err)
	}
	return password, nil
}

// logKey is the private log key of a ledger, read once for all tries to open
// it.
type logKey struct {
	private *keys.Private
}

// open opens the ledger in dir: for writing where its log key is, else for
// reading. What a rotation that was interrupted has left to do is done first.
func (k *logKey) open(dir string) (*ledger.Ledger, error) {
	if err := finishRotation(dir); err != nil {
		return nil, err
	}
	l, err := k.openOnce(dir)
	if errors.Is(err, ledger.ErrRotated) {
		// The rotation was committed and not signed; that try has signed it.
		k.private = nil
		if err := finishRotation(dir); err != nil {
			return nil, err
		}
		l, err = k.openOnce(dir)
	}
	if err != nil {
		return nil, err
	}
	if err := promote(dir, l, nil); err != nil && !cannotWrite(err) {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// cannotWrite says that a directory is read-only for us. A copy of a ledger
// with an unfinished rotation is read all the same.
func cannotWrite(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)
}

func (k *logKey) openOnce(dir string) (*ledger.Ledger, error) {
	v, err := readVKey(dir)
	if err != nil {
		return nil, err
	}
	signer, err := k.signer(dir, v.Name())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return ledger.OpenReadOnly(dir, v, nil)
	}
	if err != nil {
		return nil, err
	}
	l, err := ledger.Open(dir, signer, nil)
	if cannotWrite(err) {
		return ledger.OpenReadOnly(dir, v, nil)
	}
	return l, err
}

func (k *logKey) signer(dir, origin string) (note.Signer, error) {
	if k.private == nil {
		var err error
		if k.private, err = loadKey(filepath.Join(dir, logKeyFile)); err != nil {
			return nil, err
		}
	}
	return k.private.NoteSigner(origin)
}

// readVKey reads the log's public key in dir.
func readVKey(dir string) (note.Verifier, error) {
	path := filepath.Join(dir, logVKeyFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	v, err := verify.ParseLogKey(text, "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}
