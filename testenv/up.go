package testenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv/guest"
	"github.com/vmmigrate/vmmigrate/testenv/internal/daemon"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/internal/logtail"
	"github.com/vmmigrate/vmmigrate/testenv/internal/owner"
)

// Up brings a lab up and returns when each of its hosts answers. Remains of an
// earlier lab of that name are removed first; if it is still up, the error wraps
// ErrUp. When Up fails or ctx ends, nothing is left. It needs root.
func Up(ctx context.Context, c Config) (*Lab, error) {
	plan, err := c.plan()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab needs root, for namespaces and libvirtd (try sudo)")
	}
	if os.Getenv(daemon.RoleEnv) != "" {
		return nil, errNoInit // or every helper would bring up a lab of its own
	}
	unlock, err := lock(ctx, plan.Dir)
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", plan.Name, err)
	}
	defer unlock()
	if state, err := daemon.ReadState(plan.StateFile()); err == nil && state.Daemon.Alive() {
		return nil, fmt.Errorf("lab %s: %w (lab down ends it)", plan.Name, ErrUp)
	}
	if err := removeRemains(ctx, plan.Name, plan.Dir, keepDir); err != nil {
		return nil, fmt.Errorf("lab %s: remove the remains of the last one: %w", plan.Name, err)
	}
	lab := &Lab{}
	if plan.QEMUCache, err = qemuCache(plan); err == nil {
		lab, err = start(ctx, plan, c)
	}
	if err != nil {
		// The caller's context may have ended, and the lab has to go all the same.
		err = fmt.Errorf("bring lab %s up: %w", plan.Name, err)
		return nil, errors.Join(err, removeRemains(context.WithoutCancel(ctx), plan.Name, plan.Dir, removeDir))
	}
	return lab, nil
}

// qemuCache finds a place for what libvirt learns about QEMU, which takes it
// seconds: beside the guests' kernel if that can be written, so that the next lab
// need not learn it again, and otherwise in the lab.
func qemuCache(plan layout.Plan) (string, error) {
	if assets, err := guest.Find(); err == nil {
		dir := filepath.Join(assets.Dir, "libvirt-capabilities")
		if os.MkdirAll(dir, 0o755) == nil && unix.Access(dir, unix.W_OK) == nil {
			return dir, nil
		}
	}
	dir := filepath.Join(plan.Dir, "libvirt-capabilities")
	return dir, os.MkdirAll(dir, 0o755)
}

// start starts the daemon and follows its reports to the last one.
func start(ctx context.Context, plan layout.Plan, c Config) (*Lab, error) {
	conn, pid, err := spawn(plan)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	state, err := follow(conn, plan, c)
	if err != nil {
		conn.Close() // ends the daemon, if it has not ended yet
		if id, idErr := owner.Of(pid); idErr == nil {
			err = errors.Join(err, id.Kill(context.WithoutCancel(ctx)))
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	lab := &Lab{state: state}
	if c.Bound {
		if lab.tie, err = keepOpen(conn); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return lab, conn.Close()
}

// keepOpen keeps the connection open for the rest of the process's life: the kernel
// closes it when the process ends, and with that the lab.
func keepOpen(conn net.Conn) (*tie, error) {
	file, err := conn.(*net.UnixConn).File()
	if err != nil {
		return nil, fmt.Errorf("tie the lab to this process: %w", err)
	}
	defer file.Close()
	// Not a File and not a Conn, so that no finalizer closes it.
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("tie the lab to this process: %w", err)
	}
	return &tie{fd: fd}, nil
}

// spawn starts the daemon in a PID namespace of its own, whose network namespace
// is the client's.
func spawn(plan layout.Plan) (net.Conn, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("start the daemon: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "daemon"), os.NewFile(uintptr(fds[1]), "starter")
	defer far.Close()
	conn, err := net.FileConn(near)
	near.Close()
	if err != nil {
		return nil, 0, fmt.Errorf("start the daemon: %w", err)
	}
	log, err := os.OpenFile(plan.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		conn.Close()
		return nil, 0, fmt.Errorf("start the daemon: %w", err)
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{plan.ProcessName(""), plan.Dir}
	cmd.Env = daemon.HelperEnv(daemon.RoleDaemon)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{far}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNET, Setsid: true}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, 0, fmt.Errorf("start the daemon: %w", err)
	}
	pid := cmd.Process.Pid
	return conn, pid, cmd.Process.Release()
}

// errNoInit is what a daemon that never speaks most likely means.
var errNoInit = errors.New("the daemon ended without a word; does the program call testenv.Init first thing in main?")

// follow sends what to build and reads reports until the last one.
func follow(conn net.Conn, plan layout.Plan, c Config) (daemon.State, error) {
	if err := json.NewEncoder(conn).Encode(daemon.Start{Plan: plan, Bound: c.Bound}); err != nil {
		return daemon.State{}, errNoInit
	}
	in := json.NewDecoder(conn)
	for {
		var r daemon.Report
		if err := in.Decode(&r); err != nil {
			if said := logtail.Read(plan.LogFile()); said != "" {
				return daemon.State{}, fmt.Errorf("the daemon ended: %s", said)
			}
			return daemon.State{}, errNoInit
		}
		switch {
		case r.Error != "":
			return daemon.State{}, errors.New(r.Error)
		case r.Ready != nil:
			return *r.Ready, nil
		case c.Progress != nil:
			c.Progress(r.Progress)
		}
	}
}
