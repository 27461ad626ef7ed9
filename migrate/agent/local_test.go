package agent_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// limit bounds the connecting in a test with processes.
const limit = time.Minute

// reach connects and asks the agent who it is; the agent is closed with the test.
func reach(t *testing.T, c agent.Connector, at migrate.Place) (agent.Agent, agent.Identity, about) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	t.Setenv("GORACE", "atexit_sleep_ms=0") // a program with the race detector waits for a second when it ends
	c.Version = testVersion
	a, err := c.Connect(ctx, at)
	if err != nil {
		t.Fatalf("%v; fix: %s", err, migrate.FixOf(err))
	}
	t.Cleanup(func() { _ = a.Close() })
	id, err := a.Hello(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var me about
	if err := json.Unmarshal(id.Certificate, &me); err != nil {
		t.Fatal(err)
	}
	return a, id, me
}

// gone waits until a process has ended; it need not be our child.
func gone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 || err != nil {
			t.Fatalf("process %d is still there: %v", pid, err)
		}
		return
	}
}

// A child on this machine: it is the same program, in a session of its own, and ends with the connection.
func TestT2LocalAgent(t *testing.T) {
	need.Netns(t)
	for name, pid := range map[string]int{"no process": 0, "our own namespaces": os.Getpid()} {
		t.Run(name, func(t *testing.T) {
			a, id, me := reach(t, agent.Connector{}, migrate.Place{Local: true, PID: pid})
			exe, _ := os.Executable()
			ours, _, err := sessionOf(os.Getpid())
			if err != nil || me.Exe != exe || me.Session != id.PID || me.Session == ours {
				t.Errorf("%+v in process %d, session %d; we are %s in session %d, %v", me, id.PID, me.Session, exe, ours, err)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
			gone(t, id.PID)
		})
	}
}

// host is a process in namespaces of its own, with an empty folder where this test's program is if hidden.
func startHost(t *testing.T, hide string) int {
	t.Helper()
	script := `set -e; mount --make-rprivate /; mount -t proc proc /proc; hostname the-host; ip link set lo up
if [ -n "$1" ]; then mount -t tmpfs none "$1"; fi; echo ready; exec cat`
	cmd := exec.Command("sh", "-c", script, "sh", hide)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	cmd.Stderr = os.Stderr
	end, err := cmd.StdinPipe() // closed with us, whatever ends us
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = end.Close(); _ = cmd.Wait() }) // what it said last is no news
	if l, err := bufio.NewReader(out).ReadString('\n'); err != nil || l != "ready\n" {
		t.Fatalf("the host did not start: %q, %v", l, err)
	}
	return cmd.Process.Pid
}

// In another set of namespaces, also where the program's own path does not exist.
func TestT2AgentInNamespaces(t *testing.T) {
	need.Netns(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, hide := range map[string]string{"path is there": "", "path is hidden": filepath.Dir(exe)} {
		t.Run(name, func(t *testing.T) {
			pid := startHost(t, hide)
			a, id, me := reach(t, agent.Connector{}, migrate.Place{Local: true, PID: pid})
			want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
			if err != nil || me.Net != want || id.Host != "the-host" || id.PID > 100 {
				t.Errorf("agent %d of host %s in %s, want %s, %v", id.PID, id.Host, me.Net, want, err)
			}
			if (me.Args[0] == exe) != (hide == "") {
				t.Errorf("it was started as %s, we are %s", me.Args[0], exe)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestT2ConformanceOverStdio(t *testing.T) {
	need.Netns(t)
	a, _, _ := reach(t, agent.Connector{}, migrate.Place{Local: true})
	s, err := a.OpenSource(t.Context(), agent.SourceSpec{Regions: bigRegions()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stats(t.Context()); err != nil {
		t.Error(err)
	}
	// The fake has no pages to give, and says so.
	if _, err := s.Harvest(t.Context()); err == nil {
		t.Error("a harvest of another guest is taken")
	}
}

// An agent whose guest is being paged in outlives its coordinator's interest, and its words go nowhere.
func TestT2AgentStays(t *testing.T) {
	need.Netns(t)
	fifo := filepath.Join(t.TempDir(), "leave")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(stayEnv, fifo)
	a, id, _ := reach(t, agent.Connector{}, migrate.Place{Local: true})
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if _, stat, err := sessionOf(id.PID); err != nil || strings.Contains(stat, ") Z ") {
		t.Errorf("the agent is gone: %s, %v", stat, err)
	}
	if err := os.WriteFile(fifo, []byte("go"), 0); err != nil {
		t.Fatal(err)
	}
	gone(t, id.PID)
}

// What cannot be an agent is told of with its last words.
func TestT2NoAgentStarts(t *testing.T) {
	need.Netns(t)
	for name, c := range map[string]struct {
		connector agent.Connector
		want      string
	}{
		"no program": {agent.Connector{Executable: "/no/such/program"}, "no such file"},
		"it fails":   {agent.Connector{Executable: "/bin/sh", Args: []string{"-c", "echo out of luck >&2; exit 3"}}, "out of luck"},
		"it is mute": {agent.Connector{Executable: "/bin/sh", Args: []string{"-c", "exit 3"}}, "exit status 3"},
		"no agent":   {agent.Connector{Executable: "/bin/sh", Args: []string{"-c", "echo hello; exec cat >/dev/null"}}, "no agent that answers"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if _, err := c.connector.Connect(ctx, migrate.Place{Local: true}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	if _, err := (agent.Connector{}).Connect(t.Context(), migrate.Place{Local: true, PID: 1 << 30}); err == nil {
		t.Error("an agent beside a process that is not there")
	}
}

// lab is an sshd with a folder, keys and a port of its own.
type lab struct {
	dir   string
	place migrate.Place
}

// startSSHD runs it until the test ends.
func startSSHD(t *testing.T) lab {
	t.Helper()
	need.Netns(t)
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		sshd = "/usr/sbin/sshd"
	}
	for _, prog := range []string{sshd, "ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(prog); err != nil {
			t.Skipf("needs %s; remedy: make install-test, or apt install openssh-server openssh-client", prog)
		}
	}
	dir := t.TempDir()
	for _, key := range []string{"host", "user"} {
		run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key))
	}
	run(t, "cp", filepath.Join(dir, "user.pub"), filepath.Join(dir, "authorized"))
	port := freePort(t)
	conf := fmt.Sprintf("ListenAddress 127.0.0.1:%d\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nStrictModes no\nUsePAM no\nPidFile none\n"+
		"PermitRootLogin yes\nPasswordAuthentication no\nSetEnv PATH=%s/bin:%s TMPDIR=%s/tmp GORACE=atexit_sleep_ms=0\n", port, dir, dir, dir, systemPath, dir)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600), os.Mkdir(filepath.Join(dir, "tmp"), 0o700), os.Mkdir(filepath.Join(dir, "bin"), 0o700),
		os.MkdirAll("/run/sshd", 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sshd, "-D", "-e", "-f", filepath.Join(dir, "conf"))
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan struct{})
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-said; _ = cmd.Wait() }) // that it was killed is no news
	ready := make(chan struct{})
	go func() {
		defer close(said)
		for sc := bufio.NewScanner(log); sc.Scan(); {
			if strings.Contains(sc.Text(), "Server listening") {
				close(ready)
			}
		}
	}()
	select {
	case <-ready:
	case <-said:
		t.Fatal("sshd did not start")
	}
	return lab{dir, migrate.Place{SSH: "127.0.0.1", SSHArgs: []string{"-F", "none", "-p", fmt.Sprint(port), "-i", filepath.Join(dir, "user"),
		"-o", "UserKnownHostsFile=" + filepath.Join(dir, "known"), "-o", "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR"}}}
}

// has puts a program into the PATH of those who log in, until the test ends; an empty script puts none there.
func (l lab) has(t *testing.T, name, script string) {
	t.Helper()
	if script == "" {
		return
	}
	file := filepath.Join(l.dir, "bin", name)
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(file) })
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// freePort is one that nobody listens on now; sshd cannot choose by itself.
func freePort(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return sa.(*unix.SockaddrInet4).Port
}

const systemPath = "/usr/sbin:/usr/bin:/sbin:/bin"

// left are the files in the host's temporary folder.
func (l lab) left(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(l.dir, "tmp", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// The host has our very version: that is run, and nothing is copied.
func TestT2SSHInstalled(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := startSSHD(t)
	l.has(t, "vmmigrate", "exec "+exe+` "$@"`)
	a, id, me := reach(t, agent.Connector{}, l.place)
	if slices.Contains(me.Args, agent.RemoveFlag) || me.Exe != exe {
		t.Errorf("it runs %v", me.Args)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	gone(t, id.PID)
}

// The host has none, or another version: ours is copied there, and is gone from its disk while it runs.
func TestT2SSHCopies(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := startSSHD(t)
	for name, script := range map[string]string{"none": "", "another version": versionEnv + "=v0.0.1 exec " + exe + ` "$@"`,
		"one without agent": "echo unknown command >&2; exit 2"} {
		t.Run(name, func(t *testing.T) {
			l.has(t, "vmmigrate", script)
			a, id, me := reach(t, agent.Connector{}, l.place)
			if !slices.Contains(me.Args, agent.RemoveFlag) || !strings.HasPrefix(me.Exe, filepath.Join(l.dir, "tmp", "vmmigrate-agent.")) {
				t.Errorf("%s runs %v", me.Exe, me.Args)
			}
			if left := l.left(t); len(left) != 0 {
				t.Errorf("left at the host: %v", left)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
			gone(t, id.PID)
		})
	}
}

// What stands in the way of a copy is told, and nothing of it stays.
func TestT2SSHCopyFails(t *testing.T) {
	l := startSSHD(t)
	for name, c := range map[string]struct {
		program, script string
		connector       agent.Connector
		want            string
	}{
		"another machine": {"uname", `[ $1 = -s ] && echo Linux || echo riscv64`, agent.Connector{}, "the host is Linux/riscv64"},
		"damaged":         {"sha256sum", `echo 0000 $1`, agent.Connector{}, "damaged"},
		"it is no agent":  {"", "", agent.Connector{Executable: "/bin/false"}, "no agent answers"},
	} {
		t.Run(name, func(t *testing.T) {
			l.has(t, c.program, c.script)
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			c.connector.Version = testVersion
			_, err := c.connector.Connect(ctx, l.place)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if left := l.left(t); len(left) != 0 {
				t.Errorf("left at the host: %v", left)
			}
		})
	}
}

// Failures of ssh itself are told as such, and are no reason to copy.
func TestT2SSHFails(t *testing.T) {
	l := startSSHD(t)
	badKey, badHost := l.place, l.place
	badKey.SSHArgs = append(slices.Clone(l.place.SSHArgs), "-o", "IdentityFile=none")
	badKey.SSHArgs[slices.Index(badKey.SSHArgs, "-i")+1] = filepath.Join(l.dir, "host")
	badHost.SSHArgs = append([]string{"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + l.dir + "/none"}, l.place.SSHArgs...)
	for name, c := range map[string]struct {
		place migrate.Place
		fix   string
	}{"key": {badKey, "authorized_keys"}, "host key": {badHost, "connect once by hand"}} {
		t.Run(name, func(t *testing.T) {
			_, err := agent.Connector{Version: testVersion}.Connect(t.Context(), c.place)
			if !errors.Is(err, migrate.ErrLinkLost) || !strings.Contains(migrate.FixOf(err), c.fix) {
				t.Errorf("%v, fix %q", err, migrate.FixOf(err))
			}
		})
	}
	_, err := agent.Connector{Version: testVersion, SSH: "/no/such/ssh"}.Connect(t.Context(), l.place)
	if err == nil || !strings.Contains(migrate.FixOf(err), "OpenSSH") {
		t.Errorf("no ssh: %v", err)
	}
}
