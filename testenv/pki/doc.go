// Package pki issues the test certificates of the lab: one certificate authority,
// and for each host a server and a client certificate in the places where libvirt
// and QEMU look for them.
//
//	NewCA ──> CA.Issue(Request) ──> Pair ──┐
//	CA.IssueHost(name, addresses) ─────────┴─> Host.Files() ──> path under /etc/pki → content
//
// Everything is kept in memory; the package writes no file. The validity can be
// chosen, so that a test can have a certificate that expired yesterday. Keys are
// ECDSA P-256, since the lab makes several per host each time it comes up.
//
// The certificates are for tests only: the authority's key lies next to what it
// signed, and nothing can be revoked.
package pki
