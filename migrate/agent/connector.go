package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// DefaultPort is where an installed agent listens.
const DefaultPort = 16510

// Connector makes agents where hosts are. Its zero value, with a Version, is what the command line uses. It keeps no state.
type Connector struct {
	// Version is the program's own. An agent that is started over ssh has to have exactly this one.
	Version string
	// Executable is the program that is started, or copied and started; empty is our own. It has to know Args.
	Executable string
	// Args starts an agent on standard input and output; empty is "agent --stdio". With RemoveFlag behind it the program
	// has to remove its own executable first (RemoveExecutable).
	Args []string
	// SSH is the program for hosts that are reached over ssh; empty is ssh.
	SSH string
	// Port of an installed agent; 0 is DefaultPort.
	Port int
	// PKI are the files for an installed agent; nil is ClientPKI.
	PKI *PKI
	// Log hears what the agents say on standard error; nil is silence.
	Log *slog.Logger
	// Stderr is the standard error of the agents that a Front starts; nil is Log.
	Stderr *os.File
}

// RemoveFlag tells a copied program to remove its executable.
const RemoveFlag = "--remove-executable"

func (c Connector) withDefaults() Connector {
	if len(c.Args) == 0 {
		c.Args = []string{"agent", "--stdio"}
	}
	if c.SSH == "" {
		c.SSH = "ssh"
	}
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	if c.PKI == nil {
		p := ClientPKI()
		c.PKI = &p
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Connect gives the agent of a place: one that is started as a child, in the place's namespaces, where it is on this
// machine; one that is started over ssh, where that is the way; and else the one that is installed there. ctx bounds the
// connecting only. The caller closes the agent; a child that stays for a guest then goes on by itself.
func (c Connector) Connect(ctx context.Context, at migrate.Place) (Agent, error) {
	c = c.withDefaults()
	var client *Client
	var err error
	switch {
	case at.Local:
		client, err = c.local(ctx, at.PID)
	case at.SSH != "":
		client, err = c.overSSH(ctx, at)
	case at.Name != "":
		client, err = c.installed(ctx, at.Name)
	default:
		err = migrate.Fail("find the host's agent", "", errors.New("the host does not say where it is"), "")
	}
	if err != nil {
		return nil, err
	}
	return client, nil
}

// installed dials an agent that runs as a service.
func (c Connector) installed(ctx context.Context, host string) (*Client, error) {
	op := "reach the agent of " + host
	cfg, err := c.PKI.Client(host)
	if err != nil {
		return nil, err
	}
	addr := net.JoinHostPort(host, strconv.Itoa(c.Port))
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, migrate.Fail(op, "", fmt.Errorf("%w: %w", migrate.ErrLinkLost, err),
			"start it there (systemctl start vmmigrate-agent) and let port "+strconv.Itoa(c.Port)+" through, or reach the host with qemu+ssh://")
	}
	conn := tls.Client(raw, cfg)
	if err := bounded(ctx, raw, func() error { return conn.HandshakeContext(ctx) }); err != nil {
		_ = raw.Close() // it is of no use
		return nil, migrate.Fail(op, "", err, "")
	}
	client, err := NewClient(ctx, conn, c.Version)
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" { // how TLS 1.3 tells that our certificate is not taken
		return nil, &migrate.OpError{Op: op, Err: fmt.Errorf("it does not take the certificate %s: %w", c.PKI.Cert, alert),
			Fix: "see that " + c.PKI.Cert + " is in force, of the agent's CA and for use as a TLS client"}
	}
	return client, err
}
