package agent_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/agenttest"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// socketPair are both ends of a unix connection.
func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	lis, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	if a, err = net.Dial("unix", lis.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = lis.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// overSocket is the whole way in one process.
func overSocket(t testing.TB, impl agent.Agent) *agent.Client {
	t.Helper()
	ours, theirs := socketPair(t)
	ended := make(chan error, 1)
	go func() { ended <- agent.ServeConn(context.Background(), theirs, impl, agent.Options{Version: "v1"}) }()
	c, err := agent.NewClient(context.Background(), ours, "v1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), <-ended); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestOverTheWire(t *testing.T) {
	agenttest.Conformance(t, func(t *testing.T, impl agent.Agent) agent.Agent { return overSocket(t, impl) })
}

func bigBlocks() []ram.Block { return []ram.Block{{Name: "pc.ram", Size: 64 << 30, PageSize: 4096}} }

func bigRegions() []agent.Region { return []agent.Region{{Block: bigBlocks()[0]}} }

func TestLostConnection(t *testing.T) {
	ours, theirs := socketPair(t)
	f := &agenttest.Fake{}
	at := f.Park("Page")
	ended := make(chan error, 1)
	go func() { ended <- agent.ServeConn(t.Context(), theirs, f, agent.Options{Version: "v1"}) }()
	c, err := agent.NewClient(t.Context(), ours, "v2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Version() != "v1" {
		t.Errorf("the agent is %s", c.Version())
	}
	d, err := c.OpenDest(t.Context(), agent.DestSpec{Regions: bigRegions()})
	if err != nil {
		t.Fatal(err)
	}
	paged := make(chan error, 1)
	go func() { _, err := d.Page(t.Context(), nil); paged <- err }()
	<-at.Here
	_ = theirs.Close() // the agent is killed
	if err := <-paged; !errors.Is(err, migrate.ErrLinkLost) {
		t.Errorf("under way: %v", err)
	}
	if err := d.Release(t.Context()); !errors.Is(err, migrate.ErrLinkLost) {
		t.Errorf("afterwards: %v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	<-at.Ended // the call was cancelled
	if last := f.Asked(); last[len(last)-1].Method != "Close" {
		t.Errorf("the agent was not closed: %v", last)
	}
}

// An agent whose guest is being paged in stays although nobody listens, and leaves its connection at once.
func TestAgentStays(t *testing.T) {
	ours, theirs := socketPair(t)
	f := &agenttest.Fake{}
	leave := f.Stay()
	ended := make(chan error, 1)
	go func() { ended <- agent.ServeConn(t.Context(), theirs, f, agent.Options{Version: "v1"}) }()
	c, err := agent.NewClient(t.Context(), ours, "v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still there")
	}
	select {
	case err := <-ended:
		t.Errorf("the agent is gone: %v", err)
	default:
	}
	close(leave)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
