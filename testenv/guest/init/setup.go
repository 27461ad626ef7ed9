package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv/guest/param"
	"github.com/vmmigrate/vmmigrate/testenv/oracle"
)

// mountAll mounts what the guest reads from the kernel.
func mountAll() error {
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	return nil
}

// loadModules loads the modules in dir in the order of their names, and says
// in a word for each how that went. A module that fails shows where it is
// missed: in the network or the disk.
func loadModules(dir string) string {
	files, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil || len(files) == 0 {
		return "none"
	}
	words := make([]string, len(files))
	for i, file := range files {
		words[i] = strings.TrimSuffix(filepath.Base(file), ".ko")
		if err := loadModule(file); err != nil {
			words[i] += "(" + err.Error() + ")"
		}
	}
	return strings.Join(words, ",")
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// spareMemory is what the guest needs beside the region and its ledger, in bytes.
const spareMemory = 24 << 20

// enoughMemory refuses a region that would have the kernel kill the guest's
// only program.
func enoughMemory(region int64) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	free := int64(info.Freeram) * int64(info.Unit)
	if need := region + region/64 + spareMemory; need > free {
		return fmt.Errorf("memory: a workload of %d MiB needs %d MiB free, and the guest has %d MiB: give it more, or make size= smaller",
			region>>20, need>>20, free>>20)
	}
	return nil
}

// memory maps zeroed memory apart from Go's heap. It stays for as long as the
// guest.
func memory(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

// mustMemory is memory for the ledgers: small beside the region, which was
// mapped before. Without it there is no guest.
func mustMemory(n int) []byte {
	b, err := memory(n)
	if err != nil {
		say("error: %d bytes of memory: %v", n, err)
		select {} // the keeper cannot do without; the console says why
	}
	return b
}

// openDisks opens the guest's disks past its page cache, in the order of their names: those
// of which used says how far they were filled, or where it says nothing all that there are.
func openDisks(dir string, used []int64) ([]oracle.KeptDisk, error) {
	var disks []oracle.KeptDisk
	for i := range param.MaxDisks {
		name := fmt.Sprintf("vd%c", 'a'+i)
		size, f, err := openDisk(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) && i >= len(used) {
			break
		}
		if err != nil {
			return nil, err
		}
		k := oracle.KeptDisk{Name: name, Device: f, Size: size}
		if i < len(used) {
			k.Used = used[i]
		}
		if err := oracle.CheckFill(size, k.Used); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		disks = append(disks, k)
	}
	return disks, nil
}

// openDisk opens a disk and returns its size in bytes.
func openDisk(path string) (int64, *os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return 0, nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return 0, nil, err
	}
	return size, f, nil
}
