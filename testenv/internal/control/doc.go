// Package control carries requests to the daemon of a lab, over a Unix socket in
// the lab's directory that only its owner can reach.
//
// A connection carries one request and one answer, each a line of JSON:
//
//	{"op":"cut","host":"a"}            →
//	                                   ←  {"result":null}  or  {"error":"…"}
//
// A request has at most 64 KiB and an answer at most 16 MiB; what is longer is
// refused and not read. An operation that the daemon does not know is an error
// that lists the ones it does. A client that leaves cancels its request's context.
//
// A Server owns its listener, its connections and the goroutines that serve them;
// Close ends all of them and waits. It hands requests to the handler concurrently.
package control
