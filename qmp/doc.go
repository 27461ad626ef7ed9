// Package qmp talks to QEMU over its machine protocol, QMP: a client for one
// connection, typed commands and events for what migrating a guest needs, and
// adapters from and to go-qemu's qmp.Monitor.
//
//	client, err := qmp.Dial(ctx, "unix", "/run/guest/qmp.sock")
//	…
//	defer client.Close()
//	events, err := client.Subscribe(qmp.SubscribeOptions{Names: []string{qmp.EventMigration}})
//	err = qmp.Migrate(ctx, client, qmp.MigrateArgs{URI: "tcp:b:4444"})
//	last, err := events.Wait(ctx, func(e qmp.Event) bool {
//		status, ok := e.MigrationStatus()
//		return ok && status.Ended()
//	})
//
// # The client
//
//	Execute ──window──> writer ──────────> QEMU
//	   ^                                     │
//	   └── reply, by id ── reader <──────────┘
//	                          └── events ──> one bounded queue per Subscription
//
// Any number of goroutines may have commands under way; each reply finds its
// command by id. The reader never waits for anyone: a slow subscriber loses its
// oldest events and is told how many. What QEMU sent before a reply is in the
// queues when the command returns, so whoever subscribes before a command misses
// none of its events.
//
// At most seven commands are with QEMU at a time, since at eight it stops reading,
// out-of-band commands included; the others wait on our side. A descriptor travels
// alone, since QEMU remembers only the newest.
//
// # Typed commands
//
// They are functions over an Executor, which a Client, a WrappedMonitor and any
// decorator are: qmp.QueryStatus(ctx, x). Enumerations are strings, so that a
// newer QEMU's values pass through. A field that QEMU may leave out is a pointer,
// or a string or slice that is empty; one that it must send and did not is an
// error. Whatever is not typed here runs with Execute. Out-of-band commands run
// out of band where x is able to, and in band elsewhere.
//
// # Who owns what
//
// A Client owns its connection, a reader and a writer goroutine, from NewClient
// until Close, which ends and joins them. Files passed to QEMU stay the caller's.
// A Monitor owns its Client and a WrappedMonitor its monitor; their Close or
// Disconnect ends it and joins their goroutines. A Subscription owns no goroutine.
//
// # Half-failure
//
// QEMU's refusal is an *Error; the connection goes on. A command without an answer
// is a *CallError, whose Sent says whether QEMU may have run it: while it is true,
// ask QEMU before believing either. A context that ends releases its caller alone;
// the command keeps its place until the late reply, which is discarded. Anything
// that is not QMP, or larger than the limit, ends the client: every waiting call
// returns, every subscription closes, and Err says why with a *ProtocolError.
//
// # What it does not do
//
// It does not reconnect, retry or start QEMU; it has no defaults for deadlines:
// without one in its context, a call waits as long as QEMU lives. It takes no
// decision about a migration, and knows nothing of libvirt but what go-qemu's
// monitor does. Package qmptest is the other side, for tests.
package qmp
