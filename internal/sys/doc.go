// Package sys is the one package with raw system calls and unsafe: each call typed, each with its errors explained.
//
//	InNetns        runs a function in another network namespace, on a thread that is thrown away afterwards
//	OpenInRoot     opens a file as a process with another root directory would see it
//	PeerOf         tells which process listens behind a connected unix socket
//	ProbeUserfault tells whether this process may open a userfaultfd: present, absent or could not tell
//
// Nothing here keeps state. What a function opens it closes, unless it returns it; then the caller closes. A probe
// tries the real call and gives back what it got at once. On systems other than Linux every function fails with
// ErrNotLinux, so that the packages above still build.
package sys
