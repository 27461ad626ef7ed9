// Package nbdtest has what every NBD backend is tested with.
//
//	nbdtest.Conformance(t, func(t *testing.T) backend.Backend { … })
//
// runs the suite: by itself and behind a server with a client, the backend has to keep what is written to it, whatever is
// written, zeroed and trimmed, side by side too; and each optional interface that it has must tell the truth: a hole reads as
// zero, a view shows what a read reads, extents leave no gap.
//
// The suite owns the server, the client and their goroutines, which have ended when it returns. The backend belongs to the
// function that makes it, which closes it by t.Cleanup. The seed is printed, and taken from VMMIGRATE_SEED if that is set.
//
// It does not test durability, nor dirty bitmaps, which are the trackers' to prove.
package nbdtest
