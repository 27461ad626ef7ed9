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
		{migrate.Params{TLS: true, CopyStorage: migrate.CopyAll}, false}, // agents copy them
		{migrate.Params{TLS: true, CopyStorage: migrate.CopyInc}, true},
		{migrate.Params{TLS: true}, false},
		{migrate.Params{TLS: true, CopyStorage: migrate.CopyAll, Reuse: true}, false},
		{migrate.Params{TLS: true, CopyStorage: migrate.CopyInc, Reuse: true}, true},
		{migrate.Params{CopyStorage: migrate.CopyAll}, false},
	} {
		if err := encryptsDisks(c.p); errors.Is(err, migrate.ErrNotSupported) != c.refused {
			t.Errorf("%+v: %v", c.p, err)
		}
	}
}

// Disks that are to be encrypted must not be left to QEMU's own connections.
func TestWhoCopiesDisks(t *testing.T) {
	for _, c := range []struct {
		p      migrate.Params
		agents bool
	}{
		{migrate.Params{CopyStorage: migrate.CopyAll}, false},
		{migrate.Params{CopyStorage: migrate.CopyAll, Reuse: true}, true},
		{migrate.Params{CopyStorage: migrate.CopyAll, TLS: true}, true},
		{migrate.Params{CopyStorage: migrate.CopyInc, Reuse: true}, false},
		{migrate.Params{TLS: true, Reuse: true}, false},
	} {
		if s := newWorld(t).session(c.p); (s.mirrored != nil) != c.agents {
			t.Errorf("%+v: copied by agents is %t", c.p, s.mirrored != nil)
		}
	}
}
