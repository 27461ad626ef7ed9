package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// mode32 is the bit of the processor state that says AArch32.
const mode32 = 1 << 4

// syscallCode is the instruction svc #0, little endian as all instructions are.
func syscallCode() (code []byte, align int) { return []byte{0x01, 0x00, 0x00, 0xd4}, 4 }

// callable refuses 32-bit code: the instruction means something else there.
//
// A thread that is stopped in a system call has its registers set for another try already: the kernel does that before
// it stops here, other than on amd64. So to put them back is all it takes. Only a sleep that was to take a certain time
// (nanosleep, a futex wait that is no bitset's) starts over with all of it; the kernel would have resumed it.
func callable(r *unix.PtraceRegs) error {
	if r.Pstate&mode32 != 0 {
		return os.NewSyscallError("inject", unix.ENOEXEC)
	}
	return nil
}

// setCall has the thread make a system call next.
func setCall(r *unix.PtraceRegs, insn uint64, nr uintptr, args []uintptr) {
	r.Pc, r.Regs[8] = insn, uint64(nr)
	for i, a := range args {
		r.Regs[i] = uint64(a)
	}
}

func result(r *unix.PtraceRegs) int64 { return int64(r.Regs[0]) }

func stackPointer(r *unix.PtraceRegs) uint64 { return r.Sp }
