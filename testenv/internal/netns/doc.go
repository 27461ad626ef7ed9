// Package netns runs code and commands inside the namespaces of another process,
// without a helper program.
//
// Namespaces belong to threads. Each call takes a goroutine, locks it to its
// thread, changes the thread, does the work, and then lets the thread die with the
// goroutine: nothing is ever restored, so nothing can be restored wrongly. The
// main thread cannot die, so it is never used.
//
// What was opened inside stays usable outside: a socket belongs to the network
// namespace in which it was created, a child process keeps the namespaces that it
// was started with.
//
// The package holds no state. Namespaces are named by path (/proc/PID/ns/net) or
// by the process that lives in them; whether that process is still the one that
// was meant is for the caller to know.
package netns
