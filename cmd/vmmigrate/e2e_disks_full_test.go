package main

import (
	"os"
	"strings"
	"syscall"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// fillAfter moves the guest to a file system that is full once the guest runs there and its disks are to follow. The
// guest stands still at its first write that has no room.
func (d *diskBench) fillAfter(from string, more ...string) (p *proc, free func()) {
	d.t.Helper()
	const dir = "/run/small"
	to := other(from)
	d.ok("lab", "mount", to, dir, mountSize())
	d.t.Cleanup(func() { d.ok("lab", "exec", to, "--", "umount", "-l", dir) })
	args := d.move("nbd", "hybrid", from, append(more, "--disk", "vda="+dir+"/vda.qcow2")...)
	marker := d.marker()
	p = d.start([]string{migrate.ParkEnv + "=disks-thawed@" + marker}, diskWay("").args(args)...)
	p.parked(d.bench, marker)
	d.fillMount(to, dir)
	if err := os.Remove(marker); err != nil {
		d.t.Fatal(err)
	}
	return p, func() { d.ok("lab", "exec", to, "--", "rm", dir+"/other") }
}

// stuck waits until the guest stands still since it has no room for what it writes.
func (d *diskBench) stuck(host string) {
	d.t.Helper()
	d.until("the guest has no room for what it writes", func() bool {
		return strings.Contains(d.virsh(host, "domblkerror", guestName), "no space")
	})
}

// fullAfter: what has no room waits for some and says so, and then all goes on by itself, the guest included.
func (d *diskBench) fullAfter(from string) {
	d.t.Helper()
	to := other(from)
	p, free := d.fillAfter(from)
	line := p.until("it says that there is no room", func(l migrate.Progress) bool {
		return len(l.Disks) > 0 && strings.Contains(l.Disks[0].Waits, "space")
	})
	if line.Owner != migrate.OwnerDestination {
		d.t.Errorf("the owner is %s", line.Owner)
	}
	d.stuck(to)
	free()
	p.ends(exitDone)
	d.wellAt(to)
	d.settled(to, goneWithin)
	d.ok(d.move("native", "precopy", to, "--disk", "vda="+d.hostImage(d.files[0]))...) // off the small file system
}

// staysFullAfter: whoever does not want to wait for room leaves, and recover goes on, also with a guest that stands still.
func (d *diskBench) staysFullAfter(from string) {
	d.t.Helper()
	to := other(from)
	p, free := d.fillAfter(from)
	d.stuck(to)
	p.signal(syscall.SIGINT)
	p.ends(exitPaused)
	free()
	d.ok("recover", guestName)
	d.wellAt(to)
	d.settled(to, lingers)
	d.ok(d.move("native", "precopy", to, "--disk", "vda="+d.hostImage(d.files[0]))...)
}
