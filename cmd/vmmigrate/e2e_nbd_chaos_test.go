package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/engine/worker"
	"github.com/vmmigrate/vmmigrate/testenv"
)

// chaosEnv is the number of migrations of TestT4NBDChaos instead of shortChaos, and chaosSeedEnv the seed of what they are,
// to have a run once more. chaosFromEnv is the number of the migration it begins with, to have the end of a run once more.
const (
	chaosEnv     = "VMMIGRATE_CHAOS"
	chaosSeedEnv = "VMMIGRATE_CHAOS_SEED"
	chaosFromEnv = "VMMIGRATE_CHAOS_FROM"
	shortChaos   = 4
	shortSeed    = 1001 // the same moves every time, where nobody watches; the long form draws its own
)

func numberFrom(t *testing.T, env string, def uint64) uint64 {
	t.Helper()
	text := os.Getenv(env)
	if text == "" {
		return def
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: %v", env, text, err)
	}
	return n
}

// Migrations in a row by agents, of random guests by random strategies, a third of them with a fault at a random point: the
// guest is whole after each, or stands still until recover brings it back, and never runs on two hosts.
func TestT4NBDChaos(t *testing.T) {
	x := newSharedBench(t)
	n := numberFrom(t, chaosEnv, shortChaos)
	seed := uint64(shortSeed)
	if n > shortChaos {
		seed = uint64(time.Now().UnixNano())
	}
	seed = numberFrom(t, chaosSeedEnv, seed)
	t.Logf("%s=%d %s=%d", chaosEnv, n, chaosSeedEnv, seed)
	c := chaos{rand.New(rand.NewPCG(seed, 1)), os.Getenv(chaosEnv) == ""}
	from := int(numberFrom(t, chaosFromEnv, 1)) - 1
	var k sharedKind
	fresh := false // a guest is to be made
	for i := range int(n) {
		if i%5 == 0 {
			k, fresh = c.kind(), true
		}
		b := c.blow(i)
		if i < from {
			continue
		}
		t.Run(fmt.Sprintf("%d", i+1), func(t *testing.T) {
			y := x.in(t)
			t.Logf("%s=%d, migration %d: %s by %s", chaosSeedEnv, seed, i+1, k.name, b)
			if fresh {
				y.shared(k)
			}
			fresh = false
			y.guest = k.guest
			y.take(k, b)
		})
		x.guest = k.guest
	}
}

// chaos makes up what happens.
type chaos struct {
	*rand.Rand
	// short leaves out what takes its time: slow links, and agents that hang until a limit ends it.
	short bool
}

func pick[T any](c chaos, from ...T) T { return from[c.IntN(len(from))] }

// kind makes up a guest.
func (c chaos) kind() sharedKind {
	memory := 240 + 16*c.IntN(9)
	size := 8 + 8*c.IntN(5)
	rate := pick(c, 0, 500, 2000, 8000)
	k := sharedKind{guest: []string{"--backing", "shared", "--accel", testenv.AccelTCG, "--memory", fmt.Sprintf("%dMiB", memory)}}
	work := pick(c, "uniform", "hotset", "sequential", "mixed")
	k.disk = work == "mixed"
	text := fmt.Sprintf("%s:size=%dMiB,rate=%d", work, size, rate)
	switch {
	case rate == 0:
		text, k.disk = fmt.Sprintf("idle:size=%dMiB", size), false
	case k.disk:
		text += ",writes=20"
		k.guest = append(k.guest, "--disk", "8MiB")
	}
	k.guest = append(k.guest, "--workload", text, "--seed", fmt.Sprint(1+c.IntN(1000)))
	shape := pick(c, "one block", "one block", "two blocks", "huge pages")
	switch shape {
	case "two blocks":
		k.guest = append(k.guest, "--numa", "2", "--cpus", "2")
	case "huge pages":
		k.guest = append(k.guest, "--pages", "2MiB")
	}
	k.name = fmt.Sprintf("%d MiB in %s, %s", memory, shape, text)
	return k
}

// blow makes up a migration; every third suffers a fault.
func (c chaos) blow(i int) blow {
	b := blow{strategy: pick(c, "precopy", "postcopy", "hybrid"), slow: c.IntN(3) == 0 && !c.short}
	if b.strategy == "precopy" { // it may not converge
		b.more = append(b.more, "--timeout", "8")
	}
	if b.strategy != "precopy" {
		b.more = append(b.more, "--prepage", pick(c, "linear", "bubble", "stride", "hotset"))
	}
	if c.IntN(4) == 0 {
		b.more = append(b.more, "--plain-data")
	}
	faulty := i%3 == 1
	if !faulty {
		return b
	}
	if c.IntN(2) == 0 {
		b.agent = pick(c, worker.Points()...)
		if n := 1 + c.IntN(60); b.agent == "piece" || b.agent == "prepage" {
			b.agent += fmt.Sprintf(":%d", n)
		}
		actions := []string{"kill", "kill", "error", "hang", "stop"}
		if c.short {
			actions = []string{"kill", "error"}
		}
		b.agent += "=" + pick(c, actions...)
		return b
	}
	b.park = pick(c, append(migrate.ParkPoints(), "after-prepare", "in-copy", "after-copy", "before-resume", "after-resume", "before-page", "after-page", "before-finish")...)
	b.do = pick(c, deeds(b.park)...)
	if c.short {
		b.do = pick(c, killCoordinator, killSourceAgent, killDestAgent)
	}
	return b
}
