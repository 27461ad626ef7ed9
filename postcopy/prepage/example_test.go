package prepage_test

import (
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// A guest of 64 pages touches page 20; what is fetched next grows around it.
func Example() {
	blocks := []ram.Block{{Name: "pc.ram", Size: 64 * 4096, PageSize: 4096}}
	missing := ram.NewSet(blocks)
	missing.Fill()
	plan, err := prepage.New("bubble", blocks, missing, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("fault, to be fetched at once:", plan.Fault(0, 20))
	for range 3 {
		run, _ := plan.Next(8)
		fmt.Printf("pre-page %d to %d\n", run.Lo, run.Hi-1)
		plan.Placed(run.Block, run.Lo, run.Hi)
	}
	fmt.Println("to come:", plan.Remaining())
	// Output:
	// fault, to be fetched at once: true
	// pre-page 21 to 28
	// pre-page 12 to 19
	// pre-page 29 to 36
	// to come: 40
}

// A request that the link has lost is taken back, but for what came in another way.
func ExamplePolicy_Return() {
	blocks := []ram.Block{{Name: "pc.ram", Size: 16 * 4096, PageSize: 4096}}
	missing := ram.NewSet(blocks)
	missing.Fill()
	plan, err := prepage.New("linear", blocks, missing, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	lost, _ := plan.Next(8)
	plan.Placed(0, 3, 4) // page 3 was fetched over another connection
	plan.Return(lost)
	for {
		run, ok := plan.Next(8)
		if !ok {
			break
		}
		fmt.Printf("%d to %d\n", run.Lo, run.Hi-1)
	}
	// Output:
	// 0 to 2
	// 4 to 11
	// 12 to 15
}
