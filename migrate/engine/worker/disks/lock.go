package disks

import (
	"context"
	"crypto/sha256"
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

// takeLock makes sure that one agent plays one side of a migration's disks. It is an abstract unix socket, so that it goes with
// its process; whoever wants it next asks for it there, and gets it at once: a coordinator has sent him.
type takeLock struct {
	name  string
	l     net.Listener
	leave func() // called once when another agent wants it

	opened chan struct{} // closed when the end is open, or will not be: before that it cannot leave
	once   sync.Once

	wg   sync.WaitGroup
	mu   sync.Mutex
	held []net.Conn
}

func lockName(side migrate.Side, migration string) string {
	return fmt.Sprintf("@vmmigrate-disks-%s-%x", side, sha256.Sum256([]byte(migration)))[:64]
}

// leaveTime is how long an agent may take to let go of disks that another one is sent for.
const leaveTime = 3 * time.Second

// take locks one side of a migration's disks for a new end. With takeOver whoever has it is sent away, and leaves everything as
// it is. leave will be called when the new end is to do so.
func (e *Ends) take(ctx context.Context, side migrate.Side, migration string, takeOver bool, leave func() error) (*takeLock, error) {
	k := &takeLock{name: lockName(side, migration), opened: make(chan struct{})}
	k.leave = func() {
		e.wg.Go(func() {
			<-k.opened
			if err := leave(); err != nil {
				e.o.Log.Warn("let go of disks that another agent takes over", "err", err)
			}
		})
	}
	ctx, stop := context.WithTimeout(ctx, 3*leaveTime)
	defer stop()
	for {
		var err error
		k.l, err = new(net.ListenConfig).Listen(ctx, "unix", k.name)
		if err == nil {
			k.wg.Go(k.keep)
			return k, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("lock the disks: %w", err)
		}
		if !takeOver {
			return nil, migrate.Fail("take the disks", side, migrate.ErrBusy, "another agent is at work on them: vmmigrate status")
		}
		if err := e.askFor(ctx, k.name); err != nil {
			return nil, fmt.Errorf("take the disks over from another agent: %w", err)
		}
	}
}

// keep holds on to whoever asks, so that he sees when we are gone. Only another agent of ours is heard: the name can be dialled
// by anybody.
func (k *takeLock) keep() {
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
		k.held = append(k.held, c)
		first := len(k.held) == 1
		k.mu.Unlock()
		if first {
			k.leave()
		}
	}
}

// ready says that the end is open.
func (k *takeLock) ready() { k.once.Do(func() { close(k.opened) }) }

// release may be called on nil.
func (k *takeLock) release() error {
	if k == nil {
		return nil
	}
	k.ready()
	err := k.l.Close()
	k.wg.Wait()
	for _, c := range k.held {
		_ = c.Close() // that is all that it is for
	}
	return err
}

// askFor waits until the holder of a lock has let go of it. One that does not is ended: all that it holds is in files.
func (e *Ends) askFor(ctx context.Context, name string) error {
	c, err := new(net.Dialer).DialContext(ctx, "unix", name)
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
	case peer.PID <= 0:
		return errors.New("it is out of sight")
	case int(peer.UID) != os.Geteuid(): // the name is free to anybody, and so would be the choice of whom we end
		return fmt.Errorf("process %d of user %d has the lock and is no agent of ours: see what it is, and end it", peer.PID, peer.UID)
	}
	if gone, err := hangsUp(ctx, c); gone || err != nil {
		return err
	}
	if e.o.End != nil && peer.PID != os.Getpid() {
		if err := e.o.End(ctx, peer.PID); err != nil {
			return err
		}
		if gone, err := hangsUp(ctx, c); gone || err != nil {
			return err
		}
	}
	return fmt.Errorf("agent %d does not let go of them: end it: %w", peer.PID, migrate.ErrBusy)
}

// hangsUp waits for the other end of a connection to go.
func hangsUp(ctx context.Context, c net.Conn) (bool, error) {
	deadline := time.Now().Add(leaveTime)
	if t, ok := ctx.Deadline(); ok && t.Before(deadline) {
		deadline = t
	}
	if err := c.SetReadDeadline(deadline); err != nil {
		return false, err
	}
	if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return false, ctx.Err()
	}
	return true, nil
}
