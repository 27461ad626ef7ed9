package agent

import (
	"context"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Agent is our process on one host, as the coordinator sees it: over gRPC, or in the same process. It plays one end of a
// migration at a time; a second Open for the same guest takes the guest over from an agent that is still at it.
//
// Errors keep what they wrap of migrate's sentinels, and their fix, across the wire.
type Agent interface {
	// Hello tells who the other one is. A peer of another protocol is refused with ErrVersion.
	Hello(ctx context.Context) (Identity, error)
	// OpenSource finds the guest's RAM, arms the tracker and connects to the destination's agent.
	OpenSource(ctx context.Context, spec SourceSpec) (Source, error)
	// OpenDest finds the waiting guest's RAM and waits for the source's agent to connect.
	OpenDest(ctx context.Context, spec DestSpec) (Dest, error)
	// Export serves the RAM of a guest that stays where it is to NBD clients. A guest that is being paged in is
	// refused with ErrBusy: its RAM is not all there.
	Export(ctx context.Context, spec ExportSpec) (Exported, error)
	// Images are the host's disk images, Disks moves what they hold.
	Images
	Disks
	// Close ends the connection and waits for what belongs to it. A guest that is being paged in goes on: its agent
	// stays until all RAM has arrived.
	Close() error
}

// Identity is what an agent says of itself.
type Identity struct {
	Version  string `json:"version"`
	Protocol int    `json:"protocol"`
	Host     string `json:"host"`
	PID      int    `json:"pid"`
	// Certificate is the DER of the certificate that its data connections show: made for this run, pinned by the other.
	Certificate []byte `json:"certificate"`
}

// Guest tells where to find a guest's QEMU on the agent's host. One of PID, PIDFile and Monitor is enough.
type Guest struct {
	Name string `json:"name"`
	UUID string `json:"uuid,omitempty"`
	// PID is QEMU's, as the agent's host numbers it.
	PID int `json:"pid,omitempty"`
	// PIDFile is a file on the agent's host that holds it, as libvirt writes one.
	PIDFile string `json:"pid_file,omitempty"`
	// Monitor is the path of a QMP socket of its QEMU on the agent's host that nobody else uses. Where it is given the
	// destination's agent sets x-ignore-shared there and clears it again.
	Monitor string `json:"monitor,omitempty"`
}

// Region is a RAM block with its place in QEMU's address space.
type Region struct {
	ram.Block
	// Addr is where QEMU has mapped it; 0 lets the agent ask the monitor.
	Addr uint64 `json:"addr,omitempty"`
}

// Link is how the two agents talk about data: the source connects to the destination, and the destination asks for pages
// over these connections.
type Link struct {
	// Addr is host:port of the destination's agent, for the source; or what the destination listens on, where port 0
	// lets it choose one of Ports.
	Addr string `json:"addr"`
	// Ports is the range that the destination chooses from, 0-0 is any.
	Ports [2]int `json:"ports,omitzero"`
	// Peer is the DER of the other end's certificate; with it TLS is used both ways, and nobody else is let in. Empty:
	// no encryption.
	Peer []byte `json:"peer,omitempty"`
	// Token is a secret of this migration that a connection has to show first.
	Token string `json:"token"`
	// Conns is the number of bulk connections; demand faults have one of their own besides. 0 is 4.
	Conns int `json:"conns,omitempty"`
}

// SourceSpec opens the source's end.
type SourceSpec struct {
	Migration string   `json:"migration"`
	Guest     Guest    `json:"guest"`
	Regions   []Region `json:"regions"`
	// Tracker is uffd-wp, soft-dirty, hash, none (nothing is copied before the switch), or empty for the best there is.
	Tracker string `json:"tracker,omitempty"`
	Link    Link   `json:"link"`
	// Stream is the unix socket to listen on for QEMU's own stream, which is relayed to the destination's agent.
	Stream string `json:"stream,omitempty"`
	// Resume takes up a guest that stands still after its switch: no tracker, no stream.
	Resume bool `json:"resume,omitempty"`
	// Reuse: the destination holds an older copy of the RAM and asks for fingerprints of pages, over connections of their own.
	Reuse bool `json:"reuse,omitempty"`
}

// DestSpec opens the destination's end.
type DestSpec struct {
	Migration string   `json:"migration"`
	Guest     Guest    `json:"guest"`
	Regions   []Region `json:"regions"`
	Link      Link     `json:"link"`
	// Stream is the unix socket on which QEMU waits for its own stream.
	Stream string `json:"stream,omitempty"`
	// Lazy: RAM may be missing when the guest runs; a userfaultfd is made for that.
	Lazy bool `json:"lazy,omitempty"`
	// Still: the guest stands still on the source already, so that its QEMU waits for no acknowledgement of the switch.
	Still bool `json:"still,omitempty"`
	// Resume takes up a guest that runs here and lacks pages: those that are holes in its RAM's files.
	Resume bool `json:"resume,omitempty"`
	// Bandwidth caps what is fetched before the switch, BandwidthPaging after it, in bytes a second; 0 is no cap.
	// Demand faults are never held back.
	Bandwidth       int64  `json:"bandwidth,omitempty"`
	BandwidthPaging int64  `json:"bandwidth_paging,omitempty"`
	Prepage         string `json:"prepage,omitempty"`
	// Reuse looks for an older copy of the guest's RAM on this host, by the guest's UUID. Pages of it that the source finds to be
	// the same still are taken from there. See Dest.Held. ReuseRAM is a file to take them from instead, with all blocks one after
	// the other.
	Reuse    bool   `json:"reuse,omitempty"`
	ReuseRAM string `json:"reuse_ram,omitempty"`
}

// Source is the source's end of one migration.
type Source interface {
	// Harvest gives the pages written since the last one, and starts anew. The first one gives all pages that are not
	// holes. When it fails the safe answer comes with the error's place: the caller takes all pages for dirty.
	Harvest(ctx context.Context) (Harvest, error)
	// Stats are the figures so far.
	Stats(ctx context.Context) (SourceStats, error)
	// StreamUp returns when QEMU has connected to the stream's socket and its stream is under way.
	StreamUp(ctx context.Context) error
	// Keep makes a copy of the guest's RAM on this host, for a return with Reuse, and tells of progress: Bytes were looked at,
	// Remaining are still to be. It is for a guest that stands still here for good. A copy that fails half-way is removed.
	Keep(ctx context.Context, progress func(Progress)) (Progress, error)
	// Close takes the tracker out of QEMU, ends the connections and forgets the guest. It is idempotent.
	Close(ctx context.Context) error
}

// Harvest is one reading of a tracker.
type Harvest struct {
	Dirty ram.Set `json:"dirty"`
	// Took is the time of the reading itself; Tracker who read.
	Took    time.Duration `json:"took"`
	Tracker string        `json:"tracker"`
}

// SourceStats are figures of the source's end.
type SourceStats struct {
	// Links are the connections to the destination that are up.
	Links int `json:"links,omitempty"`
	// SentBytes went out over data connections, headers included and TLS not; StreamBytes is QEMU's own stream of it.
	SentBytes   int64 `json:"sent_bytes"`
	StreamBytes int64 `json:"stream_bytes"`
}

// Dest is the destination's end of one migration.
type Dest interface {
	// Addr is where the destination's agent listens for the source's.
	Addr() string
	// Held tells what DestSpec.Reuse found. If it is of use the source's end has to be opened with Reuse.
	Held() Held
	// Fetch brings the pages of the set over, in the given order of blocks and pages, and tells of progress. It
	// returns when all are there, or ctx ended. It may be called again for pages that were fetched before.
	Fetch(ctx context.Context, pages ram.Set, progress func(Progress)) (Progress, error)
	// Tune changes the caps, in bytes a second; negative leaves one as it is, 0 is no cap.
	Tune(ctx context.Context, bandwidth, paging int64) error
	// Pass lets QEMU's own stream pass until its destination says that it is ready for the switch; before, all of it is
	// held back, and after it again until Release. The pages of the set will be missing after the switch as far as is known
	// already: what was fetched of them is dropped now, while the guest still runs at the source.
	Pass(ctx context.Context, stale ram.Set) error
	// Switch makes the pages of the set missing: from now on the guest cannot see what was fetched of them. Hot lists
	// pages to fetch first, best first. It has to return before Release. It can be called again, before the guest runs,
	// for more pages. With an empty set nothing will be missing. Demand faults are served from now on; the rest is
	// fetched by Page. At its end the source's QEMU is told that all has arrived: it completes its migration by itself, and
	// never goes back by itself from then on.
	Switch(ctx context.Context, missing ram.Set, hot []PageRef) error
	// Release lets QEMU's own stream pass to its end. From now on the guest may run here, so it must not be called before
	// the source's QEMU has completed its migration.
	Release(ctx context.Context) error
	// Page fetches what is missing and tells of progress; it returns when nothing is missing any more. When the link is
	// lost it returns an error that wraps migrate.ErrPaused; it can be called again then, once the source is connected.
	Page(ctx context.Context, progress func(Progress)) (Progress, error)
	// Close takes the userfaultfd out of QEMU and forgets the guest. While pages are missing it refuses, unless
	// abandon says that the guest is given up. It is idempotent.
	Close(ctx context.Context, abandon bool) error
}

// Held is the older copy of a guest's RAM that a destination has.
type Held struct {
	// Usable: pages are compared with it.
	Usable bool `json:"usable,omitempty"`
	// Bytes of it are no zeros. Kept is when it was made.
	Bytes int64     `json:"bytes,omitempty"`
	Kept  time.Time `json:"kept,omitzero"`
	// Why says why there is none, or why a part of it is of no use.
	Why string `json:"why,omitempty"`
}

// PageRef names one page.
type PageRef struct {
	Block int `json:"block"`
	Page  int `json:"page"`
}

// Progress are figures of the destination's end since it was opened. Sizes in bytes.
type Progress struct {
	// Pages arrived with their contents, ZeroPages without.
	Pages     int64 `json:"pages"`
	ZeroPages int64 `json:"zero_pages"`
	// Reused are those of Pages whose contents came from an older copy; absent if there is none.
	Reused *int64 `json:"reused,omitempty"`
	// Bytes is what came over the data connections, headers included and TLS not.
	Bytes int64 `json:"bytes"`
	// Remaining is what is still to come of this Fetch or Page.
	Remaining int64 `json:"remaining"`
	// Bandwidth is bytes a second over the last second or so.
	Bandwidth int64 `json:"bandwidth"`
	// Faults counts demand faults that needed the source, LocalFaults those that did not; FaultUS is their latency from
	// the kernel's message to the page in place, in microseconds, of those that needed the source.
	Faults      int64    `json:"faults"`
	LocalFaults int64    `json:"local_faults"`
	FaultUS     *Latency `json:"fault_us,omitempty"`
	// Prepaged counts pages that came before they were asked for.
	Prepaged int64 `json:"prepaged"`
	// Disks are the figures of a destination's end for disks, which has Bytes, Remaining and Bandwidth besides.
	Disks []DiskProgress `json:"disks,omitempty"`
}

// Latency sums up a distribution.
type Latency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}
