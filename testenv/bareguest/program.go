package bareguest

import (
	"encoding/binary"
	"fmt"
)

// The image fills the last 64 KiB below 4 GiB.
const (
	imageSize = 64 << 10
	imageBase = 1<<32 - imageSize

	codeAt   = 0xf000 // the program, 32 bits
	statusAt = 0xfe00 // the status page's first contents
	gdtAt    = 0xff00 // three descriptors, then the table's length and address
	entryAt  = 0xff80 // where the reset vector leads, 16 bits
	resetAt  = 0xfff0 // where the processor begins
)

// StatusAddress is where the status page is, in bytes from the beginning of RAM.
const StatusAddress = 0x8000

// Words of the status page, in bytes from its beginning. The guest reads all
// but the last four each time it needs them, so that a test may change them
// while it is paused.
const (
	wordMagic    = 0  // 8 bytes
	wordStart    = 8  // 4
	wordEnd      = 12 // 4
	wordBatch    = 16 // 4: pages between two looks at the timer
	wordInterval = 20 // 4: how far the timer counts meanwhile
	wordMask     = 24 // 4: no report while a bit of this is set in the pass
	wordCursor   = 32 // 4: the page being written; 0 before the first
	wordPass     = 40 // 8: passes completed
	wordTSC      = 48 // 8: time stamp at the end of the last pass
	statusSize   = 64
)

var statusMagic = [8]byte{'V', 'M', 'B', 'A', 'R', 'E', '0', '1'}

// Image assembles the guest for c: 64 KiB for QEMU's -bios.
func Image(c Config) ([]byte, error) {
	c, err := c.filled()
	if err != nil {
		return nil, err
	}
	code, err := program()
	if err != nil {
		return nil, err
	}
	if len(code) > statusAt-codeAt {
		return nil, fmt.Errorf("bare guest: a program of %d bytes", len(code))
	}
	image := make([]byte, imageSize)
	copy(image[codeAt:], code)
	copy(image[statusAt:], status(c))
	copy(image[gdtAt:], descriptors())
	copy(image[entryAt:], entry())
	copy(image[resetAt:], []byte{
		0xe9, byte((entryAt - resetAt - 3) & 0xff), 0xff, // jmp entry
	})
	return image, nil
}

// status is what the status page holds at first.
func status(c Config) []byte {
	b := make([]byte, statusSize)
	batch, interval := c.pace()
	copy(b, statusMagic[:])
	binary.LittleEndian.PutUint32(b[wordStart:], c.Start)
	binary.LittleEndian.PutUint32(b[wordEnd:], c.End)
	binary.LittleEndian.PutUint32(b[wordBatch:], batch)
	binary.LittleEndian.PutUint32(b[wordInterval:], interval)
	binary.LittleEndian.PutUint32(b[wordMask:], c.Report-1)
	return b
}

// gdtrAt is where the length and the address of the descriptors are.
const gdtrAt = gdtAt + 24

// descriptors are a flat code and a flat data segment, and where they are.
func descriptors() []byte {
	b := binary.LittleEndian.AppendUint64(nil, 0)
	b = binary.LittleEndian.AppendUint64(b, 0x00cf9b000000ffff) // 0x08: code, 32 bits, 0 to 4 GiB
	b = binary.LittleEndian.AppendUint64(b, 0x00cf93000000ffff) // 0x10: data, the same
	b = binary.LittleEndian.AppendUint16(b, 3*8-1)
	return binary.LittleEndian.AppendUint32(b, imageBase+gdtAt)
}

// entry takes the processor from its reset into 32 bits. It runs in real mode
// with a code segment that begins at the image.
func entry() []byte {
	var a assembler
	a.op("cli", 0xfa)
	a.op("in al, 0x92", 0xe4, 0x92) // address line 20 on
	a.op("or al, 2", 0x0c, 0x02)
	a.op("and al, 0xfe", 0x24, 0xfe) // bit 0 would reset the machine
	a.op("out 0x92, al", 0xe6, 0x92)
	a.op("o32 lgdt [cs:gdtr]", 0x2e, 0x66, 0x0f, 0x01, 0x16, gdtrAt&0xff, gdtrAt>>8)
	a.op32("mov eax, 0x11", 0x11, 0x66, 0xb8) // protection on, caches on
	a.op("mov cr0, eax", 0x0f, 0x22, 0xc0)
	a.op32("jmp 0x08:program", imageBase+codeAt, 0x66, 0xea)
	a.op("", 0x08, 0x00)
	return a.code
}

// at is the address of a word of the status page.
func at(word uint32) uint32 { return StatusAddress + word }

// program is the guest. It uses no stack. While it runs:
//
//	edi  the page        ebx  pages left in the batch      ebp  timer at the last batch
func program() ([]byte, error) {
	var a assembler
	setUp(&a)
	a.label("pass")
	a.op32("mov edi, [start]", at(wordStart), 0x8b, 0x3d)
	a.label("page")
	a.op32("mov [cursor], edi", at(wordCursor), 0x89, 0x3d)
	a.op("inc dword [edi]", 0xff, 0x07)
	a.op32("inc dword [edi+4092]", PageSize-4, 0xff, 0x87)
	a.op("dec ebx", 0x4b)
	a.jump("jnz next", "next", 0x0f, 0x85)
	wait(&a)
	a.op32("mov ebx, [batch]", at(wordBatch), 0x8b, 0x1d)
	a.label("next")
	a.op32("add edi, 4096", PageSize, 0x81, 0xc7)
	a.op32("cmp edi, [end]", at(wordEnd), 0x3b, 0x3d)
	a.jump("jb page", "page", 0x0f, 0x82)
	endPass(&a)
	return a.bytes()
}

// setUp makes the status page, starts the timer and says hello.
func setUp(a *assembler) {
	a.op("mov ax, 0x10", 0x66, 0xb8, 0x10, 0x00)
	a.op("mov ds, ax", 0x8e, 0xd8)
	a.op("mov es, ax", 0x8e, 0xc0)
	a.op("mov ss, ax", 0x8e, 0xd0)
	a.op32("mov esi, status", imageBase+statusAt, 0xbe)
	a.op32("mov edi, 0x8000", StatusAddress, 0xbf)
	a.op32("mov ecx, 16", statusSize/4, 0xb9)
	a.op("cld", 0xfc)
	a.op("rep movsd", 0xf3, 0xa5)
	a.op("mov al, 0x34", 0xb0, 0x34) // timer 0 counts down from 65536, again and again
	a.op("out 0x43, al", 0xe6, 0x43)
	a.op("xor eax, eax", 0x31, 0xc0)
	a.op("out 0x40, al", 0xe6, 0x40)
	a.op("out 0x40, al", 0xe6, 0x40)
	a.op("xor ebp, ebp", 0x31, 0xed)
	a.op32("mov ebx, [batch]", at(wordBatch), 0x8b, 0x1d)
	say(a, 'A')
}

// say writes a letter on the first serial port.
func say(a *assembler, letter byte) {
	a.op("mov dx, 0x3f8", 0x66, 0xba, 0xf8, 0x03)
	a.op("mov al, letter", 0xb0, letter)
	a.op("out dx, al", 0xee)
}

// wait waits until the timer has counted an interval since the last batch.
func wait(a *assembler) {
	a.op32("mov ecx, [interval]", at(wordInterval), 0x8b, 0x0d)
	a.op("test ecx, ecx", 0x85, 0xc9)
	a.jump("jz go", "go", 0x0f, 0x84)
	a.label("poll")
	a.op("pause", 0xf3, 0x90)
	a.op("xor al, al", 0x30, 0xc0) // hold the count of timer 0
	a.op("out 0x43, al", 0xe6, 0x43)
	a.op("in al, 0x40", 0xe4, 0x40)
	a.op("mov dl, al", 0x88, 0xc2)
	a.op("in al, 0x40", 0xe4, 0x40)
	a.op("mov dh, al", 0x88, 0xc6)
	a.op("mov eax, ebp", 0x89, 0xe8)
	a.op("sub eax, edx", 0x29, 0xd0) // it counts down
	a.op("movzx eax, ax", 0x0f, 0xb7, 0xc0)
	a.op("cmp eax, ecx", 0x39, 0xc8)
	a.jump("jb poll", "poll", 0x0f, 0x82)
	a.op("sub ebp, ecx", 0x29, 0xcd)
	a.label("go")
}

// endPass counts the pass, stamps it and reports now and then.
func endPass(a *assembler) {
	a.op32("add dword [pass], 1", at(wordPass), 0x83, 0x05)
	a.op("", 0x01)
	a.op32("adc dword [pass+4], 0", at(wordPass+4), 0x83, 0x15)
	a.op("", 0x00)
	a.op("rdtsc", 0x0f, 0x31)
	a.op32("mov [tsc], eax", at(wordTSC), 0xa3)
	a.op32("mov [tsc+4], edx", at(wordTSC+4), 0x89, 0x15)
	a.op32("mov eax, [pass]", at(wordPass), 0xa1)
	a.op32("test [mask], eax", at(wordMask), 0x85, 0x05)
	a.jump("jnz pass", "pass", 0x0f, 0x85)
	say(a, 'B')
	a.jump("jmp pass", "pass", 0xe9)
}
