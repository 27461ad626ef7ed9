package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// lock makes sure that one agent plays one side of a QEMU. It is an abstract unix socket, so that it goes with its process;
// whoever wants it next finds out by it who has it.
type lock struct {
	l net.Listener
	// wanted is closed when another agent wants it.
	wanted chan struct{}

	wg   sync.WaitGroup
	mu   sync.Mutex
	held []net.Conn
}

func lockName(side migrate.Side, pid int) string {
	return fmt.Sprintf("@vmmigrate-agent-%s-%d", side, pid)
}

// takeLock takes it. With takeOver an agent that has it is ended first: it leaves the guest as it is.
func takeLock(ctx context.Context, side migrate.Side, pid int, takeOver bool) (*lock, error) {
	name := lockName(side, pid)
	for {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "unix", name)
		if err == nil {
			k := &lock{l: l, wanted: make(chan struct{})}
			k.wg.Go(k.keep)
			return k, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("lock the guest: %w", err)
		}
		if !takeOver {
			return nil, migrate.Fail("take the guest", side, migrate.ErrBusy, "another agent is at work on it: vmmigrate status")
		}
		if err := endHolder(ctx, name, pid); err != nil {
			return nil, fmt.Errorf("take the guest over from another agent: %w", err)
		}
	}
}

// keep holds on to whoever asks, so that he sees when we are gone. Only another agent of ours is heard: one that lingers makes
// room for it, and the name can be dialled by anybody.
func (k *lock) keep() {
	for {
		c, err := k.l.Accept()
		if err != nil {
			return
		}
		if peer, err := sys.PeerOf(c.(*net.UnixConn)); err != nil || int(peer.UID) != os.Geteuid() {
			_ = c.Close() // it has nothing to ask for
			continue
		}
		k.mu.Lock()
		if k.held = append(k.held, c); len(k.held) == 1 {
			close(k.wanted)
		}
		k.mu.Unlock()
	}
}

// untilWanted is a context that ends, too, when another agent wants the lock.
func (k *lock) untilWanted(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-k.wanted:
			stop()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { stop(); <-done }
}

func (k *lock) release() error {
	err := k.l.Close()
	k.wg.Wait()
	for _, c := range k.held {
		_ = c.Close() // that is all that it is for
	}
	return err
}

// leaveTime is what an agent that nobody directs any more gets to clean up after itself, before it is ended.
const leaveTime = 3 * time.Second

// endHolder gives the process that holds the lock a moment to go, ends it, and waits until it is gone.
func endHolder(ctx context.Context, name string, qemu int) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", name)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil // it has just gone
	}
	if err != nil {
		return err
	}
	defer c.Close()
	peer, err := sys.PeerOf(c.(*net.UnixConn))
	switch {
	case err != nil:
		return err
	case peer.PID == os.Getpid():
		return migrate.ErrBusy
	case peer.PID <= 0:
		return errors.New("it is out of sight")
	case int(peer.UID) != os.Geteuid(): // the name is free to anybody, and so would be the choice of whom we end
		return fmt.Errorf("process %d of user %d has the lock and is no agent of ours: see what it is, and end it", peer.PID, peer.UID)
	}
	frozen, err := allStopped(peer.PID)
	if err != nil {
		return err
	}
	if !frozen { // one that stands still cannot clean up, and the guest may be waiting
		if gone, err := hangsUp(ctx, c, leaveTime); gone || err != nil {
			return err
		}
	}
	if err := killIdle(ctx, peer.PID, qemu); err != nil {
		return err
	}
	gone, err := hangsUp(ctx, c, 10*time.Second)
	if err == nil && !gone {
		err = fmt.Errorf("agent %d does not end", peer.PID)
	}
	return err
}

// hangsUp waits for the other end of a connection to go.
func hangsUp(ctx context.Context, c net.Conn, d time.Duration) (bool, error) {
	deadline := time.Now().Add(d)
	if t, ok := ctx.Deadline(); ok && t.Before(deadline) {
		deadline = t
	}
	if err := c.SetReadDeadline(deadline); err != nil {
		return false, err
	}
	var b [1]byte
	if _, err := c.Read(b[:]); errors.Is(err, os.ErrDeadlineExceeded) {
		return false, ctx.Err()
	}
	return true, nil
}
