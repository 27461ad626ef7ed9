package sys

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of linux/fs.h, kernel 6.7 and later.
const (
	pagemapScan       = 0xc0606610 // PAGEMAP_SCAN = _IOWR('f', 16, struct pm_scan_arg)
	scanWPMatching    = 1 << 0     // PM_SCAN_WP_MATCHING
	scanCheckWPAsync  = 1 << 1     // PM_SCAN_CHECK_WPASYNC
	pagemapEntrySize  = 8
	clearSoftDirtyRef = "4" // what /proc/PID/clear_refs takes for it
)

// scanArg is struct pm_scan_arg.
type scanArg struct {
	size, flags, start, end, walkEnd        uint64
	vec, vecLen, maxPages                   uint64
	inverted, category, anyOf, returnedMask uint64
}

// Pagemap looks at, and write-protects, the pages of one process. It owns /proc/PID/pagemap; what it does goes to the
// address space that the process had when it was opened, so a process number that is used again does no harm.
type Pagemap struct {
	f   *os.File
	pid int
}

// OpenPagemap needs what ptrace needs: the same user, or CAP_SYS_PTRACE.
func OpenPagemap(pid int) (*Pagemap, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, err
	}
	return &Pagemap{f: f, pid: pid}, nil
}

// Close gives the file back.
func (p *Pagemap) Close() error { return p.f.Close() }

// Scan reports the pages from start to end, both multiples of the page size, that o describes, joined to regions, into
// out. It stops early when out is full or o.MaxPages is reached: then walkEnd, up to where it came, is less than end, and
// the rest is for another call. Addresses where nothing is mapped are passed over in silence.
//
// ESRCH: the process is gone (kernels before 6.18 may find no pages instead); ENOTTY: the kernel is older than 6.7; EPERM: with CheckWPAsync, part of the range is not tracked; EINVAL: a start that
// is not aligned, or an end before it.
func (p *Pagemap) Scan(start, end uint64, o ScanOptions, out []PageRegion) (n int, walkEnd uint64, err error) {
	arg := scanArg{size: uint64(unsafe.Sizeof(scanArg{})), start: start, end: end, vecLen: uint64(len(out)),
		maxPages: o.MaxPages, inverted: o.Inverted, category: o.Category, anyOf: o.AnyOf, returnedMask: o.Return}
	if o.WPMatching {
		arg.flags |= scanWPMatching
	}
	if o.CheckWPAsync {
		arg.flags |= scanCheckWPAsync
	}
	if len(out) > 0 {
		var pin runtime.Pinner
		pin.Pin(&out[0])
		defer pin.Unpin()
		arg.vec = uint64(uintptr(unsafe.Pointer(&out[0])))
	}
	got, err := p.ioctl(&arg)
	if err != nil {
		return 0, arg.walkEnd, err
	}
	if got < len(out) && (o.MaxPages == 0 || pagesIn(out[:got]) < o.MaxPages) {
		// Nothing stopped it. The kernel fetches the regions in portions, and where there was more than one it tells
		// the end of the last but one.
		arg.walkEnd = end
	}
	return got, arg.walkEnd, nil
}

// pagesIn counts as the kernel does for MaxPages.
func pagesIn(regions []PageRegion) (n uint64) {
	for _, r := range regions {
		n += (r.End - r.Start) / uint64(os.Getpagesize())
	}
	return n
}

func (p *Pagemap) ioctl(arg *scanArg) (n int, err error) {
	err = control(p.f, "PAGEMAP_SCAN", func(fd int) error {
		got, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pagemapScan, uintptr(unsafe.Pointer(arg)))
		if errno != 0 {
			return errno
		}
		n = int(got)
		return nil
	})
	return n, err
}

// SoftDirty tells for each page from start on whether it was written since the last ClearSoftDirty. out has one bool
// a page. On a kernel without soft-dirty bits all are false: ask ProbeSoftDirty before.
func (p *Pagemap) SoftDirty(start uint64, out []bool) error {
	const most = 4096
	page := uint64(os.Getpagesize())
	var entries [most]uint64
	for done := 0; done < len(out); {
		k := min(most, len(out)-done)
		b := unsafe.Slice((*byte)(unsafe.Pointer(&entries[0])), k*pagemapEntrySize)
		if _, err := p.f.ReadAt(b, int64((start/page+uint64(done))*pagemapEntrySize)); err != nil {
			return err
		}
		for i := range k {
			out[done+i] = entries[i]&softDirtyBit != 0
		}
		done += k
	}
	return nil
}

// ClearSoftDirty makes all pages of the process count as not written; each is write-protected once for it.
func (p *Pagemap) ClearSoftDirty() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.pid), []byte(clearSoftDirtyRef), 0)
}
