package qemuhost

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// The memory that the test guest writes to: one byte in each page of it is incremented, page after page, for ever.
const (
	guestFrom = 1 << 20
	guestTo   = 13 << 20
)

// bootSector is the program of the test guest. It prints A on the first serial port when it starts and B after every
// 8 passes over its memory. The words at 496 and 500 hold the end of that memory and a delay per page, in turns of an
// empty loop.
func bootSector(delay uint32) []byte {
	code := []byte{
		0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // cli; ds = es = ss = 0
		0xbc, 0x00, 0x7c, // sp = 0x7c00
		0xe4, 0x92, 0x0c, 0x02, 0xe6, 0x92, // open the A20 gate
		0x66, 0x0f, 0x01, 0x16, 0x88, 0x7c, // lgdt [0x7c88]
		0x0f, 0x20, 0xc0, 0x66, 0x83, 0xc8, 0x01, 0x0f, 0x22, 0xc0, // cr0 |= 1
		0x66, 0xea, 0x2a, 0x7c, 0x00, 0x00, 0x08, 0x00, // jump to 32 bits, next line
		0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // ds = es = ss = flat data
		0xbc, 0x00, 0x7c, 0x00, 0x00, // esp = 0x7c00
		0x66, 0xba, 0xf8, 0x03, 0xb0, 'A', 0xee, // print A
		0x31, 0xdb, // ebx = 0, the passes
		0xbf, 0x00, 0x00, 0x10, 0x00, // pass: edi = guestFrom
		0xfe, 0x07, // page: inc byte [edi]
		0x8b, 0x0d, 0xf4, 0x7d, 0x00, 0x00, // ecx = delay
		0x49, 0x75, 0xfd, // count down
		0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // edi += 4096
		0x3b, 0x3d, 0xf0, 0x7d, 0x00, 0x00, 0x72, 0xe7, // below the end: next page
		0x43, 0xf6, 0xc3, 0x07, 0x75, 0xdc, // count the pass; 7 of 8: next pass
		0xb0, 'B', 0xee, 0xeb, 0xd7, // print B; next pass
	}
	s := make([]byte, 512)
	copy(s, code)
	copy(s[0x70:], []byte{ // no segment, flat code, flat data; then the table's size and place
		0, 0, 0, 0, 0, 0, 0, 0,
		0xff, 0xff, 0, 0, 0, 0x9a, 0xcf, 0,
		0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0,
		23, 0, 0x70, 0x7c, 0, 0,
	})
	binary.LittleEndian.PutUint32(s[496:], guestTo)
	binary.LittleEndian.PutUint32(s[500:], delay)
	s[510], s[511] = 0x55, 0xaa
	return s
}

// bootImage writes a disk that boots the test guest.
func bootImage(t *testing.T, delay uint32) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "boot.img")
	b := make([]byte, 1<<20) // the firmware does not read smaller disks
	copy(b, bootSector(delay))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// torn counts the places where the values of the guest's pages break the order in which it writes them: there is one
// step from v to v-1, where the pass under way has got to, and no other edge. The memory is what bytes holds of it.
func torn(bytes []byte) (edges int, ok bool) {
	ok = true
	for i := 4096; i < len(bytes); i += 4096 {
		if d := bytes[i-4096] - bytes[i]; d != 0 {
			edges++
			ok = ok && d == 1
		}
	}
	return edges, ok && edges <= 1
}

func TestTornSeesAWrongPage(t *testing.T) {
	mem := make([]byte, 8*4096)
	for i := 0; i < len(mem); i += 4096 {
		mem[i] = 7
		if i >= 3*4096 {
			mem[i] = 6
		}
	}
	if n, ok := torn(mem); !ok || n != 1 {
		t.Errorf("a good memory: %d edges, ok %t", n, ok)
	}
	mem[5*4096] = 5
	if _, ok := torn(mem); ok {
		t.Error("a stale page went unseen")
	}
}
