package server

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rogpeppe/go-internal/lockedfile"

	"github.com/retrace-ledger/retrace/schema"
)

// Role is what the holder of a token may do. A role does not include another,
// but for RoleAdmin, which is all of them.
type Role string

// The roles.
const (
	RoleReader   Role = "reader"   // asks: GraphQL, entries
	RoleRecorder Role = "recorder" // hands in statements and the bytes they speak of
	RoleRestorer Role = "restorer" // reads bytes, has the server restore
	RoleAdmin    Role = "admin"    // everything, erasing and backups too
)

// Roles are all roles.
func Roles() []Role { return []Role{RoleReader, RoleRecorder, RoleRestorer, RoleAdmin} }

// Token is a machine's right to call the server. What is kept is a hash: the
// token itself has 130 random bits and is shown once.
type Token struct {
	Name  string `json:"name"`
	Hash  string `json:"sha256"` // of the token, in hex
	Roles []Role `json:"roles"`
	// Namespaces are those that a recorder may record in; empty for all.
	Namespaces []string  `json:"namespaces,omitempty"`
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
}

// has says whether the token gives role at a time.
func (t *Token) has(role Role, now time.Time) bool {
	return now.Before(t.Expires) && (slices.Contains(t.Roles, role) || slices.Contains(t.Roles, RoleAdmin))
}

// TokensFile is the file in a ledger's directory that holds the tokens of
// machines, hashed.
const TokensFile = "tokens.json"

// tokenPrefix has secret scanners recognize a token.
const tokenPrefix = "retrace_"

// ErrNoToken is returned for a name that no token has.
var ErrNoToken = errors.New("there is no token of that name")

// ReadTokens returns the tokens of the ledger in dir, by name.
func ReadTokens(dir string) ([]Token, error) {
	raw, err := lockedfile.Read(filepath.Join(dir, TokensFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseTokens(raw)
}

func parseTokens(raw []byte) ([]Token, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var tokens []Token
	if err := json.Unmarshal(raw, &tokens, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("reading %s: %w", TokensFile, err)
	}
	return tokens, nil
}

// CreateToken adds a token to the ledger in dir and returns it, in full for the
// only time. t has a name that no other token has, roles and an expiry. A
// running server takes it at once.
func CreateToken(dir string, t Token) (string, error) {
	if err := t.check(); err != nil {
		return "", err
	}
	secret := tokenPrefix + strings.ToLower(rand.Text())
	t.Hash = hashToken(secret)
	return secret, changeTokens(dir, func(tokens []Token) ([]Token, error) {
		if slices.ContainsFunc(tokens, func(have Token) bool { return have.Name == t.Name }) {
			return nil, fmt.Errorf("there is a token %q already; revoke it or take another name", t.Name)
		}
		return append(tokens, t), nil
	})
}

func (t *Token) check() error {
	if t.Name == "" || len(t.Name) > 64 || strings.ContainsFunc(t.Name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%q is not the name of a token: one to 64 visible ASCII characters", clip(t.Name))
	}
	if len(t.Roles) == 0 {
		return errors.New("a token without a role could do nothing")
	}
	for _, r := range t.Roles {
		if !slices.Contains(Roles(), r) {
			return fmt.Errorf("%q is not a role; those are reader, recorder, restorer and admin", r)
		}
	}
	if !t.Expires.After(t.Created) {
		return errors.New("a token expires after it was made")
	}
	return nil
}

// RevokeToken removes a token from the ledger in dir; ErrNoToken if there is
// none of that name. A running server refuses it at once.
func RevokeToken(dir, name string) error {
	return changeTokens(dir, func(tokens []Token) ([]Token, error) {
		left := slices.DeleteFunc(slices.Clone(tokens), func(t Token) bool { return t.Name == name })
		if len(left) == len(tokens) {
			return nil, fmt.Errorf("%q: %w", name, ErrNoToken)
		}
		return left, nil
	})
}

// changeTokens rewrites the tokens under a lock of the file.
func changeTokens(dir string, change func([]Token) ([]Token, error)) error {
	name := filepath.Join(dir, TokensFile)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600) // Transform would let others read it
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return lockedfile.Transform(name, func(old []byte) ([]byte, error) {
		tokens, err := parseTokens(old)
		if err != nil {
			return nil, err
		}
		if tokens, err = change(tokens); err != nil {
			return nil, err
		}
		raw, err := json.Marshal(tokens, json.Deterministic(true), jsontext.WithIndent("  "))
		return append(raw, '\n'), err
	})
}

func hashToken(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// tokens are those of the file, read again when it has changed.
type tokens struct {
	dir string

	mu     sync.Mutex
	stamp  string // size and time of the file when it was read
	byHash map[string]Token
}

// find returns the token with this text. Looking it up by its hash tells
// nobody, by the time it takes, how much of it was right.
func (t *tokens) find(secret string) (Token, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := os.Stat(filepath.Join(t.dir, TokensFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Token{}, false, nil
	}
	if err != nil {
		return Token{}, false, err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return Token{}, false, fmt.Errorf("%s can be written by others than its owner (mode %04o): nobody can tell who made its tokens", TokensFile, info.Mode().Perm())
	}
	if stamp := fmt.Sprint(info.Size(), info.ModTime().UnixNano()); stamp != t.stamp {
		list, err := ReadTokens(t.dir)
		if err != nil {
			return Token{}, false, err
		}
		t.byHash = map[string]Token{}
		for _, token := range list {
			t.byHash[token.Hash] = token
		}
		t.stamp = stamp
	}
	token, ok := t.byHash[hashToken(secret)]
	return token, ok, nil
}

// mayRecord says whether the token allows recording in namespace ("" for the
// default one).
func (t *Token) mayRecord(namespace string) bool {
	if namespace == "" {
		namespace = schema.DefaultNamespace
	}
	return len(t.Namespaces) == 0 || slices.Contains(t.Namespaces, namespace)
}
