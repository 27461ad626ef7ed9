package hostinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
)

// machineEtc is where a host sees the machine's /etc.
const machineEtc = "/run/machine-etc"

// setup makes the calling process's mount and UTS namespace the host's.
func setup(p layout.Plan, h layout.Host) error {
	if err := unix.Sethostname([]byte(h.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := writeEtc(p, h, "/etc"); err != nil {
		return err
	}
	if err := mountAll(p, h); err != nil {
		return err
	}
	return os.MkdirAll(layout.RAMDir, 0o700)
}

// writeEtc fills the host's /etc: its own files, and a link for each other name of
// the machine's.
func writeEtc(p layout.Plan, h layout.Host, machine string) error {
	entries, err := os.ReadDir(machine)
	if err != nil {
		return fmt.Errorf("list the machine's /etc: %w", err)
	}
	own := layout.EtcPrivate()
	for _, e := range entries {
		if slices.Contains(own, e.Name()) {
			continue
		}
		target := filepath.Join(machineEtc, e.Name())
		if e.Type()&fs.ModeSymlink != 0 {
			// A relative link means something else from another directory.
			if target, err = os.Readlink(filepath.Join(machine, e.Name())); err != nil {
				return fmt.Errorf("read link in the machine's /etc: %w", err)
			}
		}
		if err := os.Symlink(target, filepath.Join(h.Etc(), e.Name())); err != nil {
			return fmt.Errorf("link the machine's /etc: %w", err)
		}
	}
	return writeOwnEtc(p, h)
}

func writeOwnEtc(p layout.Plan, h layout.Host) error {
	var errs []error
	for path, content := range p.EtcFiles(h) {
		full := filepath.Join(h.Etc(), path)
		errs = append(errs, os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), 0o644))
	}
	for path, target := range layout.EtcLinks() {
		full := filepath.Join(h.Etc(), path)
		errs = append(errs, os.MkdirAll(filepath.Dir(full), 0o755), os.Symlink(target, full))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write the host's /etc: %w", err)
	}
	return nil
}

// mount is one thing to mount.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

// mountAll puts the host's directories in their places. /run comes first, since
// the machine's /etc is kept below it; /proc and /sys last, and of this namespace.
func mountAll(p layout.Plan, h layout.Host) error {
	steps := []mount{
		// Into the host's own directory first, since that is about to be hidden.
		{source: p.QEMUCache, target: capabilities(h), flags: unix.MS_BIND},
		{source: h.Run(), target: "/run", flags: unix.MS_BIND},
		{source: "/etc", target: machineEtc, flags: unix.MS_BIND},
		{source: h.Etc(), target: "/etc", flags: unix.MS_BIND},
	}
	if !p.Bare {
		steps = append(steps,
			mount{source: h.Lib(), target: "/var/lib/libvirt", flags: unix.MS_BIND},
			mount{source: h.Images(), target: layout.ImagesDir, flags: unix.MS_BIND},
			mount{source: h.Log(), target: "/var/log/libvirt", flags: unix.MS_BIND},
			mount{source: h.Cache(), target: "/var/cache/libvirt", flags: unix.MS_BIND | unix.MS_REC})
	}
	return mountEach(append(steps, ownFileSystems(p)...))
}

// ownFileSystems are those that begin empty, or show the host's namespaces.
func ownFileSystems(p layout.Plan) []mount {
	own := func(kind, target string, more uintptr, data string) mount {
		return mount{source: kind, target: target, kind: kind, flags: unix.MS_NOSUID | unix.MS_NODEV | more, data: data}
	}
	list := []mount{own("tmpfs", "/dev/shm", 0, "")}
	if !p.Bare {
		// As on any host: libvirt writes a guest's state here, synchronously, many times in the pause of a migration.
		list = append(list, own("tmpfs", "/run/libvirt/qemu", 0, "mode=755"))
	}
	if p.HugePages {
		list = append(list, own("hugetlbfs", layout.HugePagesDir, 0, "pagesize=2M"))
	}
	return append(list, own("proc", "/proc", unix.MS_NOEXEC, ""), own("sysfs", "/sys", unix.MS_NOEXEC, ""))
}

func mountEach(steps []mount) error {
	for _, s := range steps {
		err := unix.Mount(s.source, s.target, s.kind, s.flags, s.data)
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mount %s: %w; is libvirtd installed? (apt-get install libvirt-daemon-system)", s.target, err)
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", s.target, err)
		}
	}
	return nil
}

// capabilities is where libvirt keeps what it knows about QEMU.
func capabilities(h layout.Host) string { return filepath.Join(h.Cache(), "qemu", "capabilities") }

// Directories are those that must exist on the machine before a host starts.
func Directories(h layout.Host) []string {
	return []string{
		h.Etc(), h.PKI(), h.Images(), capabilities(h),
		filepath.Join(h.Run(), filepath.Base(machineEtc)),
		filepath.Join(h.Run(), "lock"), // /var/lock points here on Debian
		filepath.Join(h.Run(), "vmmigrate"),
		filepath.Join(h.Run(), "libvirt", "qemu"),
		filepath.Join(h.Run(), filepath.Base(layout.HugePagesDir)),
		filepath.Join(h.Lib(), "images"),
		filepath.Join(h.Log(), "qemu"),
	}
}
