package testenv_test

import (
	"context"
	"fmt"

	"github.com/vmmigrate/vmmigrate/testenv"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// A lab that ends with this process, a guest in it that moves, and the question
// whether it is well. The program's main has called Init.
func Example() {
	move := func(ctx context.Context) error {
		lab, err := testenv.Up(ctx, testenv.Config{Name: "example", Bound: true, Link: link.Spec{Rate: 1e9}})
		if err != nil {
			return err
		}
		defer lab.Down(ctx)
		guest, err := lab.StartGuest(ctx, testenv.GuestConfig{Name: "web", Host: "a", Workload: "hotset:size=64MiB,rate=5000"})
		if err != nil {
			return err
		}
		a, err := lab.Host("a")
		if err != nil {
			return err
		}
		// Inside host a, b is reached by its name.
		if _, err := a.Output(ctx, "virsh", "migrate", "--live", "--p2p", "web", "qemu+tls://b/system"); err != nil {
			return err
		}
		verdict, err := guest.Verify(ctx)
		if err != nil {
			return err
		}
		fmt.Println(verdict.Host, verdict.OK)
		return nil
	}
	if err := move(context.Background()); err != nil {
		fmt.Println(err)
	}
}
