// Package nbd serves and reads sized devices over the Network Block Device protocol: RAM blocks of a guest and disks alike.
//
//	         Server                                                Client
//	Catalog ──> Export ──> Backend            caller ─┬─ ReadAt, ReadSparse, WriteAt, BlockStatus …
//	               ▲          ▲                       │  window: bytes in flight over all connections
//	  negotiate ───┘          │                       ▼
//	  one goroutine reads ──> one goroutine    connection 0 ─ one reader, placing replies in the
//	  requests, bounded by    per request,     connection 1   callers' buffers; callers write their
//	  count and bytes         replies batched  …              own requests
//
// The server speaks fixed newstyle with TLS, structured replies, base:allocation and a dirty bitmap, to any NBD client. Its
// backend is go-nbd's backend.Backend, so that each of that module's backends plugs in; what a backend can do beyond reading
// and writing it says by the optional interfaces of this package (SparseReader, Viewer, Receiver, Extenter, DirtyExtenter,
// ZeroWriter, Trimmer, Cacher, ContextBackend). File is a backend that knows all of it for files, those of guest RAM too.
//
// # Whose is what
//
// ServeConn owns the connection it is given and closes it; Serve owns its listener. Every goroutine of a connection has ended
// when ServeConn returns, and those of all connections when Close returns. Backends belong to the caller, and have to outlive
// the server. A Client owns the connections that its Dial function made. A buffer given to a Client's method is written to
// until that method returns and no longer, also when its context ends.
//
// A client with ClientConfig.Direct has no reader: a thread that waits for other things, too, sends with Send, waits for
// Descriptor and takes answers up with Take. No other thread has to be woken for an answer then.
//
// # What half-failure leaves
//
// A backend's error is answered as the errno it stands for, and the connection goes on. A peer that breaks the protocol loses
// its connection and no more. A client whose connection is lost sends reads again over another one, or the one that Dial makes
// next; writes, trims and flushes fail with ErrLinkLost, since nobody knows whether they took place, and so does the flush
// that follows acknowledged writes to a server that was lost in between.
//
// # What it does not do
//
// No kernel device, no oldstyle negotiation, no extended headers. The server does not cache, and does not order overlapping
// requests: they run side by side, as the protocol allows.
package nbd
