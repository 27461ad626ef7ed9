package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os/exec"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Front is an installed agent: it listens, finds out who connects, and gives each coordinator that is let in an agent
// process of its own, started as a Connector starts one. So one that fails, is taken over or is replaced by a newer version
// takes no other guest with it, and one that still pages a guest in goes on when the front is stopped or restarted.
//
// It returns when ctx ends; its children then decide by themselves. It takes over lis. Without TLS in o it refuses to
// serve.
func (c Connector) Front(ctx context.Context, lis net.Listener, o Options) error {
	defer func() { _ = lis.Close() }() // nobody accepts any more
	if o.TLS == nil {
		return migrate.Fail("serve as an installed agent", "", errors.New("without certificates anybody could connect"), "")
	}
	c = c.withDefaults()
	return acceptAll(ctx, lis, o, func(conn net.Conn, known func()) { c.relay(ctx, conn, o, known) })
}

// relay lets one coordinator in, or not, and carries what it and its agent say.
func (c Connector) relay(ctx context.Context, raw net.Conn, o Options, known func()) {
	defer func() { _ = raw.Close() }() // both ends have had their say
	conn, refused, err := o.admit(ctx, raw)
	if err != nil {
		return
	}
	if refused != nil {
		o.log().Warn("coordinator refused", "from", raw.RemoteAddr(), "err", refused)
		_, _ = greetAsAgent(ctx, conn, o.Version, refused) // it is refused in any case
		return
	}
	known()
	argv, extra, err := c.localCommand(0)
	if extra != nil {
		defer extra.Close()
	}
	var child net.Conn
	var p *process
	if err == nil {
		cmd := exec.Command(argv[0], argv[1:]...)
		if c.Stderr != nil {
			cmd.Stderr = c.Stderr
		}
		if extra != nil {
			cmd.ExtraFiles = append(cmd.ExtraFiles, extra)
		}
		child, p, err = start(cmd, o.log())
	}
	if err != nil {
		o.log().Error("start an agent", "err", err)
		_, _ = greetAsAgent(ctx, conn, o.Version, migrate.Fail("start an agent", "", err, "")) // the log has it
		return
	}
	o.log().Info("coordinator connected", "from", raw.RemoteAddr(), "pid", p.cmd.Process.Pid)
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() }) // wakes both copies
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(conn, child) // either end may hang up
		_ = raw.Close()
	}()
	_, _ = io.Copy(child, conn)
	_ = child.Close()
	<-done
	o.log().Info("coordinator gone", "from", raw.RemoteAddr(), "pid", p.cmd.Process.Pid)
}

// admit goes through the TLS handshake and looks at the list. Who fails the handshake has had an alert, and is in the log.
func (o Options) admit(ctx context.Context, raw net.Conn) (conn net.Conn, refused, err error) {
	if o.TLS == nil {
		return raw, nil, nil
	}
	t := tls.Server(raw, o.TLS)
	if err := bounded(ctx, raw, func() error { return t.HandshakeContext(ctx) }); err != nil {
		o.log().Warn("coordinator refused", "from", raw.RemoteAddr(), "err", err)
		return nil, nil, err
	}
	return t, Allowed(o.Allow, t.ConnectionState().PeerCertificates[0]), nil
}
