package engine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// TestLatePerformLeavesTheTicketAlone: a Perform that comes back after it was given up does not touch what Undo works
// with (the race detector is the judge).
func TestLatePerformLeavesTheTicketAlone(t *testing.T) {
	sc := newScript()
	s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPrecopy}).(*session)
	s.undo = time.Millisecond
	back := make(chan struct{})
	s.src = deafSource{s.src, back}
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Copy(ctx); !errors.Is(err, migrate.ErrLinkLost) {
		t.Errorf("%v", err)
	}
	close(back)
	if err := s.Undo(t.Context()); err != nil {
		t.Error(err)
	}
	s.Close()
}

// deafSource hears no cancel, and its Perform succeeds late.
type deafSource struct {
	migrate.Source
	back chan struct{}
}

func (d deafSource) Cancel(context.Context, string) error { return nil }
func (d deafSource) Perform(context.Context, migrate.Offer, migrate.Params, migrate.Ticket) (migrate.Ticket, error) {
	<-d.back
	return migrate.Ticket{URI: "late"}, nil
}

// TestPeerToPeerIsNotSevered: a source whose daemon drives the migration, and which is silent for long, may be in
// post-copy. Its connections are left alone; those of a copy of ours are closed.
func TestPeerToPeerIsNotSevered(t *testing.T) {
	for _, peer := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			sc := newScript()
			sc.fail["stats"] = errBoom
			s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPrecopy, PeerToPeer: peer})
			own, ok := s.(*session)
			if !ok {
				own = s.(*peerSession).session
			}
			back := make(chan struct{})
			src := severable{deafSource{own.src, back}, sc}
			own.src = src
			if !ok {
				s.(*peerSession).peer = src
			}
			if err := s.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := s.Copy(t.Context()); !errors.Is(err, migrate.ErrLinkLost) {
				t.Errorf("%v", err)
			}
			if severed := strings.Contains(sc.called(), "sever"); severed == peer {
				t.Errorf("peer-to-peer %v: severed %v", peer, severed)
			}
			close(back)
		})
	}
}

type severable struct {
	deafSource
	sc *script
}

func (s severable) Sever(context.Context, string, migrate.Ticket) error { return s.sc.call("sever") }
func (s severable) MigratePeer(context.Context, string, migrate.Params, string) error {
	<-s.back
	return nil
}
