package engine_test

import (
	"context"
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/check"
	"github.com/vmmigrate/vmmigrate/migrate/engine"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
	"github.com/vmmigrate/vmmigrate/migrate/libvirthost"
)

// moveGuest moves a running domain between two libvirt hosts. Both are checked first; an error wraps migrate.ErrBlocked,
// ErrCancelled, ErrPaused and so on, and the report says who owns the guest.
func moveGuest(ctx context.Context, domain, from, to, stateDir string) (migrate.Report, error) {
	src, err := libvirthost.Open(ctx, from, libvirthost.Options{})
	if err != nil {
		return migrate.Report{}, err
	}
	defer src.Close()
	dst, err := libvirthost.Open(ctx, to, libvirthost.Options{})
	if err != nil {
		return migrate.Report{}, err
	}
	defer dst.Close()
	db, err := journal.Open(ctx, stateDir)
	if err != nil {
		return migrate.Report{}, err
	}
	defer db.Close()
	c, err := migrate.New(migrate.Config{
		Journal:  db,
		Progress: func(p migrate.Progress) { fmt.Printf("%s %.0f %%\n", p.Phase, p.Percent) },
	})
	if err != nil {
		return migrate.Report{}, err
	}
	params := migrate.Params{Strategy: migrate.StrategyHybrid, CopyStorage: migrate.CopyAll}
	return c.Migrate(ctx, migrate.Request{
		Domain: domain, Source: src, Dest: dst, Engine: &engine.Native{}, Params: params,
		Check: func(ctx context.Context) error {
			res, err := check.Run(ctx, src, dst, domain, params, check.Options{})
			if err != nil {
				return err
			}
			return res.Err()
		},
	})
}

// A host that cannot be reached is an error with a fix, before anything is touched.
func Example() {
	_, err := moveGuest(context.Background(), "web",
		"qemu+unix:///system?socket=/nonexistent/libvirt-sock", "qemu+ssh://b/system", "/nonexistent")
	fmt.Println("fix:", migrate.FixOf(err) != "")
	// Output:
	// fix: true
}
