package qmp_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/qmp"
)

// FuzzClient lets a peer say anything, first instead of the handshake and then,
// behind a proper one, to a client with a waiting command. Every wait must end.
func FuzzClient(f *testing.F) {
	for _, s := range []string{
		`{"QMP":{"version":{"qemu":{"major":10}},"capabilities":["oob"]}}` + "\r\n" + `{"return":{}}`,
		`{"event":"STOP","timestamp":{"seconds":1,"microseconds":2}}{"return":{},"id":1}`,
		`{"error":{"class":"GenericError","desc":"JSON parse error"}}`, `{"return":{},"id":{"a":[]}}`, `{"QMP":{}}`, "\x00",
		`{"event":"MIGRATION","data":[1]}{"event":"MIGRATION","data":{"status":"active"}}`,
	} {
		f.Add([]byte(s))
	}
	greeting := []byte(`{"QMP":{"version":{},"capabilities":[]}}`)
	f.Fuzz(func(t *testing.T, said []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if c := converse(ctx, t, said, nil); c != nil {
			t.Errorf("a peer that never accepted qmp_capabilities was taken for QEMU")
			_ = c.Close()
		}
		c := converse(ctx, t, greeting, said)
		if c == nil {
			t.Fatal("the handshake failed")
		}
		sub, err := c.Subscribe(qmp.SubscribeOptions{Queue: 4})
		if err == nil {
			_ = c.Execute(ctx, "query-status", nil, nil)
			for e := range sub.C() {
				_, _ = e.Typed() // any answer is right but a panic
			}
		}
		if err := c.Close(); err != nil || ctx.Err() != nil {
			t.Errorf("Close: %v, context %v", err, ctx.Err())
		}
	})
}

// converse connects a client to a peer that says first, answers the one command
// that follows if there is a second text to say, says that and hangs up.
func converse(ctx context.Context, t *testing.T, first, second []byte) *qmp.Client {
	client, server := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() { _ = server.Close() }()
		_, _ = server.Write(first)
		if second == nil {
			return
		}
		id, err := readID(server)
		if err != nil {
			return
		}
		_, _ = server.Write([]byte(`{"return":{},"id":"` + id + `"}`))
		_, _ = server.Write(second)
	})
	t.Cleanup(wg.Wait)
	c, err := qmp.NewClient(ctx, client, qmp.WithMessageLimit(1<<16))
	if err != nil {
		return nil
	}
	return c
}

// readID reads one command, which ends its line, and gives its id.
func readID(r io.Reader) (string, error) {
	b := make([]byte, 512)
	n := 0
	for n == 0 || b[n-1] != '\n' {
		m, err := r.Read(b[n:])
		if err != nil {
			return "", err
		}
		n += m
	}
	return qmp.IDOf(b[:n])
}
