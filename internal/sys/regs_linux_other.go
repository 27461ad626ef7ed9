//go:build linux && !amd64 && !arm64

package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// Nothing is injected on this architecture: findSyscall fails first.

func syscallCode() (code []byte, align int) { return nil, 0 }

func callable(*unix.PtraceRegs) error { return os.NewSyscallError("inject", unix.ENOEXEC) }

func setCall(*unix.PtraceRegs, uint64, uintptr, []uintptr) {}

func result(*unix.PtraceRegs) int64 { return -int64(unix.ENOEXEC) }

func stackPointer(*unix.PtraceRegs) uint64 { return 0 }
