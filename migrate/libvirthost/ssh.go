package libvirthost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// sshArgs builds the command line of the user's ssh. It never asks anything, because nobody may be there to answer.
func sshArgs(t target) []string {
	args := []string{"-T", "-e", "none", "-o", "BatchMode=yes"}
	if t.port != "" {
		args = append(args, "-p", t.port)
	}
	if t.user != "" {
		args = append(args, "-l", t.user)
	}
	if t.keyfile != "" {
		args = append(args, "-i", t.keyfile)
	}
	return append(args, "--", t.host, remoteCommand(t))
}

// remoteCommand is what connects ssh to the daemon over there: libvirt's own helper, which finds the socket by itself,
// or else netcat. Naming a socket or a netcat asks for netcat, as with libvirt.
func remoteCommand(t target) string {
	socket := t.socket
	if socket == "" {
		socket = "/run/libvirt/libvirt-sock"
		if t.path == "/session" {
			socket = "" // only the helper knows where it is
		}
	}
	nc := t.netcat
	if nc == "" {
		nc = "nc"
	}
	helper := "exec virt-ssh-helper " + quote(t.name)
	netcat := quote(nc) + " -U " + quote(socket)
	// Some netcats stay after the end of their input unless told not to; asked in vain for -q they say what it lacks.
	netcat = "if " + quote(nc) + " -q 2>&1 | grep -q 'requires an argument'; then exec " + quote(nc) + " -q0 -U " + quote(socket) +
		"; else exec " + netcat + "; fi"
	script := "if command -v virt-ssh-helper >/dev/null 2>&1; then " + helper + "; else " + netcat + "; fi"
	switch {
	case t.proxy == "native", socket == "":
		script = helper
	case t.proxy == "netcat", t.netcat != "", t.socket != "":
		script = netcat
	}
	return "sh -c " + quote(script)
}

// quote makes one word of s for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// sshConn is a running ssh as a connection. Close ends the process and waits for it.
type sshConn struct {
	in, out *os.File // our ends: read from out, write to in
	cmd     *exec.Cmd
	errs    *tail
	once    sync.Once
}

// dialSSH starts ssh. That it has reached the daemon shows only with the first answer.
func (e environment) dialSSH(ctx context.Context, t target) (net.Conn, error) {
	prog := t.command
	if prog == "" {
		prog = "ssh"
	}
	cmd := exec.Command(prog, sshArgs(t)...)
	c := &sshConn{cmd: cmd, errs: &tail{}}
	cmd.Stderr = c.errs
	cmd.WaitDelay = time.Second
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, migrate.Fail("run ssh", "", err, "")
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		theirIn.Close()
		in.Close()
		return nil, migrate.Fail("run ssh", "", err, "")
	}
	c.in, c.out, cmd.Stdin, cmd.Stdout = in, out, theirIn, theirOut
	err = cmd.Start()
	theirIn.Close()
	theirOut.Close()
	if err != nil {
		in.Close()
		out.Close()
		return nil, migrate.Fail("run "+prog, "", err, "install the OpenSSH client, or name another program with command=")
	}
	return c, nil
}

// explain gives ssh's own words for a connection that it ended.
func (c *sshConn) explain(err error, t target) error {
	c.Close() // joins, so that the last words are there
	said := strings.TrimSpace(c.errs.String())
	fix := "see that this works without a question: ssh " + t.host
	switch {
	case strings.Contains(said, "Host key verification failed"):
		fix = "connect once by hand to accept the host's key: ssh " + t.host
	case strings.Contains(said, "Permission denied"):
		fix = "put your key into " + t.host + "'s authorized_keys and into ssh-agent, or name it with keyfile="
	case strings.Contains(said, "not found"), strings.Contains(said, "No such file"):
		fix = "install libvirt-daemon (virt-ssh-helper) or netcat-openbsd on " + t.host
	}
	if said != "" {
		err = errors.New(said)
	}
	return migrate.Fail("reach libvirt through ssh to "+t.host, "", link(err), fix)
}

func (c *sshConn) Read(p []byte) (int, error)  { return c.out.Read(p) }
func (c *sshConn) Write(p []byte) (int, error) { return c.in.Write(p) }

// Close lets ssh end by itself for a moment, then kills it; it returns when the process is gone.
func (c *sshConn) Close() error {
	c.once.Do(func() {
		c.in.Close()
		kill := time.AfterFunc(time.Second, func() { c.cmd.Process.Kill() })
		c.cmd.Wait()
		kill.Stop()
		c.out.Close()
	})
	return nil
}

func (c *sshConn) LocalAddr() net.Addr  { return sshAddr{} }
func (c *sshConn) RemoteAddr() net.Addr { return sshAddr{} }

// SetDeadline bounds reads and writes.
func (c *sshConn) SetDeadline(t time.Time) error {
	return errors.Join(c.out.SetReadDeadline(t), c.in.SetWriteDeadline(t))
}
func (c *sshConn) SetReadDeadline(t time.Time) error  { return c.out.SetReadDeadline(t) }
func (c *sshConn) SetWriteDeadline(t time.Time) error { return c.in.SetWriteDeadline(t) }

type sshAddr struct{}

func (sshAddr) Network() string { return "ssh" }
func (sshAddr) String() string  { return "ssh" }

// tail keeps the end of what ssh says, a few lines at most.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const keep = 4096
	t.b.Write(p)
	if over := t.b.Len() - keep; over > 0 {
		t.b.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprint(t.b.String())
}
