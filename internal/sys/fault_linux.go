package sys

import (
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers and layouts of linux/userfaultfd.h. The structs hold 64-bit words only, so that they are the same on all
// architectures; tests check them against the header's own arithmetic.
const (
	uffdioAPI          = 0xc018aa3f // _IOWR(0xAA, 0x3F, struct uffdio_api)
	uffdioRegister     = 0xc020aa00 // _IOWR(0xAA, 0x00, struct uffdio_register)
	uffdioUnregister   = 0x8010aa01 // _IOR(0xAA, 0x01, struct uffdio_range)
	uffdioWake         = 0x8010aa02 // _IOR(0xAA, 0x02, struct uffdio_range)
	uffdioCopy         = 0xc028aa03 // _IOWR(0xAA, 0x03, struct uffdio_copy)
	uffdioZeropage     = 0xc020aa04 // _IOWR(0xAA, 0x04, struct uffdio_zeropage)
	uffdioWriteprotect = 0xc018aa06 // _IOWR(0xAA, 0x06, struct uffdio_writeprotect)
	uffdioContinue     = 0xc020aa07 // _IOWR(0xAA, 0x07, struct uffdio_continue)
	uffdioPoison       = 0xc020aa08 // _IOWR(0xAA, 0x08, struct uffdio_poison)

	uffdAPIVersion   = 0xaa // UFFD_API
	uffdUserModeOnly = 1    // UFFD_USER_MODE_ONLY, a flag of userfaultfd(2)

	modeDontWake = 1 << 0 // UFFDIO_{COPY,ZEROPAGE,CONTINUE,POISON}_MODE_DONTWAKE
	wpModeWP     = 1 << 0 // UFFDIO_WRITEPROTECT_MODE_WP
	wpDontWake   = 1 << 1 // UFFDIO_WRITEPROTECT_MODE_DONTWAKE
)

type (
	uffdAPIArg   struct{ api, features, ioctls uint64 }
	uffdRange    struct{ start, len uint64 }
	uffdRegister struct{ start, len, mode, ioctls uint64 }
	uffdCopyArg  struct {
		dst, src, len, mode uint64
		copied              int64
	}
	// uffdFillArg is uffdio_zeropage, uffdio_continue and uffdio_poison, which differ in the last word's name only.
	uffdFillArg struct {
		start, len, mode uint64
		done             int64
	}
	uffdProtectArg struct{ start, len, mode uint64 }
)

// UserFault owns one descriptor of a userfaultfd. It watches the memory of the process that created it, which need not
// be ours (InjectUserFault). All its methods may be called from many goroutines; Close waits for those that are under
// way, later ones fail with EBADF. Errors are *os.SyscallError and wrap the kernel's unix.Errno.
type UserFault struct {
	mu sync.RWMutex // held for reading while fd is used
	fd int          // -1 once closed
}

// NewUserFault opens a userfaultfd for our own memory, by the system call, or by /dev/userfaultfd where that is not
// permitted. One that is for user mode only sees no faults that the kernel takes on a process's behalf (read(2) into the
// memory, KVM), and needs no privilege.
func NewUserFault(userModeOnly bool) (*UserFault, error) {
	flags := userFaultFlags(userModeOnly)
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, flags, 0, 0)
	if errno == 0 {
		return UserFaultFromFD(int(fd)), nil
	}
	f, err := os.OpenFile(userfaultDevice, os.O_RDWR, 0)
	if err != nil {
		return nil, os.NewSyscallError("userfaultfd", errno)
	}
	defer func() { _ = f.Close() }() // the new descriptor does not need it
	fd, _, errno = unix.Syscall(unix.SYS_IOCTL, f.Fd(), userfaultNew, flags)
	if errno != 0 {
		return nil, os.NewSyscallError("USERFAULTFD_IOC_NEW", errno)
	}
	return UserFaultFromFD(int(fd)), nil
}

func userFaultFlags(userModeOnly bool) uintptr {
	if userModeOnly {
		return unix.O_CLOEXEC | unix.O_NONBLOCK | uffdUserModeOnly
	}
	return unix.O_CLOEXEC | unix.O_NONBLOCK
}

// UserFaultFromFD takes ownership of a descriptor that was got in another way: over a socket, or with an EventFork. It
// must be non-blocking; a blocking one cannot be polled.
func UserFaultFromFD(fd int) *UserFault { return &UserFault{fd: fd} }

// FD is the descriptor, for Wait; -1 once closed. Whoever waits for it has to be done before Close.
func (u *UserFault) FD() int {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.fd
}

// Close gives the descriptor back; again is fine. If it was the last one of this userfaultfd, in whatever process, its
// ranges are unregistered and the waiting threads go on, to find zeros or what the file holds. While the process that is
// watched holds one too, its faults keep waiting.
func (u *UserFault) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fd < 0 {
		return nil
	}
	err := unix.Close(u.fd)
	u.fd = -1
	return os.NewSyscallError("close userfaultfd", err)
}

// API opens the conversation; it has to come first and can come once. It gives what the kernel is able to do, which is
// more than what was asked for and got. EINVAL: some feature is not there, or it was called before; EPERM: EventFork
// without CAP_SYS_PTRACE.
func (u *UserFault) API(want Features) (got Features, err error) {
	arg := uffdAPIArg{api: uffdAPIVersion, features: uint64(want)}
	if err := u.ioctl("UFFDIO_API", uffdioAPI, unsafe.Pointer(&arg)); err != nil {
		return 0, err
	}
	return Features(arg.features), nil
}

// Register watches length bytes from start, both multiples of the page size of the mapping. EBUSY: another userfaultfd
// watches them; EINVAL: nothing mapped there, or no memory of a kind that can be watched in this mode; EPERM: the file
// behind a shared mapping is not writable; ESRCH: the process is gone.
func (u *UserFault) Register(start, length uint64, mode RegisterMode) (err error) {
	arg := uffdRegister{start: start, len: length, mode: uint64(mode)}
	return u.ioctl("UFFDIO_REGISTER", uffdioRegister, unsafe.Pointer(&arg))
}

// Unregister stops watching and wakes all threads that wait there.
func (u *UserFault) Unregister(start, length uint64) error {
	return u.onRange("UFFDIO_UNREGISTER", uffdioUnregister, start, length)
}

// Wake lets the threads that wait for pages of the range look again. Those whose page is still missing fault anew, and
// are reported anew: this is how a handler takes over from one that died with faults in hand.
func (u *UserFault) Wake(start, length uint64) error {
	return u.onRange("UFFDIO_WAKE", uffdioWake, start, length)
}

// WriteProtect sets or lifts the write-protection of a range registered with WriteProtect. Lifting it wakes the threads
// that wait to write, if wake is set. EAGAIN: the mapping is changing, read events first; ENOENT: not registered so.
func (u *UserFault) WriteProtect(start, length uint64, protect, wake bool) error {
	arg := uffdProtectArg{start: start, len: length}
	if protect {
		arg.mode = wpModeWP
	} else if !wake {
		arg.mode = wpDontWake
	}
	return u.ioctl("UFFDIO_WRITEPROTECT", uffdioWriteprotect, unsafe.Pointer(&arg))
}

func (u *UserFault) onRange(op string, request uintptr, start, length uint64) error {
	arg := uffdRange{start: start, len: length}
	return u.ioctl(op, request, unsafe.Pointer(&arg))
}

// ioctl makes the call; arg stays where it is, since the runtime moves no object that an argument of a system call
// points to.
func (u *UserFault) ioctl(op string, request uintptr, arg unsafe.Pointer) error {
	u.mu.RLock()
	defer u.mu.RUnlock()
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(u.fd), request, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return os.NewSyscallError(op, errno)
	}
}
