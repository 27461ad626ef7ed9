package agent_test

import (
	"context"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/agenttest"
)

// deaf does not hear that a request was given up.
type deaf struct {
	*agenttest.Fake
	asked, done, closed chan struct{}
}

func (d deaf) Hello(context.Context) (agent.Identity, error) {
	close(d.asked)
	<-d.done
	return agent.Identity{}, nil
}

func (d deaf) Close() error {
	close(d.closed)
	return d.Fake.Close()
}

// A request that hangs does not keep the agent from letting go of its guest once the coordinator is gone.
func TestARequestThatHangsIsNotWaitedFor(t *testing.T) {
	ours, theirs := socketPair(t)
	d := deaf{&agenttest.Fake{}, make(chan struct{}), make(chan struct{}), make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		ended <- agent.ServeConn(t.Context(), theirs, d, agent.Options{Version: "v1", Patience: time.Millisecond})
	}()
	c, err := agent.NewClient(t.Context(), ours, "v1")
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := c.Hello(t.Context())
		answered <- err
	}()
	<-d.asked
	defer func() {
		close(d.done)
		<-answered
	}()
	_ = c.Close() // it says that a request was under way
	select {
	case <-d.closed:
	case <-time.After(time.Minute):
		t.Fatal("the agent waits for the request")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
