package handoff_test

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
	"github.com/vmmigrate/vmmigrate/postcopy/handoff"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// Serve the memory of one microVM from the memory file of its snapshot, until all of it is in place.
func Example() {
	_ = serve(context.Background(), "/run/vm7/uffd.sock", "/var/lib/vm7/memory")
}

func serve(ctx context.Context, socket, memory string) (err error) {
	contents, err := os.Open(memory)
	if err != nil {
		return err
	}
	defer func() { _ = contents.Close() }() // it was only read
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	conn, err := listener.AcceptUnix()
	if err = errors.Join(err, listener.Close()); err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()

	taken, err := handoff.Receive(ctx, conn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, taken.Close()) }()
	source, err := fault.New(taken.Fault)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()

	missing := ram.NewSet(taken.Blocks())
	missing.Fill()
	plan, err := prepage.New("bubble", taken.Blocks(), missing, nil)
	if err != nil {
		return err
	}
	file := &handoff.File{From: contents, Regions: taken.Regions}
	pager, err := postcopy.New(postcopy.Config{
		Blocks: taken.Blocks(), Addrs: taken.Addrs(), Faults: source,
		Events: true, // a microVM with a balloon gives memory back
		Demand: file, Bulk: file, Missing: missing, Prepager: plan,
	})
	if err != nil {
		return err
	}
	err = pager.Run(ctx)
	return errors.Join(err, pager.Close())
}
