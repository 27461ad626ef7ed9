// Package layout decides, without touching anything, what a lab looks like: its
// hosts, their names, addresses, device names, host UUIDs and paths, and the files
// that libvirt is given.
//
//	<dir>/                  one lab
//	  state.json            who runs it (package testenv)
//	  control.sock          how to talk to it
//	  lab.log               what its daemon did
//	  ca-cert.pem, ca-key.pem  its certificate authority
//	  <host>/etc            /etc of the host: its own libvirt, pki, hosts; the rest links to the machine's
//	  <host>/run            /run            (run/libvirt/libvirt-sock is the host's URI)
//	  <host>/lib            /var/lib/libvirt
//	  <host>/images         /var/lib/libvirt/images, the pool "default"
//	  <host>/log            /var/log/libvirt
//	  <host>/cache          /var/cache/libvirt
//
// The networks of all labs have the same addresses: each lab has its own network
// namespaces, so that they never meet.
//
//	migration  10.77.0.0/24   host i is 10.77.0.i, device "mig0"
//	guests     10.78.0.0/24   the client is 10.78.0.1, guests from 10.78.0.16
//
// Everything in here is pure; a Plan is a value and may be copied.
package layout
