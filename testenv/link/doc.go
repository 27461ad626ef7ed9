// Package link says what a network link of the lab is like, and makes a slow or
// lossy one.
//
// A [Spec] is the whole description: rate, delay, loss. Its text form is the one
// that the command line takes:
//
//	RATE[,delay=D][,loss=P][,seed=N]     1gbit   100mbit,delay=10ms   1gbit,loss=0.1%
//
// The rate is the kernel's work (tbf, a token bucket, on both directions). Delay
// and loss are ours, since not every kernel has netem: a [Forwarder] reads frames
// from one device, holds them for the delay, drops some, and writes them to the
// other:
//
//	host's veth ══ tbf ══ wire end ── Forwarder ── tap ── bridge of the lab
//	                                  (delay, loss on what the host sends)
//
// Delay and loss apply to what the host sends, so between two hosts whose links
// both say delay=D a round trip takes 2D.
//
// A Forwarder owns its goroutines and not its devices: Close stops and joins the
// goroutines, and the caller closes the devices. A frame that is in the queue when
// the Forwarder closes is lost, as on a cable that is pulled. The queue is bounded
// in bytes; what does not fit is dropped, as a switch would. Loss is drawn from a
// seeded generator, so a run can be repeated frame by frame as far as the traffic
// is the same.
//
// The package creates no devices and no namespaces and needs no privilege.
package link
