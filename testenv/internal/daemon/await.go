package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// awaitPause is the time between two attempts to reach a libvirtd that starts.
const awaitPause = 10 * time.Millisecond

// awaitLibvirt returns when the libvirtd behind the socket answers, or with the
// reason why it will not.
func awaitLibvirt(ctx context.Context, socket string, ended <-chan struct{}) error {
	pause := time.NewTicker(awaitPause)
	defer pause.Stop()
	for {
		err := callLibvirt(socket)
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return fmt.Errorf("%w; last attempt: %w", context.Cause(ctx), err)
		case <-pause.C:
		}
	}
}

// callLibvirt opens a connection to the system's QEMU driver and closes it.
func callLibvirt(socket string) error {
	l := libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(socket), dialers.WithLocalTimeout(time.Second)))
	if err := l.ConnectToURI("qemu:///system"); err != nil {
		return err
	}
	return l.Disconnect()
}
