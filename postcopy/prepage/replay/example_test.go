package replay_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/postcopy/prepage/replay"
)

// A thread reads eight pages, one a millisecond, over a link of 2 ms each way.
func ExamplePlay() {
	trace, err := replay.Read(strings.NewReader(`vmmigrate.faults,1
block,pc.ram,65536,4096
fault,0,0,4,0
fault,1000000,0,5,0
fault,2000000,0,6,0
fault,3000000,0,7,0
fault,4000000,0,8,0
fault,5000000,0,9,0
fault,6000000,0,10,0
fault,7000000,0,11,0
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	link := replay.Link{RTT: 4 * time.Millisecond, Bandwidth: 125e6, Request: 16 << 10, Window: 64 << 10}
	for _, policy := range []string{"none", "bubble"} {
		r, err := replay.Play(trace, policy, link)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: %d faults, the guest stood still for %v\n", r.Policy, r.Faults, r.Stall.Round(time.Millisecond))
	}
	// Output:
	// none: 8 faults, the guest stood still for 32ms
	// bubble: 1 faults, the guest stood still for 4ms
}
