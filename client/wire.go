package client

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/schema"
)

// AddressFile is the name of the file in a ledger's directory that says where
// a server of it listens, and by which token it knows its callers.
const AddressFile = "server.json"

// Address is the content of the address file.
type Address struct {
	Address string `json:"address"` // URL
	Token   string `json:"token"`
	PID     int    `json:"pid"`
}

// Batch is what POST /v1/statements takes as one idempotent append. An
// envelope is a JSON string with its bytes in base64, or the envelope itself as it
// stands.
type Batch struct {
	Namespace string           `json:"namespace,omitempty"`
	Source    string           `json:"source,omitempty"`
	Submitter string           `json:"submitter,omitempty"` // key ID of the agent
	Envelopes []jsontext.Value `json:"envelopes"`
	Cursors   []schema.Cursor  `json:"cursors,omitempty"`
}

// Erasure is what POST /v1/erasures takes: the entry whose body is to go, and
// the observer's envelope that says so.
type Erasure struct {
	Index    int64  `json:"index"`
	Envelope []byte `json:"envelope"`
}

// CursorAnswer is what GET /v1/cursor answers.
type CursorAnswer struct {
	Source string `json:"source"`
	Cursor string `json:"cursor"` // "" if the source was never read
}

// EntryLine is one line of GET /v1/entries: an entry with its body, which
// anyone who holds it can check against the tiles.
type EntryLine struct {
	Index      int64        `json:"index"`
	State      schema.State `json:"state"`
	Commitment []byte       `json:"commitment"`
	Body       []byte       `json:"body,omitempty"` // salt, header and envelope as hashed
}

// Headers of answers.
const (
	// SizeHeader is the ledger size that a page of entries was read at.
	SizeHeader = "Retrace-Size"
	// KeyHeader says whose bytes an answer has: the key asked for, or what it
	// stands for.
	KeyHeader = "Retrace-Key"
)

// Media types of content: a folder is a tar file.
const (
	MediaTar   = "application/x-tar"
	MediaBytes = "application/octet-stream"
)

// Problem is what a caller is told of a request that was refused (RFC 9457,
// application/problem+json).
type Problem struct {
	Status int    `json:"status"`
	Code   string `json:"code"`            // one of package graphql's, or UNAUTHORIZED
	Field  string `json:"field,omitempty"` // of the request that is at fault
	Detail string `json:"detail"`
	// Cursor is set when a batch was refused because of it.
	Cursor *StoredCursor `json:"cursor,omitempty"`
}

// MediaProblem is the media type of a Problem.
const MediaProblem = "application/problem+json"

// StoredCursor says where a source was read up to, when a batch expected
// something else.
type StoredCursor struct {
	Source   string `json:"source"`
	Stored   string `json:"stored"`
	Expected string `json:"expected"`
}

// SourceState is how a watched source is doing, as GET /v1/sources says.
type SourceState struct {
	Source     string    `json:"source"` // canonical name
	Kind       string    `json:"kind"`   // scheme of its URL
	Namespace  string    `json:"namespace"`
	State      string    `json:"state"`         // WAITING, READING, FAILING or STOPPED
	Seen       time.Time `json:"seen,omitzero"` // when it was last read to its end
	LagSeconds float64   `json:"lagSeconds"`    // how long ago that was; 0 before the first time
	Error      string    `json:"error,omitempty"`
	Again      time.Time `json:"again,omitzero"` // when it is tried again
	Reads      int       `json:"reads"`
	Failures   int       `json:"failures"`
	Recorded   int       `json:"recorded"`   // facts that were new
	Duplicates int       `json:"duplicates"` // facts that were known
	Skipped    int       `json:"skipped"`    // objects of which no fact could be made
}
