package storage

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Sync has what this host's cache holds of images written to their storage, all at once, and returns when it is. Whoever else has
// them open finds nothing left to write, and hears of an error as if nobody had asked before. With drop the cache also forgets
// what it holds of them: a QEMU does that to images that it takes possession of, and the guest waits for it.
func Sync(drop bool, paths ...string) error {
	errs := make([]error, len(paths))
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() { errs[i] = fail("write out", path, syncOne(path, drop)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func syncOne(path string, drop bool) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0) // it may be anything by now
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if mode := st.Mode(); !mode.IsRegular() && (mode&os.ModeDevice == 0 || mode&os.ModeCharDevice != 0) {
		return fmt.Errorf("it is no image: %v", mode.Type())
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var synced error
	err = raw.Control(func(fd uintptr) {
		if synced = unix.Fdatasync(int(fd)); synced == nil && drop {
			synced = unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED)
		}
	})
	return errors.Join(err, synced)
}
