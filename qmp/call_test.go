package qmp

import (
	"context"
	"errors"
	"testing"
)

// The writer and a caller that gives up race for a call: whoever is first decides
// whether it is sent, and both know.
func TestClaimAgainstAbandon(t *testing.T) {
	newOne := func() (*Client, *call) {
		c := &Client{pending: make(map[string]*call)}
		cl := &call{id: "x", name: "cont", reply: make(chan outcome, 1)}
		if err := c.register(cl); err != nil {
			t.Fatal(err)
		}
		return c, cl
	}
	var ce *CallError
	c, cl := newOne()
	o := c.abandon(cl, context.Canceled)
	if !errors.As(o.err, &ce) || ce.Sent || c.claim(cl) || len(c.pending) != 0 {
		t.Errorf("abandoned first: %v, %d pending", o.err, len(c.pending))
	}
	c, cl = newOne()
	claimed := c.claim(cl)
	o = c.abandon(cl, context.Canceled)
	if !errors.As(o.err, &ce) || !ce.Sent || !claimed || len(c.pending) != 1 {
		t.Errorf("claimed first: %v, %d pending", o.err, len(c.pending))
	}
	c, cl = newOne()
	c.claim(cl)
	c.resolve("x", func(*call) outcome { return outcome{raw: []byte("1")} })
	if o = c.abandon(cl, context.Canceled); o.err != nil || string(o.raw) != "1" {
		t.Errorf("answered first: %s, %v", o.raw, o.err)
	}
}
