package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// The keys of the store. Numbers are big-endian, so that they sort.
//
//	b/ index(8)            a segment: the entries of one commit from index on
//	d/ hmac(32)            index(8) of the first entry with this identity
//	e/ index(8)            a full entry bundle (C2SP tlog-tiles)
//	k/ namespace 0 source  a sealed cursor
//	r                      in a mirror: the sealed checkpoint that it is being brought to
//	v                      the sealed indexes(8 each) of the rotations of keys, if there are any
//	s                      the sealed state: the newest checkpoint of the store
//	t/ level(1) index(8)   a full hash tile (C2SP tlog-tiles)
//	x/ index(8)            index(8) of the entry that erased this one's body
const (
	segmentPrefix = "b/"
	dedupPrefix   = "d/"
	bundlePrefix  = "e/"
	cursorPrefix  = "k/"
	targetKey     = "r"
	rotationsKey  = "v"
	stateKey      = "s"
	tilePrefix    = "t/"
	erasedPrefix  = "x/"
)

func segmentKey(first int64) []byte {
	return binary.BigEndian.AppendUint64([]byte(segmentPrefix), uint64(first))
}

// segmentFirst is the inverse of segmentKey.
func segmentFirst(key []byte) (int64, error) {
	if len(key) != len(segmentPrefix)+8 || string(key[:len(segmentPrefix)]) != segmentPrefix {
		return 0, damage("store", "a key %q among the segments", key)
	}
	return int64(binary.BigEndian.Uint64(key[len(segmentPrefix):])), nil
}

func bundleKey(index int64) []byte {
	return binary.BigEndian.AppendUint64([]byte(bundlePrefix), uint64(index))
}

func tileKey(level int, index int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{tilePrefix[0], tilePrefix[1], byte(level)}, uint64(index))
}

func cursorKey(namespace, source string) []byte {
	return []byte(cursorPrefix + namespace + "\x00" + source)
}

// seal frames a value whose content no hash of the tree covers, so that damage
// to it is seen: SHA-256(payload) ‖ payload.
func seal(payload []byte) []byte {
	sum := sha256.Sum256(payload)
	return append(sum[:], payload...)
}

// unseal is the inverse of seal. The result aliases sealed.
func unseal(sealed []byte) ([]byte, error) {
	if len(sealed) < sha256.Size {
		return nil, fmt.Errorf("%d bytes are too few", len(sealed))
	}
	payload := sealed[sha256.Size:]
	if sha256.Sum256(payload) != [sha256.Size]byte(sealed[:sha256.Size]) {
		return nil, fmt.Errorf("its SHA-256 is not the one stored with it")
	}
	return payload, nil
}
