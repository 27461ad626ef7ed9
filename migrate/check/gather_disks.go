package check

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// bareQEMU tells that the destination is a QEMU without libvirt, which was started with all that it has.
func bareQEMU(side HostSide) bool { return side.Facts.OK && side.Facts.Value.Driver == driverQEMU }

// images asks for each disk what is at its path at the destination, and whether the source's storage is shared.
func (g *gatherer) images(ctx context.Context, there Answer[migrate.DomainFacts], bare bool) (
	map[string]Answer[migrate.VolumeFacts], map[string]Answer[bool]) {
	images, shared := map[string]Answer[migrate.VolumeFacts]{}, map[string]Answer[bool]{}
	if bare {
		return images, shared // that QEMU has its disks already, wherever they lie
	}
	for _, d := range there.Value.Disks {
		if d.Path == "" || d.Kind == "network" {
			continue
		}
		images[d.Target] = g.image(ctx, d)
		if !d.CDROM && !copied(g.p, d) {
			shared[d.Target] = g.shared(ctx, d)
		}
	}
	g.byAgent(ctx, there.Value.Disks, images)
	return images, shared
}

// byAgent has the destination's agent look where disks are to be copied to: it sees more than a driver does, and makes what is
// missing.
func (g *gatherer) byAgent(ctx context.Context, disks []migrate.Disk, images map[string]Answer[migrate.VolumeFacts]) {
	var files []migrate.Disk
	for _, d := range disks {
		if copied(g.p, d) && (d.Kind == "file" || d.Kind == "block") {
			files = append(files, d)
		}
	}
	at, ok := g.dst.(migrate.Located)
	if len(files) == 0 || g.o.Images == nil || !ok {
		return
	}
	seen := ask(ctx, g, func(ctx context.Context) (map[string]migrate.VolumeFacts, error) {
		p, err := at.Place(ctx)
		if err != nil {
			return nil, err
		}
		return g.o.Images(ctx, p, files)
	})
	for target, v := range seen.Value {
		pools := images[target].Value
		v.PoolName, v.PoolActive = pools.PoolName, pools.PoolActive
		images[target] = Known(v)
	}
}

// image joins what the driver knows of pools with what is really there, if that can be seen: pools know only their own
// files, and those only as of their last refresh.
func (g *gatherer) image(ctx context.Context, d migrate.Disk) Answer[migrate.VolumeFacts] {
	a := CouldNotTell[migrate.VolumeFacts]("the driver does not know about images")
	if h, ok := g.dst.(volumeLooker); ok {
		a = ask(ctx, g, func(ctx context.Context) (migrate.VolumeFacts, error) { return h.Volume(ctx, d.Path) })
	}
	if g.dstView == nil {
		if a.OK && !a.Value.Exists && a.Value.PoolName == "" {
			return CouldNotTell[migrate.VolumeFacts]("no storage pool there holds the path, so libvirt cannot see what is at it")
		}
		return a
	}
	file := ask(ctx, g, func(ctx context.Context) (*sys.FileInfo, error) { return statOrNil(ctx, g.dstView, d.Path) })
	if file.OK {
		return seen(a, file.Value, d)
	}
	return a
}

// seen corrects what the driver said by what is really there.
func seen(a Answer[migrate.VolumeFacts], file *sys.FileInfo, d migrate.Disk) Answer[migrate.VolumeFacts] {
	switch {
	case file == nil && a.Value.Exists: // deleted behind the pool's back
		a.Value.Exists, a.Value.Capacity, a.Value.Format = false, 0, ""
	case file != nil:
		a.OK, a.Why, a.Value.Exists = true, "", true
		if a.Value.Capacity == 0 && d.Format == "raw" && file.Regular() {
			a.Value.Capacity = file.Size
		}
	}
	return a
}

func exists(ctx context.Context, v Inside, path string) (bool, error) {
	_, err := v.Stat(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// The file systems that hosts share, and those that they do not, in stat(1)'s words. Of others, such as FUSE, it
// cannot be said.
var (
	sharedFilesystems = []string{"nfs", "ceph", "cifs", "smb2", "gfs/gfs2", "ocfs2", "lustre"}
	localFilesystems  = []string{"ext2/ext3", "xfs", "btrfs", "tmpfs", "overlayfs", "zfs", "ramfs", "hugetlbfs"}
)

// shared tells whether other hosts can see the source's file.
func (g *gatherer) shared(ctx context.Context, d migrate.Disk) Answer[bool] {
	if d.Kind == "block" {
		return CouldNotTell[bool]("it is a block device")
	}
	if g.srcView == nil {
		return CouldNotTell[bool]("there is no way to look at the source's files" + because(g.srcErr))
	}
	if g.sameFile(ctx, d.Path) {
		return Known(true)
	}
	a := ask(ctx, g, func(ctx context.Context) (string, error) { return g.srcView.Filesystem(ctx, d.Path) })
	switch {
	case !a.OK:
		return CouldNotTell[bool](a.Why)
	case slices.Contains(sharedFilesystems, a.Value):
		return Known(true)
	case slices.Contains(localFilesystems, a.Value):
		return Known(false)
	}
	return CouldNotTell[bool]("its file system is " + a.Value)
}

// sameFile tells that both hosts live on this machine and mean one file by the path.
func (g *gatherer) sameFile(ctx context.Context, path string) bool {
	a, local := g.srcView.(*procView)
	b, too := g.dstView.(*procView)
	if !local || !too {
		return false
	}
	x, err1 := a.Stat(ctx, path)
	y, err2 := b.Stat(ctx, path)
	return err1 == nil && err2 == nil && x.Same(y)
}

// maxDomains bounds how many domains of the destination are looked at.
const maxDomains = 500

// inUse looks for other domains at the destination that use the guest's images: any domain if the image would be
// overwritten, else those that run.
func (g *gatherer) inUse(ctx context.Context, there Answer[migrate.DomainFacts]) map[string]Answer[string] {
	h, ok := g.dst.(domainLister)
	if !ok || !there.OK || len(there.Value.Disks) == 0 {
		return nil
	}
	names := ask(ctx, g, h.Domains)
	if names.OK && len(names.Value) > maxDomains {
		names = CouldNotTell[[]string]("there are too many domains to look at")
	}
	out := map[string]Answer[string]{}
	for _, d := range there.Value.Disks {
		if d.Path != "" && !d.CDROM && !d.ReadOnly && !d.Shareable {
			out[d.Target] = Answer[string]{OK: names.OK, Why: names.Why}
		}
	}
	for _, name := range names.Value {
		other := ask(ctx, g, finder(g.dst, name))
		for _, d := range there.Value.Disks {
			a, wanted := out[d.Target]
			if wanted && a.OK && a.Value == "" {
				out[d.Target] = g.usedBy(name, other, there.Value, d)
			}
		}
	}
	return out
}

// usedBy tells whether one other domain uses the image of d.
func (g *gatherer) usedBy(name string, other Answer[*migrate.DomainFacts], guest migrate.DomainFacts, d migrate.Disk) Answer[string] {
	switch {
	case !other.OK:
		return CouldNotTell[string]("domain " + name + ": " + other.Why)
	case other.Value == nil, guest.UUID != "" && other.Value.UUID == guest.UUID:
		return Known("")
	}
	idle := other.Value.State.Run == migrate.RunStopped || other.Value.State.Run == migrate.RunCrashed
	for _, x := range other.Value.Disks {
		if x.Path == d.Path && !x.ReadOnly && !x.Shareable && (!idle || copied(g.p, d)) {
			return Known(name)
		}
	}
	return Known("")
}
