package testenv_test

import (
	"context"
	"fmt"
	"log"

	"github.com/vmmigrate/vmmigrate/testenv"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// A test brings a lab up that ends with it, starts a guest, has it moved, and asks
// the guest whether it is well. TestMain has called Init.
func Example() {
	ctx := context.Background()
	lab, err := testenv.Up(ctx, testenv.Config{Name: "example", Bound: true, Link: link.Spec{Rate: 1e9}})
	if err != nil {
		log.Fatal(err)
	}
	defer lab.Down(ctx)
	guest, err := lab.StartGuest(ctx, testenv.GuestConfig{Name: "web", Host: "a", Workload: "hotset:size=64MiB,rate=5000"})
	if err != nil {
		log.Fatal(err)
	}
	a, err := lab.Host("a")
	if err != nil {
		log.Fatal(err)
	}
	// Inside host a, b is reached by its name.
	if _, err := a.Output(ctx, "virsh", "migrate", "--live", "--p2p", "web", "qemu+tls://b/system"); err != nil {
		log.Fatal(err)
	}
	verdict, err := guest.Verify(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(verdict.Host, verdict.OK)
}
