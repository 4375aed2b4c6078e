package schema

// Batch is what one append takes: envelopes and the cursors that moved by
// reading them, whole or not at all. At most MaxBatchEnvelopes envelopes and
// MaxBatchBytes bytes.
type Batch struct {
	Namespace string // of every envelope; DefaultNamespace if empty
	Source    string // what the header says the entries were read from
	Submitter string // who hands the batch in: a key ID or an identity
	Envelopes []Envelope
	Cursors   []Cursor
}

// DefaultNamespace is where entries go when nobody says otherwise.
const DefaultNamespace = "default"

// Cursor moves how far a source has been read from From to To. An append whose
// From is not the stored cursor is refused as a whole, so that two readers of
// one source cannot both win. The empty string is the cursor of a source that
// was never read.
type Cursor struct {
	Source string `json:"source"`
	From   string `json:"from"`
	To     string `json:"to"`
}

// Receipt says where a batch went. Whoever holds it knows that everything in
// the batch is durable under the signed Checkpoint.
type Receipt struct {
	Entries    []Recorded `json:"entries"` // one for each envelope, in order
	Size       int64      `json:"size"`    // of the checkpoint
	Checkpoint []byte     `json:"checkpoint"`
}

// Recorded is the place of one envelope.
type Recorded struct {
	Index     int64    `json:"index"`
	LeafHash  [32]byte `json:"leafHash"`            // RFC 6962: SHA-256(0x00 ‖ commitment)
	Duplicate bool     `json:"duplicate,omitempty"` // the ledger had it already, at Index
}
