package check

// The IDs of findings. They are stable: scripts match on them. The comment says what is the case; a finding of severity
// unknown with the same ID says that this could not be ruled out.
const (
	// IDNoDomain: the source has no such domain. Blocker.
	IDNoDomain = "no-domain"
	// IDNotRunning: the guest does not run at the source, so there is nothing to move live. Blocker.
	IDNotRunning = "guest-not-running"
	// IDPaused: the guest is paused; it will be paused at the destination too. Warning.
	IDPaused = "guest-paused"
	// IDMigrationRunning: a job already runs on the guest. Blocker.
	IDMigrationRunning = "migration-running"
	// IDBlockJob: a block job (mirror, commit, backup) runs on the guest. Blocker.
	IDBlockJob = "block-job-running"
	// IDSnapshots: libvirt refuses to migrate a domain with snapshots. Blocker.
	IDSnapshots = "snapshots"
	// IDHypervisorBlocks: QEMU itself names a reason why the guest cannot be migrated. Blocker.
	IDHypervisorBlocks = "hypervisor-blocks"

	// IDRunningThere: the guest, or a domain of its name or UUID, is active at the destination. Blocker.
	IDRunningThere = "domain-running-there"
	// IDNameTaken: the destination has another domain of that name. Blocker.
	IDNameTaken = "name-taken"
	// IDUUIDTaken: the destination has a domain of that UUID under another name. Blocker.
	IDUUIDTaken = "uuid-taken"
	// IDDefinedThere: the same domain is defined, not running, at the destination; its definition is replaced. Info.
	IDDefinedThere = "defined-there"

	// IDHostUnknown: a host could not be asked about itself. Unknown.
	IDHostUnknown = "host-unknown"
	// IDSameHost: source and destination are the same host. Blocker.
	IDSameHost = "same-host"
	// IDDriversDiffer: one end is libvirt, the other a bare QEMU. Blocker.
	IDDriversDiffer = "drivers-differ"
	// IDArchDiffers: the processors are of different kinds. Blocker.
	IDArchDiffers = "arch-differs"
	// IDOlderQEMU, IDOlderLibvirt: the destination's is older than the source's. Warning.
	IDOlderQEMU    = "older-qemu"
	IDOlderLibvirt = "older-libvirt"
	// IDMachineMissing: the destination's QEMU does not know the guest's machine type. Blocker.
	IDMachineMissing = "machine-missing"
	// IDEmulatorMissing: the destination's libvirt does not know the guest's emulator. Blocker.
	IDEmulatorMissing = "emulator-missing"
	// IDCPUMissing: the destination does not offer the guest's CPU. Blocker.
	IDCPUMissing = "cpu-missing"
	// IDClockSkew: the clocks of the hosts differ by more than a second. Warning.
	IDClockSkew = "clock-skew"
	// IDXMLInvalid: the XML for the destination cannot be read. Blocker.
	IDXMLInvalid = "destination-xml-invalid"

	// IDMemoryShort: the destination has less free memory than the guest's RAM. Blocker.
	IDMemoryShort = "memory-short"
	// IDHugePagesShort: the destination lacks free huge pages of the guest's page size. Blocker.
	IDHugePagesShort = "hugepages-short"

	// IDPostcopyUserfault: the destination's QEMU may not open a userfaultfd, which post-copy needs. Blocker with
	// --strategy postcopy or hybrid, info otherwise.
	IDPostcopyUserfault = "postcopy-userfaultfd"
	// IDPostcopyBacking: post-copy cannot work on this guest's RAM backing. Severity as above.
	IDPostcopyBacking = "postcopy-backing"
	// IDPostcopyDevice: a device of the guest excludes post-copy. Severity as above.
	IDPostcopyDevice = "postcopy-device"
	// IDPostcopyMultifd: multifd with post-copy needs QEMU 10.1 on both ends. Severity as above.
	IDPostcopyMultifd = "postcopy-multifd"
	// IDPostcopySuspend: libvirt refuses post-copy together with --suspend. Severity as above.
	IDPostcopySuspend = "postcopy-suspend"
	// IDPostcopyDisks: disks that come after the guest exclude QEMU's own post-copy. Severity as above.
	IDPostcopyDisks = "postcopy-disks"
	// IDPostcopyRecovery: libvirt 11.2 and 11.3 at the destination cannot recover a post-copy whose link broke. Info, unless
	// --strategy precopy.
	IDPostcopyRecovery = "postcopy-recovery"

	// What keeps the nbd engine from moving a guest: blockers with --engine nbd, except where said; otherwise native is
	// taken, and the reason of the choice says why.

	// IDNBDMemory: not all of the guest's RAM is in shared files.
	IDNBDMemory = "nbd-memory"
	// IDNBDDevice: other processes or devices write the guest's RAM.
	IDNBDDevice = "nbd-device"
	// IDNBDOption: an option about QEMU's own way of moving RAM; those that do no harm are Info.
	IDNBDOption = "nbd-option"
	// IDNBDVersion: a QEMU is too old.
	IDNBDVersion = "nbd-version"
	// IDNBDUserfault: the destination's QEMU may not use userfaultfd, which is needed unless --strategy precopy.
	IDNBDUserfault = "nbd-userfaultfd"
	// IDNBDBacking: the files with the guest's RAM are not on a memory file system.
	IDNBDBacking = "nbd-backing"
	// IDNBDKernel: the source's kernel cannot tell cheaply what the guest writes. Unknown, unless the tracker was named.
	IDNBDKernel = "nbd-kernel"
	// IDNBDAgent: no agent can be had on a host.
	IDNBDAgent = "nbd-agent"
	// IDNBDConfined: AppArmor may keep QEMU from making the agent's sockets. Unknown.
	IDNBDConfined = "nbd-confined"
	// IDNBDBalloon: the guest gives free pages back while it is moved. Warning.
	IDNBDBalloon = "nbd-balloon"

	// IDDeviceHostdev: a host device (PCI, VFIO) is assigned. Blocker.
	IDDeviceHostdev = "device-hostdev"
	// IDDeviceMdev: a mediated device is assigned. Blocker.
	IDDeviceMdev = "device-mdev"
	// IDDirtyRing: KVM's dirty ring is small, and QEMU tracks the guest by it. Warning.
	IDDirtyRing = "dirty-ring-small"
	// IDTCGCPUs: QEMU tracks a guest of several processors under TCG. Warning.
	IDTCGCPUs = "tcg-several-cpus"

	// IDDeviceVhostUser: a vhost-user device whose backend has to support migration. Warning.
	IDDeviceVhostUser = "device-vhost-user"
	// IDDeviceVirtiofs: a shared directory; the destination needs the same one, and a virtiofsd that can be
	// migrated. Blocker, with --unsafe a warning.
	IDDeviceVirtiofs = "device-virtiofs"
	// IDDeviceDirectory: a directory is shared by 9p; QEMU refuses while the guest has it mounted. Warning.
	IDDeviceDirectory = "device-9p"
	// IDDeviceVDPA: a vDPA device. Blocker.
	IDDeviceVDPA = "device-vdpa"
	// IDDeviceShmem: memory shared with other guests (ivshmem), which mostly cannot move. Warning.
	IDDeviceShmem = "device-shmem"
	// IDDeviceTPM: the host's own TPM is passed through (blocker), or an emulated one's state has to be reachable
	// at the destination (warning).
	IDDeviceTPM = "device-tpm"
	// IDDeviceUSB: a USB device of the host, or a redirected one, is unplugged by the migration. Warning.
	IDDeviceUSB = "device-usb"
	// IDCDROMMissing: the image in a CD-ROM drive does not exist at the destination. Blocker.
	IDCDROMMissing = "cdrom-missing"

	// IDDiskLocal: a disk is on local storage and is not copied. Blocker, with --unsafe a warning.
	IDDiskLocal = "disk-local"
	// IDDiskAbsent: a read-only disk, which is never copied, does not exist at the destination. Blocker.
	IDDiskAbsent = "disk-absent"
	// IDDiskNoPool: the image does not exist there, and neither an agent nor a storage pool could create it. Blocker.
	IDDiskNoPool = "disk-no-pool"
	// IDDiskNoRoom: the destination's pool or file system has too little free space. Blocker; a warning where what the
	// disk holds fits, but not all that it can hold.
	IDDiskNoRoom = "disk-no-room"
	// IDDiskMade: the destination's agent will make the image where --disk wants it. Info.
	IDDiskMade = "disk-made"
	// IDDiskMap: --disk cannot be done. Blocker.
	IDDiskMap = "disk-map"
	// IDDiskSize: the image at the destination is of another size. Blocker.
	IDDiskSize = "disk-size-differs"
	// IDDiskFormat: the image at the destination is of another format. Blocker.
	IDDiskFormat = "disk-format-differs"
	// IDDiskInUse: another domain at the destination uses the image. Blocker.
	IDDiskInUse = "disk-in-use"
	// IDDiskOverwrite: the image exists at the destination and would be overwritten. Warning.
	IDDiskOverwrite = "disk-overwrite"
	// IDDiskShareable: a disk that other guests may write is copied, so that the copies drift apart. Warning.
	IDDiskShareable = "disk-shareable"
	// IDDiskTarget: --migrate-disks names a disk that the guest does not have, or that cannot be copied. Blocker.
	IDDiskTarget = "disk-target-unknown"

	// IDBridgeMissing, IDNetworkMissing: what a network card is plugged into is missing at the destination. Blocker.
	IDBridgeMissing  = "bridge-missing"
	IDNetworkMissing = "network-missing"
	// IDNameUnresolved: the source host cannot resolve the destination's name. Blocker.
	IDNameUnresolved = "name-unresolved"
	// IDNameLoopback: at the source the destination's name means the source itself. Blocker.
	IDNameLoopback = "name-loopback"
	// IDPortBlocked: a port that the source has to reach does not answer. Blocker.
	IDPortBlocked = "port-blocked"
	// IDPortClosed: nothing listens on the daemon's port that peer-to-peer needs. Blocker.
	IDPortClosed = "port-closed"
	// IDPortBusy: the port that was asked for is already taken at the destination. Blocker.
	IDPortBusy = "port-busy"
	// IDInClear: RAM goes over the network unencrypted. Info.
	IDInClear = "ram-in-clear"

	// IDTLSMissing: a certificate, key or CA file is missing. Blocker.
	IDTLSMissing = "tls-file-missing"
	// IDTLSInvalid: a certificate file holds no certificate. Blocker.
	IDTLSInvalid = "tls-file-invalid"
	// IDTLSExpired, IDTLSNotYet: a certificate is past or before its time. Blocker.
	IDTLSExpired = "tls-expired"
	IDTLSNotYet  = "tls-not-yet-valid"
	// IDTLSExpiring: a certificate expires within 7 days. Warning.
	IDTLSExpiring = "tls-expires-soon"
	// IDTLSName: the destination's certificate does not bear the name that the source will ask for. Blocker.
	IDTLSName = "tls-wrong-name"
	// IDTLSUntrusted: a certificate is not signed by the CA that the other end trusts. Blocker.
	IDTLSUntrusted = "tls-untrusted"
	// IDTLSKey: the hypervisor cannot read its key. Blocker.
	IDTLSKey = "tls-key-unreadable"

	// The options that make no sense together, or at all. Blocker, except where said.

	// IDOptionThrottle: auto-converge and dirty-limit exclude each other, or auto-converge's figures are no percentages.
	IDOptionThrottle = "option-throttle"
	// IDOptionDirtyLimit: dirty-limit needs bare QEMU under KVM with a dirty ring.
	IDOptionDirtyLimit = "option-dirty-limit"
	// IDOptionCompression: methods that exclude each other, need multifd, or are unknown.
	IDOptionCompression = "option-compression"
	// IDOptionDisks: an option for copied disks without --copy-storage-all or -inc.
	IDOptionDisks = "option-disks"
	// IDOptionUndefine: --undefinesource without --persistent leaves no definition anywhere. Warning.
	IDOptionUndefine = "option-undefine"
	// IDOptionPeer: an option for peer-to-peer without --p2p.
	IDOptionPeer = "option-peer"
	// IDOptionBandwidth: a bandwidth that is negative (blocker) or lower than 1 MiB/s (warning).
	IDOptionBandwidth = "option-bandwidth"
	// IDOptionTime: a negative time, or a pause longer than QEMU accepts.
	IDOptionTime = "option-time"
	// IDOptionPostcopy: an option for post-copy with pre-copy. Warning.
	IDOptionPostcopy = "option-postcopy"
	// IDOptionTLS: --tls-destination without --tls.
	IDOptionTLS = "option-tls"
	// IDOptionParallel: a negative number of channels, or more than QEMU's 255.
	IDOptionParallel = "option-parallel"
	// IDOptionURI: a migrate URI or disks URI that cannot be read.
	IDOptionURI = "option-uri"

	// IDURIInvalid: a host URI is malformed or of a scheme that we do not speak. Blocker.
	IDURIInvalid = "uri-invalid"
	// IDConnectName: the host of a URI cannot be resolved. Blocker.
	IDConnectName = "connect-name-unknown"
	// IDConnectRefused: nobody listens where the URI points. Blocker.
	IDConnectRefused = "connect-refused"
	// IDConnectTimeout: no answer from where the URI points. Blocker.
	IDConnectTimeout = "connect-timeout"
	// IDConnectCert: the daemon's certificate, or ours, was not accepted. Blocker.
	IDConnectCert = "connect-certificate"
	// IDConnectExpired: the daemon's certificate has expired, or is not yet valid. Blocker.
	IDConnectExpired = "connect-certificate-expired"
	// IDConnectAuth: the daemon refused who we are. Blocker.
	IDConnectAuth = "connect-auth"
	// IDConnectFailed: the connection failed in another way. Blocker.
	IDConnectFailed = "connect-failed"
)
