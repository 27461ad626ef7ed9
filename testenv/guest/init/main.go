package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv/guest/param"
	"github.com/vmmigrate/vmmigrate/testenv/oracle"
	"github.com/vmmigrate/vmmigrate/testenv/workload"
)

// say writes one line on the console.
func say(format string, args ...any) {
	fmt.Printf("vmmigrate-guest: "+format+"\n", args...)
}

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is the PID 1 of a lab guest, and no other program")
		os.Exit(1)
	}
	// More threads than processors, so that an answer never waits for the
	// runner to yield: the kernel decides who runs.
	runtime.GOMAXPROCS(max(4, runtime.NumCPU()))
	server := oracle.NewServer(powerOff)
	if err := boot(context.Background(), server); err != nil {
		say("error: %v", err)
		server.Fail(err.Error())
	}
	late := loadModules("/modules/late")
	watchPowerButton()
	say("late modules=%s", late)
	select {}
}

// boot brings the guest up. What it starts runs for as long as the guest.
func boot(ctx context.Context, server *oracle.Server) error {
	if err := mountAll(); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	cfg, err := param.Parse(string(cmdline))
	if err != nil {
		return err
	}
	modules := loadModules("/modules/boot")
	if err := configureNetwork(cfg); err != nil {
		return fmt.Errorf("network: %w (modules: %s)", err, modules)
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: oracle.Port})
	if err != nil {
		return err
	}
	go func() { say("server ended: %v", server.Serve(ctx, conn)) }()
	say("up name=%s addr=%v modules=%s", cfg.Name, cfg.Addr, modules)
	return start(ctx, cfg, server)
}

// start sets up the keeper and lets the workload and the ticks run.
func start(ctx context.Context, cfg param.Config, server *oracle.Server) error {
	spec, err := workload.Parse(cfg.Workload)
	if err != nil {
		return err
	}
	keeper, err := newKeeper(cfg, spec)
	if err != nil {
		return err
	}
	runner, err := oracle.NewRunner(keeper, spec, cfg.Seed)
	if err != nil {
		return err
	}
	server.Attach(keeper, runner)
	go tick(keeper)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 10); err != nil {
			say("priority: %v", err)
		}
		runner.Run(ctx)
	}()
	go report(keeper)
	say("ready workload=%s pages=%d blocks=%d incarnation=%x", spec, keeper.Pages(), keeper.Blocks(), keeper.Seal().Incarnation)
	return nil
}

// newKeeper sets memory aside and opens the disks, if there are any.
func newKeeper(cfg param.Config, spec workload.Spec) (*oracle.Keeper, error) {
	if err := enoughMemory(spec.Memory()); err != nil {
		return nil, err
	}
	region, err := memory(int(spec.Memory()))
	if err != nil {
		return nil, fmt.Errorf("memory for %s: %w", spec, err)
	}
	kc := oracle.KeeperConfig{Guest: cfg.Name, Incarnation: incarnation(), Seed: cfg.Seed, Region: region, Alloc: mustMemory}
	if kc.Disks, err = openDisks("/dev", cfg.Disks); err != nil {
		return nil, fmt.Errorf("disks: %w", err)
	}
	return oracle.NewKeeper(kc)
}

// tick calls the keeper each TickPeriod for as long as the guest runs. A
// Ticker drops what it missed: time in which the guest stood still is not
// made up for.
func tick(keeper *oracle.Keeper) {
	start := time.Now()
	t := time.NewTicker(oracle.TickPeriod)
	for range t.C {
		keeper.Tick(clocks(func() (time.Duration, time.Duration) {
			now := time.Now()
			return now.Sub(start), time.Duration(now.UnixNano())
		}))
	}
}

// clocks reads the monotonic and the wall clock at one moment. The guest may be
// paused between the two, and on some machines time goes on meanwhile: then
// they are read again.
func clocks(read func() (mono, wall time.Duration)) (mono, wall time.Duration) {
	before, _ := read()
	for range 10 {
		mono, wall = read()
		if mono-before < oracle.MaxClockStep/10 {
			break
		}
		before = mono
	}
	return mono, wall
}

// report prints a line on the console now and then.
func report(keeper *oracle.Keeper) {
	for range time.NewTicker(30 * time.Second).C {
		s := keeper.Seal()
		say("state ticks=%d answers=%d pages=%d blocks=%d", s.Ticks, s.Answers, s.Pages, s.Blocks)
	}
}

// incarnation draws a number that no other boot has. It does not wait for the
// kernel to be sure of its randomness, which may take a second; it only has to
// differ.
func incarnation() uint64 {
	var b [8]byte
	_, _ = unix.Getrandom(b[:], unix.GRND_INSECURE)
	n := binary.LittleEndian.Uint64(b[:]) ^ uint64(time.Now().UnixNano())
	return max(n, 1)
}
