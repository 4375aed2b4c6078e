package ledger

// WithStep returns options that call step between the steps of each commit.
func WithStep(step func(string) error) *Options { return &Options{step: step} }

// WithFree returns options that ask free how much room the disk has.
func WithFree(free func(dir string) (uint64, error)) *Options { return &Options{free: free} }

// Steps are the steps of a commit that adds entries, in order, as a step
// function is told them: at the first three nothing or something was written,
// and nobody was answered at any of them.
var Steps = []string{StepAdmitted, StepCommit, StepCommitted, StepSigned}

// The steps of a commit.
const (
	StepAdmitted  = "admitted"  // nothing is written
	StepCommit    = "commit"    // the transaction comes next
	StepCommitted = "committed" // the checkpoint file comes next
	StepSigned    = "signed"    // everything is durable; the answers come next
)

// ParseSlot, FormatSlot, Records, Seal and Unseal are parsers to fuzz.
var (
	ParseSlot  = parseSlot
	FormatSlot = formatSlot
	Seal       = seal
	Unseal     = unseal
	ParseState = parseState
)

// SlotSize is the size of one slot of the checkpoint file.
const SlotSize = slotSize

// Records splits a segment into the bodies of its records.
func Records(seg []byte) (commitments [][32]byte, bodies [][]byte, err error) {
	for r, err := range segment(seg).records() {
		if err != nil {
			return nil, nil, err
		}
		commitments, bodies = append(commitments, r.commitment), append(bodies, r.body)
	}
	return commitments, bodies, nil
}

// AddRecord appends a record to a segment.
func AddRecord(seg, salt, header, envelope []byte) []byte {
	s, _ := segment(seg).add(salt, header, envelope)
	return s
}
