package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// userCode64 is the code segment of 64-bit processes, __USER_CS.
const userCode64 = 0x33

// syscallCode is the instruction syscall; it has no alignment.
func syscallCode() (code []byte, align int) { return []byte{0x0f, 0x05}, 1 }

// callable refuses 32-bit code: the instruction means something else there.
func callable(r *unix.PtraceRegs) error {
	if r.Cs != userCode64 {
		return os.NewSyscallError("inject", unix.ENOEXEC)
	}
	return nil
}

// setCall has the thread make a system call next. It is not in one: orig_rax says so.
func setCall(r *unix.PtraceRegs, insn uint64, nr uintptr, args []uintptr) {
	r.Rip, r.Rax, r.Orig_rax = insn, uint64(nr), ^uint64(0)
	to := []*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9}
	for i, a := range args {
		*to[i] = uint64(a)
	}
}

func result(r *unix.PtraceRegs) int64 { return int64(r.Rax) }

func stackPointer(r *unix.PtraceRegs) uint64 { return r.Rsp }
