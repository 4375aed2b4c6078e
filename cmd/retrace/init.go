package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/schema"
)

func (a *app) initCmd() *cobra.Command {
	var origin, logKey, observer string
	var ifMissing bool
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a ledger in .retrace, or in --dir",
		Long: `Make a ledger: a directory with an Ed25519 log key (log.key), its public half as
a C2SP verifier key (log.vkey) and as PEM (log.pub), and the key that signs what
retrace observes (observer.key). Give log.vkey to whoever shall verify.

Keys that you have can be used instead: --log-key and --observer-key take a key
of retrace, or a key file of cosign, which is copied as it is and stays encrypted;
its password comes from COSIGN_PASSWORD or is asked for. A log key is Ed25519.

Where a ledger is already, nothing is changed and the status is 2; with
--if-missing it is 0, for what runs at every start, such as a container.`,
		Example: "  retrace init\n  retrace --dir /srv/ledger init --origin ledger.example.com/ml\n  retrace init --observer-key cosign.key",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir := a.dir
			if dir == "" {
				dir = dirName
			}
			if held, err := os.ReadFile(filepath.Join(dir, logVKeyFile)); ifMissing && err == nil {
				if a.output == "json" {
					return printJSON(cmd.OutOrStdout(), map[string]string{"dir": dir, "vkey": strings.TrimSpace(string(held))})
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s holds a ledger already; nothing is changed\n", dir)
				return nil
			}
			vkey, err := createLedger(dir, origin, logKey, observer)
			if err != nil {
				return cannot(err)
			}
			if a.output == "json" {
				return printJSON(cmd.OutOrStdout(), map[string]string{"dir": dir, "vkey": vkey})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "made a ledger in %s\nits public key, in %s, is for whoever shall verify:\n  %s\n", dir, filepath.Join(dir, logVKeyFile), vkey)
			return nil
		},
	}
	cmd.Flags().StringVar(&origin, "origin", "", "`NAME` of the log, unique in the world (default HOST/RANDOM)")
	cmd.Flags().BoolVar(&ifMissing, "if-missing", false, "do nothing where a ledger is already")
	cmd.Flags().StringVar(&logKey, "log-key", "", "`FILE` with the private log key, Ed25519 (default: made)")
	cmd.Flags().StringVar(&observer, "observer-key", "", "`FILE` with the private observer key (default: made)")
	return cmd
}

// createLedger makes a ledger in dir with the keys in two files, or with new
// ones where a name is empty, and returns its verifier key.
func createLedger(dir, origin, logKeyFrom, observerFrom string) (string, error) {
	if origin == "" {
		var err error
		if origin, err = newOrigin(); err != nil {
			return "", err
		}
	}
	if _, err := os.Stat(filepath.Join(dir, logVKeyFile)); err == nil {
		return "", fmt.Errorf("%s holds a ledger already", dir)
	}
	logText, logKey, err := newKey(logKeyFrom)
	if err != nil {
		return "", err
	}
	if err := checkLogKey(logKey, logKeyFrom); err != nil {
		return "", err
	}
	observerText, observer, err := newKey(observerFrom)
	if err != nil {
		return "", err
	}
	if logKey.ID() == observer.ID() {
		return "", fmt.Errorf("%s and %s hold the same key; the log and what it records are signed with two", logKeyFrom, observerFrom)
	}
	signer, err := logKey.NoteSigner(origin)
	if err != nil {
		return "", err
	}
	vkey, err := logKey.VKey(origin)
	if err != nil {
		return "", err
	}
	genesis, err := newGenesis(origin, vkey, observer)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := writeKeys(dir, logText, observerText, logKey, observer); err != nil {
		return "", err
	}
	// The verifier key is written last: its presence says that a ledger is here.
	if err := ledger.Create(dir, signer, genesis); err != nil {
		return "", err
	}
	return vkey, os.WriteFile(filepath.Join(dir, logVKeyFile), []byte(vkey+"\n"), 0o644)
}

// newOrigin names a log after this host and sixteen random hex digits.
func newOrigin() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("naming the log after this host: %w", err)
	}
	host = strings.Map(func(r rune) rune {
		if r <= ' ' || r == '+' || r == 0x7f {
			return '-'
		}
		return r
	}, host)
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", err
	}
	return host + "/" + hex.EncodeToString(random[:]), nil
}

// newGenesis is the envelope of entry 0.
func newGenesis(origin, vkey string, observer *keys.Private) (schema.Envelope, error) {
	pem, err := observer.PublicPEM()
	if err != nil {
		return schema.Envelope{}, err
	}
	s, err := schema.NewStatement(schema.GenesisV1,
		schema.Genesis{Format: 1, Origin: origin, LogKey: vkey, ObserverKey: pem},
		schema.Descriptor{Name: "log key", Digest: schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(vkey)).Hex()}})
	if err != nil {
		return schema.Envelope{}, err
	}
	return observer.SignStatement(s)
}

func writeKeys(dir string, logText, observerText []byte, logKey, observer *keys.Private) error {
	for name, text := range map[string][]byte{logKeyFile: logText, observerKey: observerText} {
		if err := keys.CreateFile(filepath.Join(dir, name), text); err != nil {
			return err
		}
	}
	for name, k := range map[string]*keys.Private{logPubFile: logKey, observerPub: observer} {
		pem, err := k.PublicPEM()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(pem), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("*\n"), 0o644)
}
