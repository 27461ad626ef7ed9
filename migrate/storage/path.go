package storage

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

const (
	formatQcow2 = "qcow2"
	formatRaw   = "raw"
	maxPath     = 4095 // PATH_MAX without its end
)

// checkPath wants a path that means one file, the same one to us, to QEMU and to libvirt.
func checkPath(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return errors.New("the path does not start at the root")
	case len(path) > maxPath:
		return errors.New("the path is too long")
	case strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }):
		return errors.New("the path has characters that cannot be printed")
	case filepath.Clean(path) != path:
		return fmt.Errorf("the path has a shorter form: %s", filepath.Clean(path))
	case path == "/":
		return errors.New("the path names no file")
	}
	return nil
}

// CheckPath tells whether an image may have that path, on any host.
func CheckPath(path string) error { return checkPath(path) }

// checkFolder refuses folders of the kernel's. folder is free of links.
func checkFolder(folder string) error {
	for _, top := range []string{"/dev", "/proc", "/sys"} {
		below := folder == top || strings.HasPrefix(folder, top+"/")
		shm := folder == "/dev/shm" || strings.HasPrefix(folder, "/dev/shm/")
		if below && !shm {
			return fmt.Errorf("no image is made below %s, only block devices are used there: %w", top, ErrUnsupported)
		}
	}
	return nil
}

func checkFormat(format string) error {
	if format != formatQcow2 && format != formatRaw {
		return fmt.Errorf("format %q is not qcow2 or raw: %w", format, ErrUnsupported)
	}
	return nil
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// stagedName is what an image is called until it is placed: it tells whose it is.
func stagedName(migration, target string) string { return ".vmmigrate-" + migration + "-" + target }

var ourName = regexp.MustCompile(`^\.vmmigrate-[A-Za-z0-9][A-Za-z0-9_-]{0,128}$`)
