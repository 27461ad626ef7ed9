package handoff

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

// Send hands a userfaultfd over in Firecracker's form. It has to be armed for the regions. The sender keeps its own
// descriptor, and should keep it open: then whoever faults waits, and reads no zeros, if the receiver dies.
func Send(ctx context.Context, conn *net.UnixConn, u *sys.UserFault, regions []Region) error {
	text, err := EncodeRegions(regions)
	if err != nil {
		return fmt.Errorf("hand over a userfaultfd: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	n, _, err := conn.WriteMsgUnix(text, syscall.UnixRights(u.FD()), nil)
	if err == nil && n < len(text) {
		_, err = conn.Write(text[n:])
	}
	if err != nil {
		return fmt.Errorf("hand over a userfaultfd: %w", err)
	}
	return nil
}
