package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// ended: a guest ends at the destination before its disks are there, with its coordinator gone. It is released nowhere, can be
// started on what its definition says, and has all in the end.
func (d *diskBench) ended(t *testing.T) {
	from := d.settle()
	to := other(from)
	d.work("idle:size=1MiB")
	d.shape(from, "200mbit")
	marker := d.marker()
	args := d.move("nbd", "hybrid", from)
	args[slices.Index(args, "--copy-storage-all")] = "--copy-storage-after"
	p := d.start([]string{migrate.ParkEnv + "=disks-paging@" + marker}, args...)
	p.parked(d.bench, marker)
	d.deed(blow{do: killCoordinator}, from, marker)
	p.wait()
	if text := d.virsh(to, "dumpxml", "--inactive", guestName); strings.Count(text, "protocol='nbd'") != len(d.files) {
		t.Errorf("it is defined on images that are not whole:\n%s", text)
	}
	d.virsh(to, "destroy", guestName)
	left := d.start(nil, "recover", guestName, "-o", "json")
	left.ends(exitFailure)
	if e := left.report().Error; e == nil || !strings.Contains(e.Cause, "never start it at the source") {
		t.Errorf("it says %+v", e)
	}
	d.virsh(to, "start", guestName)
	p = d.start(nil, "recover", guestName, "--progress", "json", "-o", "json")
	if at := d.conclude(p, p.wait(), from); at != to {
		t.Errorf("the guest is on host %s", at)
	}
	d.virsh(to, "suspend", guestName)
	d.alike(from)
	d.defined(to)
}
