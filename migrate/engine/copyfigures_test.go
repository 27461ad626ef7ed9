package engine

import (
	"errors"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// TestDisksInTheClearAreRefused where the user asked for encryption, and nowhere else.
func TestDisksInTheClearAreRefused(t *testing.T) {
	for _, c := range []struct {
		p       migrate.Params
		refused bool
	}{
		{migrate.Params{TLS: true, CopyStorage: migrate.CopyAll}, true},
		{migrate.Params{TLS: true, CopyStorage: migrate.CopyInc}, true},
		{migrate.Params{TLS: true}, false},
		{migrate.Params{TLS: true, CopyStorage: migrate.CopyAll, Reuse: true}, false}, // agents copy them
		{migrate.Params{TLS: true, CopyStorage: migrate.CopyInc, Reuse: true}, true},
		{migrate.Params{CopyStorage: migrate.CopyAll}, false},
	} {
		if err := encryptsDisks(c.p); errors.Is(err, migrate.ErrNotSupported) != c.refused {
			t.Errorf("%+v: %v", c.p, err)
		}
	}
}
