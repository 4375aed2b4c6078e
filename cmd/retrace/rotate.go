package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// keyFiles are the files of one of the ledger's own keys. The new key of a
// rotation lies beside them, with the suffix .next, from before the rotation is
// recorded until it has taken its place.
type keyFiles struct {
	role    string
	private string
	pem     string // SPKI, of the public half
	vkey    string // C2SP verifier key of the public half; empty if there is none
}

var (
	logFiles      = keyFiles{schema.RoleLog, logKeyFile, logPubFile, logVKeyFile}
	observerFiles = keyFiles{schema.RoleObserver, observerKey, observerPub, ""}
)

const nextSuffix = ".next"

// public is the file that is replaced last: while it lies there as .next, a
// rotation is not finished.
func (f keyFiles) public() string {
	if f.vkey != "" {
		return f.vkey
	}
	return f.pem
}

// all are the files with the private one first and the public one last.
func (f keyFiles) all() []string {
	if f.vkey != "" {
		return []string{f.private, f.pem, f.vkey}
	}
	return []string{f.private, f.pem}
}

// aside is where the old key's file goes: log-460c398b.vkey for log.vkey.
func (f keyFiles) aside(file, hash string) string {
	base, ext, _ := strings.Cut(file, ".")
	if file == f.private {
		ext += ".old"
	}
	return base + "-" + hash + "." + ext
}

func (a *app) rotateCmd() *cobra.Command {
	var file, reason string
	cmd := &cobra.Command{
		Use:   "rotate log|observer",
		Short: "Put a new key in the place of the log key or the observer key",
		Long: `Put a new key in the place of one of the ledger's own. The rotation is an entry
that both keys and the observer sign. What the old key signed stays verifiable:
"retrace verify" finds its way from either log.vkey to the other through the
rotations in a bundle. The ledger has to be here, without a server that holds it.

The new key is made, or taken from --new: a key of retrace, or one that cosign
wrote (a log key must be Ed25519). The old private key is moved aside.`,
		Example:   "  retrace keys rotate log\n  retrace keys rotate observer --new cosign.key --reason 'the old one was on a laptop'",
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{schema.RoleLog, schema.RoleObserver},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			files := logFiles
			switch args[0] {
			case schema.RoleLog:
			case schema.RoleObserver:
				files = observerFiles
			default:
				return cannot(fmt.Errorf("%q is neither log nor observer", args[0]))
			}
			if a.server != "" {
				return cannot(errors.New("keys are rotated where the ledger is, not through --server"))
			}
			dir, err := a.findDir()
			if err != nil {
				return err
			}
			if _, running, err := discover(cmd.Context(), dir); err != nil {
				return err
			} else if running {
				return cannot(&hinted{
					errors.New("a server holds this ledger, and signs with its keys"),
					"stop the server, rotate, start it again; whoever watches has to be started again too",
				})
			}
			done, err := rotate(cmd, dir, files, file, reason, nil)
			if err != nil {
				return cannot(err)
			}
			return a.printRotation(cmd, files, done)
		},
	}
	cmd.Flags().StringVar(&file, "new", "", "`FILE` with the new private key (default: made)")
	cmd.Flags().StringVar(&reason, "reason", "", "why, in `WORDS`")
	return cmd
}

// rotation is what a rotation did.
type rotation struct {
	Role  string `json:"role"`
	Entry int64  `json:"entry"`
	Old   string `json:"old"` // key ID
	New   string `json:"new"`
	VKey  string `json:"vkey,omitempty"` // of the new log key
	Aside string `json:"aside"`          // where the old private key is
	Size  int64  `json:"size"`
}

func (a *app) printRotation(cmd *cobra.Command, files keyFiles, done rotation) error {
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), done)
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "entry %d: rotate %s key from %s\n  to %s\n", done.Entry, files.role, done.Old, done.New)
	if done.VKey != "" {
		fmt.Fprintf(w, "its public key, for whoever verifies from now on:\n  %s\n", done.VKey)
	}
	fmt.Fprintf(w, "the old private key is in %s; it signs nothing any more:\nkeep it offline until nobody verifies with its public half, or destroy it (shred -u)\n", done.Aside)
	return nil
}

// rotate records the rotation and puts the new files in place. step, which may
// be nil, is called before each change.
func rotate(cmd *cobra.Command, dir string, files keyFiles, file, reason string, step func(string) error) (rotation, error) {
	var done rotation
	l, err := openLedger(cmd.Context(), dir)
	if err != nil {
		return done, err
	}
	defer l.Close()
	r := ledger.Rotation{Role: files.role, Reason: reason}
	if r.Observer, err = loadKey(filepath.Join(dir, observerKey)); err != nil {
		return done, fmt.Errorf("rotating needs the keys in force: %w", err)
	}
	if r.Old = r.Observer; files.role == schema.RoleLog {
		if r.Old, err = loadKey(filepath.Join(dir, logKeyFile)); err != nil {
			return done, fmt.Errorf("rotating needs the keys in force: %w", err)
		}
	}
	text, next, err := newKey(file)
	if err != nil {
		return done, err
	}
	r.New = next
	if files.role == schema.RoleLog {
		if err := checkLogKey(next, file); err != nil {
			return done, err
		}
	}
	if err := l.CheckRotation(r); err != nil {
		return done, err
	}
	if err := writeNext(dir, l.Origin(), files, next, text, step); err != nil {
		return done, err
	}
	if err := call(step, "record"); err != nil {
		return done, err
	}
	receipt, err := l.Rotate(cmd.Context(), r)
	if err != nil {
		return done, err
	}
	done = rotation{Role: files.role, Entry: receipt.Entries[0].Index, Old: r.Old.ID(), New: next.ID(), Size: receipt.Size}
	if files.vkey != "" {
		if done.VKey, err = next.VKey(l.Origin()); err != nil {
			return done, err
		}
	}
	hash, err := oldHash(dir, files)
	if err != nil {
		return done, err
	}
	done.Aside = filepath.Join(dir, files.aside(files.private, hash))
	if err := l.Close(); err != nil {
		return done, err
	}
	v, err := readVKey(dir)
	if err != nil {
		return done, err
	}
	// What opening finds recorded decides what is put in place.
	again, err := ledger.OpenReadOnly(dir, v, nil)
	if err != nil {
		return done, err
	}
	return done, errors.Join(promote(dir, again, step), again.Close())
}

func call(step func(string) error, name string) error {
	if step == nil {
		return nil
	}
	return step(name)
}

// newKey is the key in file, or a new one, and the text of its file.
func newKey(file string) (text []byte, k *keys.Private, err error) {
	if file == "" {
		if k, err = keys.Generate(); err != nil {
			return nil, nil, err
		}
		text, err = k.Marshal()
		return text, k, err
	}
	if k, err = loadKey(file); err != nil {
		return nil, nil, err
	}
	text, err = keys.ReadFile(file)
	return text, k, err
}

// checkLogKey refuses a key that cannot sign checkpoints.
func checkLogKey(k *keys.Private, file string) error {
	var not *keys.NotEd25519Error
	if _, err := k.VKey("x"); errors.As(err, &not) {
		return &hinted{
			fmt.Errorf("%s: %w", file, err),
			"make one with `openssl genpkey -algorithm ed25519 -out log.pem` and `cosign import-key-pair --key log.pem`; `cosign generate-key-pair` makes ECDSA, which an observer key may be",
		}
	}
	return nil
}

// writeNext lays the files of the new key beside those in force, the public
// one last. What an unfinished rotation left, that was not recorded, is
// replaced.
func writeNext(dir, origin string, files keyFiles, k *keys.Private, text []byte, step func(string) error) error {
	public, err := k.PublicPEM()
	if err != nil {
		return err
	}
	content := map[string][]byte{files.private: text, files.pem: []byte(public)}
	if files.vkey != "" {
		vkey, err := k.VKey(origin)
		if err != nil {
			return err
		}
		content[files.vkey] = []byte(vkey + "\n")
	}
	for _, name := range append([]string{files.public()}, files.all()...) { // the sign of one comes away first
		if err := os.Remove(filepath.Join(dir, name+nextSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, name := range files.all() {
		if err := call(step, "write "+name+nextSuffix); err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if name == files.private {
			mode = 0o600
		}
		if err := writeDurably(filepath.Join(dir, name+nextSuffix), content[name], mode); err != nil {
			return err
		}
	}
	return nil
}

// writeDurably makes a new file that is whole after a crash, or not there.
func writeDurably(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// finishRotation finishes a rotation of the log key that was recorded and
// whose files are not in place yet: before that the ledger does not open for
// writing.
func finishRotation(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, logVKeyFile+nextSuffix)); err != nil {
		return nil
	}
	v, err := readVKey(dir)
	if err != nil {
		return err
	}
	l, err := ledger.OpenReadOnly(dir, v, nil)
	if err != nil {
		return err
	}
	err = promote(dir, l, nil)
	if cannotWrite(err) {
		err = nil
	}
	return errors.Join(err, l.Close())
}

// promote puts the files of new keys in place where l, which is open, has
// recorded the rotation. Whatever of it was done already stays done, so that it
// can be interrupted anywhere.
func promote(dir string, l *ledger.Ledger, step func(string) error) error {
	logs, observers := l.Keys()
	if err := promoteFiles(dir, logFiles, logs[len(logs)-1].VKey+"\n", step); err != nil {
		return fmt.Errorf("putting the new log key in place: %w", err)
	}
	public, err := keys.MarshalPublic(observers[len(observers)-1].Key)
	if err != nil {
		return err
	}
	if err := promoteFiles(dir, observerFiles, public, step); err != nil {
		return fmt.Errorf("putting the new observer key in place: %w", err)
	}
	return nil
}

// promoteFiles puts the .next files in place if they are of the key in force.
// The old private key is moved aside and the old public one copied.
func promoteFiles(dir string, files keyFiles, inForce string, step func(string) error) error {
	marker := filepath.Join(dir, files.public()+nextSuffix)
	text, err := os.ReadFile(marker)
	if errors.Is(err, fs.ErrNotExist) || err == nil && string(text) != inForce {
		return nil // nothing to finish, or of a rotation that was not recorded
	}
	if err != nil {
		return err
	}
	hash, err := oldHash(dir, files)
	if err != nil {
		return err
	}
	for _, name := range files.all() {
		at, next := filepath.Join(dir, name), filepath.Join(dir, name+nextSuffix)
		if _, err := os.Lstat(next); errors.Is(err, fs.ErrNotExist) {
			continue // done before
		}
		if err := call(step, "set aside "+name); err != nil {
			return err
		}
		if err := setAside(at, filepath.Join(dir, files.aside(name, hash)), name == files.private); err != nil {
			return err
		}
		if err := call(step, "replace "+name); err != nil {
			return err
		}
		if err := os.Rename(next, at); err != nil {
			return err
		}
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// setAside gives the file of an old key its other name, in addition to the one
// that it is about to lose.
func setAside(at, aside string, private bool) error {
	text, err := os.ReadFile(at)
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(aside); err == nil && string(have) == string(text) {
		return nil
	}
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // what an interrupted copy left
	}
	mode := fs.FileMode(0o644)
	if private {
		mode = 0o600
	}
	return writeDurably(aside, text, mode)
}

// oldHash names the key that the public file is of: the key hash of a verifier
// key, or as many digits of the digest of a key in PEM.
func oldHash(dir string, files keyFiles) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, files.public()))
	if err != nil {
		return "", err
	}
	if files.vkey != "" {
		v, err := verify.ParseLogKey(text, "")
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%08x", v.KeyHash()), nil
	}
	if _, err := keys.ParsePublic(text); err != nil {
		return "", fmt.Errorf("%s: %w", files.public(), err)
	}
	return schema.BytesKey(text).Hex()[:8], nil
}
