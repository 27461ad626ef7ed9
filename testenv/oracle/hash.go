package oracle

import (
	"encoding/binary"
	"math/bits"
)

// golden is 2^64 divided by the golden ratio: odd, and its bits look random.
const golden = 0x9E3779B97F4A7C15

// mix hashes three words into one. Every bit of each changes the result.
func mix(a, b, c uint64) uint64 {
	h := bits.RotateLeft64(a*golden, 23) ^ b
	h = bits.RotateLeft64(h*0xBF58476D1CE4E5B9, 29) ^ c
	h = (h ^ h>>30) * 0xBF58476D1CE4E5B9
	h = (h ^ h>>27) * 0x94D049BB133111EB
	return h ^ h>>31
}

// sum64 is a checksum over b, whose length has to be a multiple of 8. It is
// four multiply-and-rotate lanes over 64-bit words and not a published hash:
// an emulated processor runs it about three times as fast as xxh3. Any change
// of one word changes the sum for certain; more changes do with all but 2^-64.
// It does not withstand somebody who wants a collision.
func sum64(b []byte) uint64 {
	a0, a1, a2, a3 := uint64(len(b)), uint64(1), uint64(2), uint64(3)
	for len(b) >= 32 {
		w := b[:32:32]
		a0 = bits.RotateLeft64((a0^binary.LittleEndian.Uint64(w[0:]))*golden, 29)
		a1 = bits.RotateLeft64((a1^binary.LittleEndian.Uint64(w[8:]))*golden, 29)
		a2 = bits.RotateLeft64((a2^binary.LittleEndian.Uint64(w[16:]))*golden, 29)
		a3 = bits.RotateLeft64((a3^binary.LittleEndian.Uint64(w[24:]))*golden, 29)
		b = b[32:]
	}
	for len(b) >= 8 {
		a0 = bits.RotateLeft64((a0^binary.LittleEndian.Uint64(b))*golden, 29)
		b = b[8:]
	}
	return mix(a0, a1, mix(a2, a3, golden))
}

// fill writes a pattern that depends on key in each of its words. The length
// has to be a multiple of 32.
func fill(b []byte, key uint64) {
	for len(b) >= 32 {
		w := b[:32:32]
		binary.LittleEndian.PutUint64(w[0:], key)
		binary.LittleEndian.PutUint64(w[8:], key+1)
		binary.LittleEndian.PutUint64(w[16:], key+2)
		binary.LittleEndian.PutUint64(w[24:], key+3)
		key += golden
		b = b[32:]
	}
}

// filled says whether b is what fill writes for key.
func filled(b []byte, key uint64) bool {
	var differ uint64
	for len(b) >= 32 {
		w := b[:32:32]
		differ |= binary.LittleEndian.Uint64(w[0:]) ^ key
		differ |= binary.LittleEndian.Uint64(w[8:]) ^ (key + 1)
		differ |= binary.LittleEndian.Uint64(w[16:]) ^ (key + 2)
		differ |= binary.LittleEndian.Uint64(w[24:]) ^ (key + 3)
		key += golden
		b = b[32:]
	}
	return differ == 0
}

// zero says whether all of b is zero. The length has to be a multiple of 32.
func zero(b []byte) bool {
	var any uint64
	for len(b) >= 32 {
		w := b[:32:32]
		any |= binary.LittleEndian.Uint64(w[0:]) | binary.LittleEndian.Uint64(w[8:]) |
			binary.LittleEndian.Uint64(w[16:]) | binary.LittleEndian.Uint64(w[24:])
		b = b[32:]
	}
	return any == 0
}
