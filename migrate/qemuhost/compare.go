package qemuhost

import (
	"fmt"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// difference is one thing in which a destination is unlike the source, and how to start it instead.
type difference struct{ what, fix string }

// compare lists what forbids sending src to dst. QEMU itself notices only some of it, and late.
func compare(src, dst guest) []difference {
	var out []difference
	add := func(same bool, fix, format string, a ...any) {
		if !same {
			out = append(out, difference{fmt.Sprintf(format, a...), fix})
		}
	}
	add(src.UUID == "" || dst.UUID == "" || src.UUID == dst.UUID, "start it with -uuid "+src.UUID,
		"UUID %s there, %s here", src.UUID, dst.UUID)
	add(src.Machine == dst.Machine, "start it with -machine "+src.Machine, "machine type %s there, %s here", src.Machine, dst.Machine)
	add(src.Accel == dst.Accel, "start it with -accel "+src.Accel, "accelerator %s there, %s here", src.Accel, dst.Accel)
	add(src.CPU == dst.CPU, "start it with -cpu "+cpuOption(src.CPU), "CPU %s there, %s here", src.CPU, dst.CPU)
	add(src.VCPUs == dst.VCPUs, fmt.Sprintf("start it with -smp %d", src.VCPUs), "%d vCPUs there, %d here", src.VCPUs, dst.VCPUs)
	add(src.Memory == dst.Memory, fmt.Sprintf("start it with -m %dM", src.Memory>>20),
		"%d MiB of RAM there, %d MiB here", src.Memory>>20, dst.Memory>>20)
	if src.Memory == dst.Memory {
		out = append(out, compareRAM(src.RAM, dst.RAM)...)
	}
	out = append(out, compareDevices(src.Devices, dst.Devices)...)
	return append(out, compareDisks(src.Disks, dst.Disks)...)
}

// compareRAM looks at the names of the blocks; QEMU may resize firmware tables, so their sizes are its own affair.
func compareRAM(src, dst []ramBlock) []difference {
	if len(src) == 0 || len(dst) == 0 {
		return nil // QEMU did not tell
	}
	have := map[string]int64{}
	for _, b := range dst {
		have[b.Name] = b.Size
	}
	var out []difference
	for _, b := range src {
		if _, ok := have[b.Name]; !ok {
			out = append(out, difference{fmt.Sprintf("RAM block %s there, none of that name here", b.Name),
				"give the memory backend the same id, and start it with the same devices"})
		}
	}
	return out
}

func compareDevices(src, dst []device) []difference {
	const fix = "start it with the same -device options, ids and order"
	have := map[string]string{}
	for _, d := range dst {
		have[d.ID] = d.Type
	}
	var out []difference
	for _, d := range src {
		switch kind, ok := have[d.ID]; {
		case !ok:
			out = append(out, difference{fmt.Sprintf("device %s (%s) there, missing here", d.ID, d.Type), fix})
		case kind != d.Type:
			out = append(out, difference{fmt.Sprintf("device %s is %s there, %s here", d.ID, d.Type, kind), fix})
		}
		delete(have, d.ID)
	}
	for _, id := range sortedKeys(have) {
		out = append(out, difference{fmt.Sprintf("device %s (%s) here, not there", id, have[id]), fix})
	}
	return out
}

func compareDisks(src, dst []disk) []difference {
	have := map[string]disk{}
	for _, d := range dst {
		have[d.Target] = d
	}
	var out []difference
	for _, d := range src {
		switch e, ok := have[d.Target]; {
		case !ok:
			out = append(out, difference{fmt.Sprintf("disk %s there, missing here", d.Target), "start it with the same disks"})
		case !d.Empty && e.Empty:
			out = append(out, difference{fmt.Sprintf("disk %s has a medium there, none here", d.Target), "insert the same medium"})
		case d.Capacity != e.Capacity && !d.Removable:
			out = append(out, difference{fmt.Sprintf("disk %s has %d bytes there, %d here", d.Target, d.Capacity, e.Capacity),
				fmt.Sprintf("give it an image of %d bytes (qemu-img create -f raw IMAGE %d)", d.Capacity, d.Capacity)})
		}
	}
	return out
}

// cpuOption turns qemu64-x86_64-cpu into qemu64.
func cpuOption(kind string) string {
	kind = strings.TrimSuffix(kind, "-cpu")
	if i := strings.LastIndexByte(kind, '-'); i > 0 {
		return kind[:i]
	}
	return kind
}

// compared turns differences into one error that names them all.
func compared(ds []difference) error {
	if len(ds) == 0 {
		return nil
	}
	var what, fixes []string
	for _, d := range ds {
		what = append(what, d.what)
		if d.fix != "" {
			fixes = append(fixes, d.fix)
		}
	}
	return refuse("compare the destination's QEMU with the source's", migrate.SideDestination,
		strings.Join(what, "; "), strings.Join(fixes, "; "))
}

// chooseDisks lists the disks that travel: those named, else all that the guest can write.
func chooseDisks(disks []disk, p migrate.Params) ([]disk, error) {
	if p.CopyStorage == migrate.CopyNone {
		return nil, nil
	}
	var out []disk
	found := map[string]bool{}
	for _, d := range disks {
		wanted := len(p.MigrateDisks) == 0 && !d.ReadOnly && !d.Removable
		for _, name := range p.MigrateDisks {
			wanted = wanted || name == d.Target
		}
		found[d.Target] = true
		if wanted {
			out = append(out, d)
		}
	}
	for _, name := range p.MigrateDisks {
		if !found[name] {
			return nil, fmt.Errorf("there is no disk %s: %w", name, migrate.ErrBlocked)
		}
	}
	return out, nil
}
