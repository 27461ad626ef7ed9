package worker

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

// takeOutTrackers closes what an agent that was killed left in QEMU of its tracker: nothing waits for it, but it has the
// RAM registered, and no other can be armed. The caller has the source's lock, so that it is nobody's.
func takeOutTrackers(ctx context.Context, pid int) error {
	found, err := sys.AdoptUserFaults(pid)
	if err != nil {
		return fmt.Errorf("look for a tracker that was left in QEMU: %w", err)
	}
	var errs []error
	for _, a := range found {
		errs = append(errs, a.Fault.Close()) // the copy: the last one to be closed is QEMU's
		if a.Features.Has(sys.FeatureWPAsync) && !a.Features.Has(sys.FeatureMissingShmem) {
			errs = append(errs, sys.InjectClose(ctx, pid, a.RemoteFD))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take out a tracker that was left in QEMU: %w", err)
	}
	return nil
}
