package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv/internal/daemon"
	"github.com/vmmigrate/vmmigrate/testenv/internal/hugepages"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/internal/owner"
)

// Down ends the lab and removes its directory.
func (l *Lab) Down(ctx context.Context) error {
	_, err := Down(ctx, l.Name(), filepath.Dir(l.Dir()))
	if err == nil {
		l.tie.cut()
	}
	return err
}

// Down ends the lab of that name and removes its directory, in whatever state they
// are; existed says whether there was anything. Empty name and dir mean the same as
// in Config. It may be repeated.
func Down(ctx context.Context, name, dir string) (existed bool, err error) {
	if name == "" {
		name = DefaultName
	}
	if err := layout.CheckName(name); err != nil {
		return false, err
	}
	path := filepath.Join(directory(dir), name)
	processes, err := owner.Find(layout.Plan{Name: name}.ProcessName(""), path)
	if err != nil {
		return false, fmt.Errorf("lab %s: %w", name, err)
	}
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) && len(processes) == 0 {
		return false, nil
	}
	// The daemon goes before the lock is asked for: whoever brings the lab up at
	// this moment holds it and gives up when its daemon ends.
	if err := end(ctx, name, path); err != nil {
		return true, fmt.Errorf("end lab %s: %w", name, err)
	}
	unlock, err := lock(ctx, path)
	if err != nil {
		return true, fmt.Errorf("end lab %s: %w", name, err)
	}
	defer unlock()
	if err := removeRemains(ctx, name, path, removeDir); err != nil {
		return true, fmt.Errorf("end lab %s: %w", name, err)
	}
	return true, nil
}

// end kills the lab's daemon, and so everything in the lab, and waits for it.
func end(ctx context.Context, name, path string) error {
	// By name as well as by the record: the record may be missing or damaged.
	list, err := owner.Find(layout.Plan{Name: name}.ProcessName(""), path)
	if err != nil {
		return err
	}
	if state, err := daemon.ReadState(layout.StateFile(path)); err == nil {
		list = append(list, state.Daemon)
	}
	var errs []error
	for _, id := range list {
		errs = append(errs, id.Kill(ctx))
	}
	return errors.Join(errs...)
}

// What removeRemains does with the lab's directory itself.
const (
	keepDir   = true
	removeDir = false
)

// removeRemains ends what runs and removes the files. The caller holds the lock.
func removeRemains(ctx context.Context, name, path string, keep bool) error {
	if err := end(ctx, name, path); err != nil {
		return err
	}
	if err := refuseMounts(path); err != nil {
		return err
	}
	// Before the record of them is removed.
	if err := hugepages.In(path).ReturnAll(); err != nil {
		return err
	}
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	if keep {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// The parent goes too if it is ours and this was the last lab; another Up may
	// have put something there meanwhile, and then it stays.
	if parent := filepath.Dir(path); parent == DefaultDir {
		_ = os.Remove(parent)
	}
	return nil
}

// refuseMounts makes sure that removing files below path cannot reach anything
// that is mounted there. The lab never mounts anything where the machine sees it.
func refuseMounts(path string) error {
	list, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for _, point := range mountPoints(string(list)) {
		if point == path || strings.HasPrefix(point, path+"/") {
			return fmt.Errorf("something is mounted at %s; unmount it first (umount %s)", point, point)
		}
	}
	return nil
}

// mountPoints reads the mount points from a mountinfo file.
func mountPoints(list string) []string {
	var points []string
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(list) {
		if fields := strings.Fields(line); len(fields) > 4 {
			points = append(points, unescape.Replace(fields[4]))
		}
	}
	return points
}

// lockPause is the time between two attempts to get a lock.
const lockPause = 50 * time.Millisecond

// lock makes sure that nobody else brings the lab in that directory up or down,
// until unlock is called or the process ends. It makes the directory.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	pause := time.NewTicker(lockPause)
	defer pause.Stop()
	for {
		dir, err := tryLock(path)
		if err == nil {
			return func() { dir.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another process is bringing it up or down: %w", context.Cause(ctx))
		case <-pause.C:
		}
	}
}

// tryLock locks the directory, or fails with EWOULDBLOCK.
func tryLock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	dir, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, unix.EWOULDBLOCK // removed at this very moment
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close()
		return nil, err
	}
	// The lock is of use only if the directory is still the one at that path.
	held, err1 := dir.Stat()
	there, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(held, there) {
		dir.Close()
		return nil, unix.EWOULDBLOCK
	}
	return dir, nil
}
