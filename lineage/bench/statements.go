package bench

import (
	"strconv"

	"github.com/retrace-ledger/retrace/schema"
)

// Statements makes what is stated of so many synthetic models: for each of
// them six steps, then the name and version of what the last one made. They are
// those that Lineage asks about.
func Statements(models int) ([][]schema.Statement, error) {
	l, err := newLog(models)
	if err != nil {
		return nil, err
	}
	const steps = 6
	all := make([][]schema.Statement, models)
	for i, k := range l.models {
		for _, e := range l.entries[1+steps*i:][:steps] { // entry 0 is the genesis
			s, err := e.Envelope.Statement()
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], s)
		}
		s, err := schema.NewStatement(schema.ModelV1, schema.Model{Name: "model-" + strconv.Itoa(i), Version: "1"},
			schema.Descriptor{Name: "model.bin", Digest: schema.DigestSet{schema.SHA256: k.Hex()}})
		if err != nil {
			return nil, err
		}
		all[i] = append(all[i], s)
	}
	return all, nil
}
