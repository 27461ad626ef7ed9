package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/postcopy"
)

// A source's agent that ends, however it does, is no end of the paging: the guest waits for another one.
func TestWhatIsALostLink(t *testing.T) {
	for _, c := range []struct {
		err  error
		lost bool
	}{
		{nbd.ErrLinkLost, true},
		{fmt.Errorf("read: %w", nbd.ESHUTDOWN), true},
		{io.ErrUnexpectedEOF, true},
		{fmt.Errorf("read: %w", nbd.EIO), false},
	} {
		if got := errors.Is(linkLoss(t.Context(), c.err), postcopy.ErrLink); got != c.lost {
			t.Errorf("%v: a lost link is %t", c.err, got)
		}
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	if errors.Is(linkLoss(ended, context.Canceled), postcopy.ErrLink) {
		t.Error("our own end is a lost link")
	}
}
