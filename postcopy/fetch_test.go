package postcopy_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
)

type failing struct{ err error }

func (f failing) ReadData(context.Context, []byte, int64) ([]ram.Extent, error) { return nil, f.err }

// What the server answers is its answer. All else is the link.
func TestNBDFetcherTellsLinkFromAnswer(t *testing.T) {
	for _, c := range []struct {
		err  error
		link bool
	}{
		{nbd.ErrLinkLost, true}, {errors.New("broken pipe"), true}, {fmt.Errorf("read: %w", nbd.ESHUTDOWN), true},
		{fmt.Errorf("read: %w", nbd.EIO), false}, {postcopy.ErrLink, true},
		{fmt.Errorf("%w: %w", nbd.ErrLinkLost, nbd.EIO), true},
	} {
		_, err := postcopy.NBDFetcher{failing{c.err}}.Fetch(t.Context(), 0, 0, nil)
		if errors.Is(err, postcopy.ErrLink) != c.link || !errors.Is(err, c.err) {
			t.Errorf("%v became %v", c.err, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (postcopy.NBDFetcher{failing{ctx.Err()}}).Fetch(ctx, 0, 0, nil); errors.Is(err, postcopy.ErrLink) {
		t.Error("an end that was asked for is no lost link")
	}
}
