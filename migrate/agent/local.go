package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// local starts an agent as a child, in the namespaces of a process of the host; pid 0 is our own.
func (c Connector) local(ctx context.Context, pid int) (*Client, error) {
	const op = "start an agent on this machine"
	argv, extra, err := c.localCommand(pid)
	if err != nil {
		return nil, migrate.Fail(op, "", err, "")
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	if extra != nil {
		defer extra.Close()
		cmd.ExtraFiles = []*os.File{extra}
	}
	conn, p, err := start(cmd, c.Log)
	if err != nil {
		fix := ""
		if errors.Is(err, exec.ErrNotFound) {
			fix = "install nsenter (apt install util-linux)"
		}
		return nil, migrate.Fail(op, "", err, fix)
	}
	client, err := NewClient(ctx, conn, c.Version)
	if err != nil {
		p.finish()
		if errors.Is(err, ErrVersion) || ctx.Err() != nil {
			return nil, err
		}
		return nil, &migrate.OpError{Op: op, Err: p.explain(err), Fix: migrate.FixOf(err)}
	}
	client.end = p.leave
	return client, nil
}

// localCommand is the command line. extra, if any, is to be the child's descriptor 3, and closed afterwards.
func (c Connector) localCommand(pid int) (argv []string, extra *os.File, err error) {
	flags, err := apart(pid)
	if err != nil {
		return nil, nil, err
	}
	root := "/"
	if len(flags) > 0 {
		root = fmt.Sprintf("/proc/%d/root", pid)
		argv = append([]string{"nsenter", "-t", strconv.Itoa(pid)}, append(flags, "--")...)
	}
	path, extra, err := c.executable(root)
	return append(append(argv, path), c.Args...), extra, err
}

// executable is the program's path, if it leads to it as seen from root; else a descriptor of it, to be passed on.
func (c Connector) executable(root string) (path string, extra *os.File, err error) {
	open := c.Executable
	path = c.Executable
	if path == "" {
		open = "/proc/self/exe" // also when the file was removed or replaced since
		if path, err = os.Executable(); err != nil {
			return "", nil, err
		}
	}
	f, err := os.Open(open)
	if err != nil {
		return "", nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close() // nothing was asked of it
		return "", nil, fmt.Errorf("look at %s: %w", open, err)
	}
	here := sys.FileInfo{Device: uint64(st.Dev), Inode: st.Ino} //nolint:unconvert // the type differs between machines
	if there, err := sys.StatInRoot(root, path); err == nil && there.Same(here) {
		return path, nil, f.Close()
	}
	return "/proc/self/fd/3", f, nil
}

// apart gives nsenter's options for the namespaces in which a process is and we are not.
func apart(pid int) ([]string, error) {
	if pid == 0 {
		return nil, nil
	}
	var flags []string
	for _, ns := range []struct{ name, flag string }{{"mnt", "-m"}, {"net", "-n"}, {"pid", "-p"}, {"ipc", "-i"}, {"uts", "-u"}} {
		ours, err := os.Readlink("/proc/self/ns/" + ns.name)
		if err != nil {
			return nil, err
		}
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns.name))
		if err != nil {
			return nil, fmt.Errorf("look at the host's namespaces: %w", err)
		}
		if ours != theirs {
			flags = append(flags, ns.flag)
		}
	}
	return flags, nil
}
