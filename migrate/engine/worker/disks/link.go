package disks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
)

// linkPatience is how long a silent peer keeps a data connection.
const linkPatience = 5 * time.Second

// Names of the exports that the source's end serves: what a disk holds at this moment, what it holds once it is frozen, and
// checksums of the former.
const (
	liveExport = "live/"
	diskExport = "disk/"
	sumsExport = "sums/"
)

// share is how the connections of a link are shared out: each disk has bulk ones and one of demand.
type share struct{ disks, bulk int }

// shareOf gives each disk as many bulk connections as a link is to have, if there is room.
func shareOf(link agent.Link, disks int) (share, error) {
	if disks < 1 || disks > datalink.MaxIndex {
		return share{}, fmt.Errorf("%d disks cannot be moved at once: 1 to %d can", disks, datalink.MaxIndex)
	}
	each := link.Conns
	if each <= 0 {
		each = 4
	}
	return share{disks, max(1, min(each, datalink.MaxIndex/disks))}, nil
}

// linkConfig is what both ends of a link have to agree on.
func (e *Ends) linkConfig(migration string, link agent.Link) (datalink.Config, error) {
	conf := datalink.Config{Migration: migration, Token: link.Token, Log: e.o.Log, Patience: linkPatience}
	if e.o.TLS == nil {
		return conf, nil
	}
	var err error
	conf.TLS, err = e.o.TLS(link.Peer)
	return conf, err
}

// dialLink keeps the connections to the destination's end up and hands each to serve.
func (e *Ends) dialLink(migration string, link agent.Link, s share, serve func(context.Context, *datalink.Conn)) (*datalink.Keeper, error) {
	conf, err := e.linkConfig(migration, link)
	if err != nil {
		return nil, err
	}
	return datalink.Keep(datalink.KeepConfig{Config: conf, Addr: link.Addr, Bulk: s.disks * s.bulk, Demand: s.disks, Dial: e.o.Dial}, serve)
}

// acceptLink listens for the source's end.
func (e *Ends) acceptLink(ctx context.Context, migration string, link agent.Link) (*datalink.Acceptor, error) {
	conf, err := e.linkConfig(migration, link)
	if err != nil {
		return nil, err
	}
	l, err := datalink.Listen(ctx, link.Addr, link.Ports)
	if err != nil {
		return nil, migrate.Fail("listen for the disks' data connections", migrate.SideDestination, err, "free one of the ports that migrations may use")
	}
	a, err := datalink.NewAcceptor(l, conf)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return a, nil
}

// openClient connects to an export of the source's end, which has to be of the size.
func openClient(ctx context.Context, a *datalink.Acceptor, role datalink.Role, size int64, conf nbd.ClientConfig) (*nbd.Client, error) {
	conf.Dial = func(ctx context.Context) (net.Conn, error) { return a.Next(ctx, role) }
	c, err := nbd.Open(ctx, conf)
	if err != nil {
		return nil, err
	}
	if c.Size() != size {
		return nil, errors.Join(fmt.Errorf("%s has %d bytes at the source, and not %d", conf.Export, c.Size(), size), c.Close())
	}
	return c, nil
}

// linkError marks the loss of the link between the agents.
func linkError(err error) error {
	if err != nil && errors.Is(err, nbd.ErrLinkLost) && !errors.Is(err, migrate.ErrLinkLost) {
		return fmt.Errorf("%w: %w", migrate.ErrLinkLost, err)
	}
	return err
}
