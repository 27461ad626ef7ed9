package qmp

import (
	"encoding/json"
	"runtime"
)

// WaitSent returns when a command of that name is on the wire or answered by
// watching the state that the writer leaves; it is for tests that need an order.
func WaitSent(c *Client, name string) {
	for {
		c.mu.Lock()
		for _, cl := range c.pending {
			if cl.name == name && cl.sent {
				c.mu.Unlock()
				return
			}
		}
		dead := c.err != nil
		c.mu.Unlock()
		if dead {
			return
		}
		runtime.Gosched()
	}
}

// HoldWindow takes all the room for commands until release is called.
func HoldWindow(c *Client) (release func()) {
	for range cap(c.window) {
		c.window <- struct{}{}
	}
	return func() {
		for range cap(c.window) {
			<-c.window
		}
	}
}

// IDOf gives the id of a command on the wire.
func IDOf(command []byte) (string, error) {
	var c wireCommand
	err := json.Unmarshal(command, &c)
	return c.ID, err
}

// CountSent is how many commands are on the wire and not yet answered.
func CountSent(c *Client) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range c.pending {
		if cl.sent {
			n++
		}
	}
	return n
}

// WaitCount returns when that many commands are on the wire and not yet answered,
// or the client has ended.
func WaitCount(c *Client, n int) {
	for CountSent(c) < n && c.Err() == nil {
		runtime.Gosched()
	}
}
