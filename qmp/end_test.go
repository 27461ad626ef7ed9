package qmp_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/qmp/qmptest"
)

func TestConnectionEndReleasesAll(t *testing.T) {
	tests := []struct {
		name string
		last qmptest.Step
		is   error
	}{
		{"closed by QEMU", qmptest.Close(), qmp.ErrPeerClosed},
		{"garbage", qmptest.Raw("garbage"), nil},
		{"malformed object", qmptest.Raw(`{"return":[}]}`), nil},
		{"no kind", qmptest.Raw(`{}`), nil},
		{"two kinds", qmptest.Raw(`{"event":"STOP","return":{}}`), nil},
		{"second greeting", qmptest.Greeting(), nil},
		{"parse error without an id", qmptest.Raw(`{"error":{"class":"GenericError","desc":"JSON parse error"}}`), nil},
		{"oversized", qmptest.Raw(`{"return":"` + strings.Repeat("x", 5000)), qmp.ErrTooLarge},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			c := connect(t, qmptest.Start(t, qmptest.Negotiate(), qmptest.Expect("a"), qmptest.Expect("a"), tc.last, qmptest.Hang()),
				qmp.WithMessageLimit(4096))
			sub, err := c.Subscribe(qmp.SubscribeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			ctx := testContext(t)
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					var ce *qmp.CallError
					if err := c.Execute(ctx, "a", nil, nil); !errors.As(err, &ce) || !ce.Sent {
						t.Errorf("waiting command: %v", err)
					}
				})
			}
			wg.Wait()
			<-c.Done()
			checkEnd(t, c, tc.is)
			if _, err := sub.Next(ctx); !errors.Is(err, c.Err()) {
				t.Errorf("subscription: %v, client %v", err, c.Err())
			}
			if err := c.Execute(ctx, "later", nil, nil); !errors.Is(err, c.Err()) {
				t.Errorf("later command: %v", err)
			}
			if _, err := c.Subscribe(qmp.SubscribeOptions{}); !errors.Is(err, c.Err()) {
				t.Errorf("later subscription: %v", err)
			}
		})
	}
}

// checkEnd checks why a client ended: as is says, and otherwise with a
// ProtocolError.
func checkEnd(t *testing.T, c *qmp.Client, is error) {
	t.Helper()
	var pe *qmp.ProtocolError
	if is != nil && !errors.Is(c.Err(), is) || is != qmp.ErrPeerClosed && !errors.As(c.Err(), &pe) {
		t.Errorf("Err() = %v (%T), want %v", c.Err(), c.Err(), is)
	}
}

func TestClose(t *testing.T) {
	ctx := testContext(t)
	taken, take := context.WithCancel(ctx)
	defer take()
	c := script(t, qmptest.Expect("a"), qmptest.Do(take), qmptest.Hang())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Execute(ctx, "a", nil, nil); !errors.Is(err, qmp.ErrClosed) {
			t.Errorf("waiting command: %v", err)
		}
	})
	<-taken.Done() // sent is not enough: the fake would find the end in place of the command
	for range 4 {
		wg.Go(func() {
			if err := c.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			select {
			case <-c.Done():
			default:
				t.Error("Done is open after Close")
			}
		})
	}
	wg.Wait()
	if !errors.Is(c.Err(), qmp.ErrClosed) {
		t.Errorf("Err() = %v", c.Err())
	}
	if err := c.Execute(ctx, "b", nil, nil); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("command after Close: %v", err)
	}
}

// A reply that QEMU sent before it closed is not lost to the failing write of
// another command.
func TestReplyBeforeEnd(t *testing.T) {
	c := script(t, qmptest.Expect("quit").Return(nil), qmptest.Close())
	ctx := testContext(t)
	if err := c.Execute(ctx, "quit", nil, nil); err != nil {
		t.Errorf("quit: %v", err)
	}
	if err := c.Execute(ctx, "query-status", nil, nil); !errors.Is(err, qmp.ErrPeerClosed) {
		t.Errorf("after quit: %v", err)
	}
}
