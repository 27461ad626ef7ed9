package sys

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxCode bounds what is read of one mapping while looking for an instruction.
const maxCode = 4 << 20

// findSyscall gives the address of an instruction that makes a system call in the code of a process: in the vdso, which
// every process has unless told otherwise, or elsewhere.
func findSyscall(pid int) (uint64, error) {
	code, align := syscallCode()
	if len(code) == 0 {
		return 0, os.NewSyscallError("inject", unix.ENOEXEC)
	}
	maps, err := Maps(pid)
	if err != nil {
		return 0, err
	}
	maps = slices.DeleteFunc(maps, func(m Map) bool { return !strings.HasPrefix(m.Perms, "r-x") || m.Path == "[vsyscall]" })
	if i := slices.IndexFunc(maps, func(m Map) bool { return m.Path == "[vdso]" }); i > 0 {
		maps[0], maps[i] = maps[i], maps[0]
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return 0, err
	}
	defer func() { _ = mem.Close() }() // only read
	for _, m := range maps {
		text := make([]byte, min(m.End-m.Start, maxCode))
		n, err := mem.ReadAt(text, int64(m.Start))
		if err != nil && err != io.EOF && n == 0 {
			continue // unmapped meanwhile
		}
		if i := indexAligned(text[:n], code, align); i >= 0 {
			return m.Start + uint64(i), nil
		}
	}
	return 0, fmt.Errorf("process %d has no code that makes system calls: %w", pid, unix.ENOEXEC)
}

// indexAligned finds the first place of code in text that is a multiple of align; -1 if there is none.
func indexAligned(text, code []byte, align int) int {
	for from := 0; ; {
		i := bytes.Index(text[from:], code)
		if i < 0 {
			return -1
		}
		if (from+i)%align == 0 {
			return from + i
		}
		from += i + 1
	}
}
