package precopy_test

import (
	"context"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/precopy"
)

// quiet is a guest of 16 pages that has written to four of them and writes no more.
type quiet struct{ harvested bool }

func (q *quiet) Harvest(context.Context) (ram.Set, time.Duration, error) {
	set := ram.NewSet(blocks)
	if !q.harvested {
		set[0].SetRange(2, 6)
	}
	q.harvested = true
	return set, time.Microsecond, nil
}

func (q *quiet) Fetch(_ context.Context, pages ram.Set) (precopy.Fetched, error) {
	n := int64(pages.Count())
	return precopy.Fetched{Pages: n, Bytes: n * 4096, Took: time.Millisecond}, nil
}

var blocks = []ram.Block{{Name: "pc.ram", Size: 16 * 4096, PageSize: 4096}}

func ExampleRounds() {
	q := &quiet{}
	rounds, err := precopy.New(precopy.Config{
		Blocks: blocks, Harvester: q, Fetcher: q,
		Decider: precopy.DeciderConfig{Strategy: migrate.StrategyHybrid},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	res, err := rounds.Run(context.Background())
	for _, r := range res.Rounds {
		fmt.Printf("round %d: %d pages, then %s: %s\n", r.Number, r.Pages, r.Decision.Verdict, r.Decision.Why)
	}
	fmt.Println(res.Left.Count(), "pages left,", err)
	// Here the guest is stopped. What it wrote last:
	res, err = rounds.Final(context.Background())
	fmt.Println(res.Left.Count(), "pages left,", err)
	// Output:
	// round 0: 0 pages, then go on: first round: 16 KiB
	// round 1: 4 pages, then switch: nothing is left
	// 0 pages left, <nil>
	// 0 pages left, <nil>
}
