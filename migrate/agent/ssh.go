package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// The exit statuses of our scripts, chosen not to clash with those of ssh (255) and shells.
const (
	exitOtherArch = 90
	exitNoRoom    = 91
	exitDamaged   = 92
)

// noise is how many lines a login shell's start-up files may say before the agent does.
const noise = 64

// asRoot lets the agent be root where the user may become it without a question: QEMU's memory is not for others.
const asRoot = `s=; [ "$(id -u)" = 0 ] || { sudo -n true </dev/null 2>/dev/null && s="sudo -n"; }; `

// runScript starts the program that is installed at the host. Where there is none the shell says so by its status.
const runScript = `PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"; ` + asRoot +
	`v=$(command -v vmmigrate) || exit 127; exec $s "$v" `

// copyScript takes the program from its standard input into a folder of its own, on a file system that programs may be
// started from, checks it and says where it is. Whatever fails or is cut off leaves nothing behind.
const copyScript = `k=$(uname -s)/$(uname -m); [ "$k" = %[1]s ] || { echo "$k" >&2; exit %[3]d; }; umask 077; t=; ` +
	`trap 'rm -rf "$t"' EXIT; trap 'exit 1' HUP INT TERM; ` +
	`for d in "${TMPDIR:-/tmp}" /var/tmp "$HOME"; do ` +
	`t=$(mktemp -d "$d/` + copyPrefix + `XXXXXXXXXX" 2>/dev/null) || continue; f=$t/vmmigrate; ` +
	`echo exit 0 >"$f" && chmod 700 "$f" && "$f" 2>/dev/null && break; rm -rf "$t"; t=; done; ` +
	`[ -n "$t" ] || exit %[4]d; cat >"$f" || exit %[4]d; c=$(sha256sum "$f"); [ "${c%%%% *}" = %[2]s ] || exit %[5]d; ` +
	`trap - EXIT HUP INT TERM; echo "$f"`

// overSSH starts an agent with the user's ssh: the program that the host has, if it is exactly ours, and else a copy of
// ours, which is gone from the host's disk as soon as it runs.
func (c Connector) overSSH(ctx context.Context, at migrate.Place) (*Client, error) {
	client, err := c.runOverSSH(ctx, at, runScript+words(c.Args))
	if err == nil && client.Version() == c.Version {
		return client, nil
	}
	if err == nil {
		c.Log.Info("the host has another version", "host", at.SSH, "version", client.Version())
		_ = client.Close() // it has done nothing
	}
	if errors.Is(err, errSSH) || ctx.Err() != nil {
		return nil, err
	}
	c.Log.Debug("copy the program to the host", "host", at.SSH, "because", err)
	return c.copyOverSSH(ctx, at)
}

// errSSH: it was ssh that failed, not what it should start.
var errSSH = fmt.Errorf("%w by ssh", migrate.ErrLinkLost)

// runOverSSH runs a script that becomes an agent.
func (c Connector) runOverSSH(ctx context.Context, at migrate.Place, script string) (*Client, error) {
	op := "start an agent on " + at.SSH
	conn, p, err := start(c.sshCommand(at, script), c.Log)
	if err != nil {
		return nil, migrate.Fail(op, "", fmt.Errorf("%w: %w", errSSH, err), "install the OpenSSH client")
	}
	client, err := newClient(ctx, conn, c.Version, noise)
	if err == nil {
		client.end = p.leave
		return client, nil
	}
	p.finish()
	switch {
	case errors.Is(err, ErrVersion), ctx.Err() != nil:
		return nil, err
	case p.status() == 255:
		return nil, &migrate.OpError{Op: op, Err: p.explain(errSSH), Fix: sshFix(at, p.said.last())}
	}
	return nil, &migrate.OpError{Op: op, Err: p.explain(err)}
}

// sshFix tells what to do about ssh's own words.
func sshFix(at migrate.Place, said string) string {
	by := strings.Join(append(append([]string{"ssh"}, at.SSHArgs...), at.SSH), " ")
	switch {
	case strings.Contains(said, "Host key verification failed"):
		return "connect once by hand to accept the host's key: " + by
	case strings.Contains(said, "Permission denied"):
		return "put your key into the host's authorized_keys and into ssh-agent, and see that this works without a question: " + by
	}
	return "see that this works without a question: " + by
}

// sshCommand is ssh with the user's own settings; it never asks anything, because nobody may be there to answer.
func (c Connector) sshCommand(at migrate.Place, script string) *exec.Cmd {
	args := append([]string{"-T", "-e", "none", "-o", "BatchMode=yes"}, at.SSHArgs...)
	return exec.Command(c.SSH, append(args, "--", at.SSH, "sh -c "+quote(script))...)
}

// copyOverSSH copies our program to the host and runs it there.
func (c Connector) copyOverSSH(ctx context.Context, at migrate.Place) (*Client, error) {
	to, err := c.upload(ctx, at)
	if err != nil {
		return nil, err
	}
	client, err := c.runOverSSH(ctx, at, asRoot+"exec $s "+quote(to)+" "+words(append(append([]string{}, c.Args...), RemoveFlag)))
	if err == nil && client.Version() != c.Version {
		err = errors.Join(versionError(roleAgent, looseGreeting{roleAgent, Protocol, client.Version()}, c.Version), client.Close())
	}
	if err != nil {
		// It may not have got so far as to remove itself.
		rm := c.sshCommand(at, "rm -rf "+quote(path.Dir(to)))
		if rerr := rm.Run(); rerr != nil {
			c.Log.Warn("a copy of the program may be left", "host", at.SSH, "path", to, "err", rerr)
		}
		return nil, err
	}
	return client, nil
}

// upload copies our program and tells where it is.
func (c Connector) upload(ctx context.Context, at migrate.Place) (string, error) {
	op := "copy vmmigrate to " + at.SSH
	fix := fmt.Sprintf("install vmmigrate %s on %s", c.Version, at.SSH)
	exe, sum, err := c.program()
	if err != nil {
		return "", migrate.Fail(op, "", err, fix)
	}
	defer exe.Close()
	script := fmt.Sprintf(copyScript, kernelName(), sum, exitOtherArch, exitNoRoom, exitDamaged)
	cmd := c.sshCommand(at, script)
	cmd = withContext(ctx, cmd)
	said := &tail{log: c.Log}
	cmd.Stdin, cmd.Stderr, cmd.WaitDelay = exe, said, grace
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		switch exit.ExitCode() {
		case exitOtherArch:
			err = fmt.Errorf("the host is %s and this program is for %s", said.last(), kernelName())
		case exitNoRoom:
			err = fmt.Errorf("there is no folder for a program, or no room: %s", said.last())
		case exitDamaged:
			err = errors.New("it arrived damaged")
		default:
			err = fmt.Errorf("%w; it said: %s", err, said.last())
		}
	}
	if err != nil {
		return "", &migrate.OpError{Op: op, Err: err, Fix: fix}
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	to := lines[len(lines)-1]
	if !strings.HasPrefix(path.Base(path.Dir(to)), copyPrefix) || !path.IsAbs(to) {
		return "", &migrate.OpError{Op: op, Err: fmt.Errorf("the host says it is at %.100q", to), Fix: fix}
	}
	return to, nil
}

// withContext is the same command, killed when ctx ends.
func withContext(ctx context.Context, cmd *exec.Cmd) *exec.Cmd {
	return exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
}

// program opens our program, which the caller closes, and tells its checksum.
func (c Connector) program() (*os.File, string, error) {
	file := c.Executable
	if file == "" {
		file = "/proc/self/exe"
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, "", err
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close() // it was only read
		return nil, "", err
	}
	return f, hex.EncodeToString(h.Sum(nil)), nil
}

// kernelName is what uname -s and -m say where this program runs.
func kernelName() string {
	system, arch := runtime.GOOS, runtime.GOARCH
	switch arch {
	case "amd64":
		arch = "x86_64"
	case "arm64":
		arch = "aarch64"
	}
	if system == "linux" {
		system = "Linux"
	}
	return system + "/" + arch
}

// quote makes one word of s for a shell; words a command's arguments.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func words(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = quote(a)
	}
	return strings.Join(out, " ")
}
