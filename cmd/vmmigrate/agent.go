package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/engine/worker"
)

//go:embed systemd/vmmigrate-agent.service
var agentUnit string

// unitProgram is the program's path in the unit as it is shipped.
const unitProgram = "/usr/bin/vmmigrate"

// agentFlags are the options of agent.
type agentFlags struct {
	stdio, unit, remove bool
	listen              string
	allow               []string
	pki                 agent.PKI
	keep                keepFlags
}

const agentLong = `The agent of a host does there what the nbd engine needs: it tracks which pages
a guest writes, serves its RAM, takes RAM in, and pages a guest in. For either
engine it makes the images of disks that are copied. You rarely start one
yourself. On this machine and on hosts reached by qemu+ssh:// one is
started for each run, and nothing has to be installed there: where the host has
not exactly this version, the program is copied over ssh and gone from its disk
once it runs.

Hosts that are reached in another way (qemu+tls://) need a service:

  vmmigrate agent --print-unit >/etc/systemd/system/vmmigrate-agent.service
  echo 'ALLOW=--allow a.example.org' >/etc/default/vmmigrate-agent
  systemctl daemon-reload && systemctl enable --now vmmigrate-agent

It talks mutual TLS with libvirt's own certificates, and lets in whom --allow
names of those that the CA has signed: by common name, DNS name or address, or
by a whole distinguished name as in libvirt's tls_allowed_dn_list; * is any
text and ? any character. Who is let in may take any guest of the host, so that
without --allow nobody is; --allow '*' trusts all that the CA has signed.

Each coordinator gets a process of its own. A process that pages a guest in
stays until all of the guest's RAM has arrived, also when the coordinator or
the service ends. Coordinator and agent have to be of the same protocol
version: others are refused, and both versions named.

It needs root, or CAP_SYS_PTRACE and CAP_DAC_OVERRIDE.

Exit codes: 0 done, 1 failure, 2 usage.`

func newAgentCmd(g *globals) *cobra.Command {
	f := &agentFlags{pki: agent.ServerPKI()}
	cmd := &cobra.Command{
		Use:   "agent {--listen ADDR --allow NAME | --stdio | --print-unit}",
		Short: "Run the agent of a host, as a service or for one run",
		Long:  agentLong,
		Example: `  vmmigrate agent --listen :16510 --allow a.example.org --allow '*.example.net'
  vmmigrate agent --print-unit`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAgent(cmd, g, f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.listen, "listen", "", fmt.Sprintf("serve coordinators at `ADDR` (host:port; the usual port is %d)", agent.DefaultPort))
	fs.StringArrayVar(&f.allow, "allow", nil, "let in whose certificate has this `NAME`; patterns as above; may be repeated")
	fs.StringVar(&f.pki.CA, "tls-ca", f.pki.CA, "`FILE` with the CA's certificate, PEM")
	fs.StringVar(&f.pki.CRL, "tls-crl", f.pki.CRL, "`FILE` with the CA's list of revoked certificates, if it exists")
	fs.StringVar(&f.pki.Cert, "tls-cert", f.pki.Cert, "`FILE` with this host's certificate, PEM")
	fs.StringVar(&f.pki.Key, "tls-key", f.pki.Key, "`FILE` with its key, PEM")
	f.keep.register(fs)
	fs.StringVar(&f.keep.limit, "keep-limit", "", "most that copies of guests' RAM may take together, a `SIZE` such as 64GiB (default: a tenth of the file system stays free)")
	fs.BoolVar(&f.stdio, "stdio", false, "serve one coordinator on standard input and output; other vmmigrates start it so")
	fs.BoolVar(&f.unit, "print-unit", false, "print the systemd unit of the service")
	fs.BoolVar(&f.remove, strings.TrimPrefix(agent.RemoveFlag, "--"), false, "remove this copy of the program from the disk")
	_ = fs.MarkHidden(strings.TrimPrefix(agent.RemoveFlag, "--")) // it is there
	return cmd
}

// runAgent does the one of three that was asked for.
func runAgent(cmd *cobra.Command, g *globals, f *agentFlags) error {
	asked := 0
	for _, on := range []bool{f.stdio, f.unit, f.listen != ""} {
		if on {
			asked++
		}
	}
	switch {
	case asked != 1:
		return usagef("agent wants one of --listen, --stdio and --print-unit")
	case f.remove && !f.stdio, len(f.allow) > 0 && f.listen == "":
		return usagef("this option does not go with that: --allow is for --listen")
	case f.unit:
		return printUnitOf(cmd.OutOrStdout(), agentUnit)
	case f.stdio:
		return agentOnStdio(cmd.Context(), g, f)
	}
	return agentService(cmd.Context(), g, f)
}

// printUnitOf writes a unit with the path of this program.
func printUnitOf(w io.Writer, unit string) error {
	if exe, err := os.Executable(); err == nil && !strings.ContainsAny(exe, " \t%\"'\\$") {
		unit = strings.ReplaceAll(unit, unitProgram, exe)
	}
	_, err := io.WriteString(w, unit)
	return err
}

// agentContext ends with SIGTERM or SIGINT. A terminal that is closed, or a coordinator that is gone and reads no more,
// must not end an agent: it may be paging a guest in.
func agentContext(ctx context.Context) (context.Context, context.CancelFunc) {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	return signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
}

// agentLog writes to standard error and never waits for who reads it; the caller closes it.
func agentLog(g *globals) (*slog.Logger, *lossyWriter) {
	level := slog.LevelInfo
	if g.debug {
		level = slog.LevelDebug
	}
	w := newLossyWriter(g.stderr)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), w
}

// agentOnStdio serves one coordinator and ends when that is gone and no guest needs it.
func agentOnStdio(ctx context.Context, g *globals, f *agentFlags) error {
	if term.IsTerminal(int(os.Stdin.Fd())) {
		return usagef("agent --stdio is started by other vmmigrates, over pipes")
	}
	ctx, stop := agentContext(ctx)
	defer stop()
	if f.remove {
		if err := agent.RemoveExecutable(); err != nil {
			return err
		}
	}
	conn, err := agent.Stdio()
	if err != nil {
		return err
	}
	log, w := agentLog(g)
	defer w.Close()
	impl, err := newWorker(log, f.keep)
	if err != nil {
		_ = conn.Close() // nobody will serve it
		return err
	}
	return agent.ServeConn(ctx, conn, impl, agent.Options{Version: agentVersion(), Log: log})
}

// readyThreads is how many threads may run Go code at once, at the least: on a machine of few processors a fault must not
// wait for a thread that is busy with a system call for the bulk.
const readyThreads = 8

// newWorker makes the agent, with the fault that a test asks for.
func newWorker(log *slog.Logger, keep keepFlags) (*worker.Worker, error) {
	limit, err := keep.bytes()
	if err != nil {
		return nil, err
	}
	spoil, err := worker.FaultFrom(os.Getenv(worker.FaultEnv), log)
	if err != nil {
		return nil, err
	}
	runtime.GOMAXPROCS(max(readyThreads, 2*runtime.NumCPU()))
	debug.SetGCPercent(400) // its heap is small, and a collection in the guest's pause costs more than the memory
	return worker.New(worker.Options{Version: agentVersion(), Log: log, Spoil: spoil, KeepDir: keep.folder(), KeepLimit: limit})
}

// agentService serves coordinators until it is told to end.
func agentService(ctx context.Context, g *globals, f *agentFlags) error {
	if len(f.allow) == 0 {
		return usagef("agent --listen lets nobody in without --allow; name the coordinators' certificates, or give --allow '*' to trust all that %s has signed", f.pki.CA)
	}
	ctx, stop := agentContext(ctx)
	defer stop()
	cfg, err := f.pki.Server()
	if err != nil {
		return err
	}
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", f.listen)
	if err != nil {
		return migrate.Fail("listen for coordinators", "", err, "")
	}
	log, w := agentLog(g)
	defer w.Close()
	log.Info("agent listens", "addr", lis.Addr().String(), "version", agentVersion(), "allow", f.allow)
	args := []string{"agent", "--stdio"}
	if g.debug {
		args = append(args, "--debug")
	}
	if _, err := f.keep.bytes(); err != nil {
		return err
	}
	args = append(args, f.keep.args()...)
	front := agent.Connector{Version: agentVersion(), Args: args, Stderr: os.Stderr, Log: log}
	return front.Front(ctx, lis, agent.Options{Version: agentVersion(), TLS: cfg, Allow: f.allow, Log: log})
}
