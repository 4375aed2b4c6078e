package ledger_test

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/retrace-ledger/retrace/ledger"
)

func FuzzSlot(f *testing.F) {
	slot, err := ledger.FormatSlot([]byte("example.com/log\n1\nAAAA\n\n— example.com/log AAAA\n"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(slot)
	f.Add(make([]byte, ledger.SlotSize))
	f.Add(slot[:100])
	f.Fuzz(func(t *testing.T, slot []byte) {
		signed, err := ledger.ParseSlot(slot)
		if err != nil {
			return
		}
		again, err := ledger.FormatSlot(signed)
		if err != nil || !bytes.Equal(again, slot) {
			t.Errorf("a slot is read and comes back as another (%v)", err)
		}
	})
}

func FuzzSegment(f *testing.F) {
	seg := ledger.AddRecord(nil, make([]byte, 32), []byte("\x00\x00\x00\x02{}"), []byte("envelope"))
	f.Add(seg)
	f.Add(ledger.AddRecord(seg, make([]byte, 32), []byte("\x00\x00\x00\x02{}"), []byte("another")))
	f.Add(append(bytes.Clone(seg), make([]byte, 36)...)) // an erased body
	f.Add(seg[:len(seg)-1])
	f.Fuzz(func(t *testing.T, seg []byte) {
		_, bodies, err := ledger.Records(seg)
		if err != nil {
			return
		}
		length := 0
		for i := range bodies {
			length += sha256.Size + 4 + len(bodies[i]) // commitment, length, body
		}
		if length != len(seg) {
			t.Errorf("%d bytes of %d are accounted for", length, len(seg))
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add(ledger.Seal([]byte("12345678note")))
	f.Add(ledger.Seal(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if payload, err := ledger.Unseal(sealed); err == nil && !bytes.Equal(ledger.Seal(payload), sealed) {
			t.Error("a sealed value is read and comes back as another")
		}
		ledger.ParseState(sealed)
	})
}
