package ingest

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Place is where a source is, as retrace.yaml or a command line says.
type Place struct {
	URL string
	// With are the settings that only this kind has: a JSON object, or nil.
	With jsontext.Value
}

// Settings decodes the settings of the place into v, a pointer to a struct, and
// refuses unknown ones. A kind that has none passes a pointer to an empty
// struct.
func (p Place) Settings(v any) error {
	if len(p.With) == 0 {
		return nil
	}
	err := json.Unmarshal(p.With, v, json.RejectUnknownMembers(true))
	if sem := (*json.SemanticError)(nil); errors.As(err, &sem) {
		at := strings.ReplaceAll(strings.TrimPrefix(string(sem.JSONPointer), "/"), "/", ".")
		if errors.Is(sem.Err, json.ErrUnknownName) {
			return Setting(at, errors.New("there is no such setting"))
		}
		return Setting(at, fmt.Errorf("want %v", sem.GoType))
	}
	return err
}

// A SettingError is what is wrong with a setting of a place.
type SettingError struct {
	Field string // below with, such as "token.file"
	Err   error
}

// Setting is the error of a setting, for a kind that refuses one.
func Setting(field string, err error) error { return &SettingError{field, err} }

func (e *SettingError) Error() string { return fmt.Sprintf("with.%s: %v", e.Field, e.Err) }

// Unwrap returns what is wrong.
func (e *SettingError) Unwrap() error { return e.Err }

// Secret says where a secret is: in a file or in the environment. It never
// holds the secret itself, so that printing it gives nothing away.
type Secret struct {
	File string `json:"file,omitempty"`
	Env  string `json:"env,omitempty"` // name of a variable
}

// maxSecret is how long a secret may be, in bytes.
const maxSecret = 64 << 10

// Given says whether there is one.
func (s Secret) Given() bool { return s != Secret{} }

// Read returns the secret without the white space around it. It is read anew
// each time, since mounted tokens change.
func (s Secret) Read() (string, error) {
	switch {
	case s.File != "" && s.Env != "":
		return "", fmt.Errorf("a secret is in a file or in the environment, not both: %s, %s", s.File, s.Env)
	case s.Env != "":
		v := strings.TrimSpace(os.Getenv(s.Env))
		if v == "" {
			return "", fmt.Errorf("the environment variable %s is not set", s.Env)
		}
		return v, nil
	case s.File == "":
		return "", errors.New("no secret is given")
	}
	info, err := os.Stat(s.File)
	if err != nil {
		return "", err
	}
	if info.Size() > maxSecret {
		return "", fmt.Errorf("%s is %d bytes; a secret has at most %d", s.File, info.Size(), maxSecret)
	}
	raw, err := os.ReadFile(s.File)
	if err != nil {
		return "", err
	}
	v := strings.TrimSpace(string(raw))
	if v == "" {
		return "", fmt.Errorf("%s is empty", s.File)
	}
	return v, nil
}
