package bareguest

import (
	"encoding/binary"
	"fmt"
)

// assembler gathers machine code. Jumps name labels, which may follow later.
type assembler struct {
	code   []byte
	labels map[string]int
	jumps  []jump
}

// jump is a distance of four bytes to be filled in.
type jump struct {
	at int // where the distance is; it counts from the byte behind it
	to string
}

// op adds one instruction; what is the assembly that the bytes stand for.
func (a *assembler) op(what string, b ...byte) { a.code = append(a.code, b...); _ = what }

// op32 adds one that ends in a 32-bit number.
func (a *assembler) op32(what string, n uint32, b ...byte) {
	a.op(what, binary.LittleEndian.AppendUint32(b, n)...)
}

// label names the place reached.
func (a *assembler) label(name string) {
	if a.labels == nil {
		a.labels = make(map[string]int)
	}
	a.labels[name] = len(a.code)
}

// jump adds a jump to a label: an opcode and the distance.
func (a *assembler) jump(what, to string, opcode ...byte) {
	a.op32(what, 0, opcode...)
	a.jumps = append(a.jumps, jump{len(a.code) - 4, to})
}

// bytes fills the jumps in and returns the code.
func (a *assembler) bytes() ([]byte, error) {
	for _, j := range a.jumps {
		to, ok := a.labels[j.to]
		if !ok {
			return nil, fmt.Errorf("bare guest: jump to %q, which is nowhere", j.to)
		}
		binary.LittleEndian.PutUint32(a.code[j.at:], uint32(int32(to-j.at-4)))
	}
	return a.code, nil
}
