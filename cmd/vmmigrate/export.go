package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/engine"
)

const exportLong = `Serve the RAM of a guest to NBD clients, read-only, until Ctrl-C: nbdinfo,
nbdcopy, qemu-img and whatever else speaks NBD. The export "ram" is all of it,
and each of QEMU's RAM blocks is an export "ram/BLOCK". The guest goes on
undisturbed, or stays paused; nothing is set in QEMU, and no migration is
begun.

What is read is what the guest has at that moment: pause the guest first (virsh
suspend) for a copy that is of one moment. base:allocation tells the holes,
pages that the guest never had. RAM in shared files is read from them, and any
other through /proc/PID/mem.

With --track the dirty bitmap qemu:dirty-bitmap:vmmigrate tells what the guest
wrote since the exports were opened. Looking takes nothing away: what was
written once stays dirty until the command ends. A tracker (userfaultfd) is in
QEMU meanwhile, and taken out at the end. There is room for one: while a
migration of the nbd engine is under way --track is refused, and one that
begins ends the exports. Of RAM that is in no shared file the holes are not
told meanwhile.

Clients connect to the socket here, for root alone, or to ADDR:PORT of
--listen, and are carried to the agent of the guest's host as all that
vmmigrate says to it: no port is opened there. NBD has neither names nor
secrets: whoever reaches ADDR:PORT reads the guest's RAM, in the clear. So it
has to be an address of this machine's loopback.

Exit codes: 0 ended by Ctrl-C or SIGTERM, 2 usage, 1 failure, also when the
guest ends meanwhile.`

// exportFlags are the options of export.
type exportFlags struct {
	socket, listen string
	track          bool
}

func newExportCmd(g *globals) *cobra.Command {
	f := &exportFlags{}
	cmd := &cobra.Command{
		Use:   "export DOMAIN [--socket PATH | --listen ADDR:PORT] [--track]",
		Short: "Serve the RAM of a guest to NBD clients",
		Long:  exportLong,
		Example: `  vmmigrate export web --socket /run/web.sock
  nbdinfo --list 'nbd+unix:///?socket=/run/web.sock'
  nbdinfo --map 'nbd+unix:///ram?socket=/run/web.sock'
  nbdcopy 'nbd+unix:///ram?socket=/run/web.sock' web.ram`,
		Args: rangeArgs(1, 1, "a domain"),
		RunE: func(cmd *cobra.Command, args []string) error { return runExport(cmd, g, f, args[0]) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.socket, "socket", "", "listen on the unix socket `PATH` (default: vmmigrate-DOMAIN.sock in a new folder below $TMPDIR)")
	fs.StringVar(&f.listen, "listen", "", "listen on `ADDR:PORT` of the loopback instead; port 0 is any")
	fs.BoolVar(&f.track, "track", false, "tell what the guest writes from now on, as a dirty bitmap")
	return cmd
}

// runExport serves until a signal comes.
func runExport(cmd *cobra.Command, g *globals, f *exportFlags, domain string) (err error) {
	if f.socket != "" && f.listen != "" {
		return usagef("--socket and --listen contradict each other")
	}
	if f.listen != "" {
		if err := onLoopback(f.listen); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	host, err := openHost(ctx, g.connect, g.log())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	n := &engine.NBD{Log: g.log(), Connect: agent.Connector{Version: agentVersion(), Log: g.log()}.Connect}
	x, err := n.OpenExports(ctx, host, domain, f.track)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	l, tidy, err := f.open(ctx, domain)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tidy()) }()
	if err := showExports(cmd.OutOrStdout(), g.json(), domain, x.List(), l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	return x.Serve(ctx, l)
}

// onLoopback refuses addresses that others than this machine's users reach.
func onLoopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return usagef("--listen %q is not ADDR:PORT: %v", addr, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return usagef("--listen %s would let everybody who reaches it read the guest's RAM; use an address of the loopback, such as 127.0.0.1:10809, and ssh -L from elsewhere", addr)
	}
	return nil
}

// open listens. tidy removes what was made for that, but for the socket, which goes with the listener.
func (f *exportFlags) open(ctx context.Context, domain string) (l net.Listener, tidy func() error, err error) {
	tidy = func() error { return nil }
	const op = "listen for NBD clients"
	var lc net.ListenConfig
	if f.listen != "" {
		l, err = lc.Listen(ctx, "tcp", f.listen)
		return l, tidy, migrate.Fail(op, "", err, "")
	}
	path := f.socket
	if path == "" {
		dir, err := os.MkdirTemp("", "vmmigrate-")
		if err != nil {
			return nil, nil, migrate.Fail(op, "", err, "")
		}
		path, tidy = filepath.Join(dir, "vmmigrate-"+filepath.Base(domain)+".sock"), func() error { return os.Remove(dir) }
	}
	if path, err = filepath.Abs(path); err == nil {
		l, err = privately(ctx, path)
	}
	if err != nil {
		return nil, nil, errors.Join(migrate.Fail(op, "", err, ""), tidy())
	}
	return l, tidy, nil
}

// privately listens on a unix socket that nobody else may connect to, from its first moment on. One that is left of a
// command that was killed is replaced; anything else at that path is not.
func privately(ctx context.Context, path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if c, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
			_ = c.Close() // it was only to see who is there
			return nil, fmt.Errorf("%s is in use", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return new(net.ListenConfig).Listen(ctx, "unix", path)
}

// exportsShown is what -o json prints.
type exportsShown struct {
	Schema  string        `json:"schema"`
	Domain  string        `json:"domain"`
	Exports []exportShown `json:"exports"`
}

type exportShown struct {
	engine.Export
	URI string `json:"uri"`
}

// showExports tells where everything is, once clients may come.
func showExports(w io.Writer, asJSON bool, domain string, list []engine.Export, at net.Addr) error {
	shown := exportsShown{Schema: "vmmigrate.exports/v1", Domain: domain}
	for _, e := range list {
		shown.Exports = append(shown.Exports, exportShown{e, engine.NBDURI(at.Network(), at.String(), e.Name)})
	}
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(shown)
	}
	fmt.Fprintf(w, "RAM of %s, read-only, until Ctrl-C:\n", domain)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, e := range shown.Exports {
		fmt.Fprintf(tw, "%d MiB\t%s\n", e.Size>>20, e.URI)
	}
	return tw.Flush()
}
