// Package storage describes, makes and removes disk images on this host, for a guest's disks that move with it.
//
//	Describe   what is at a path: nothing, a block device, or an image with its layers; its users, the room beside it
//	Sync       writes out what the host's cache holds of images
//	Stage      makes an image under a name of the migration's own, in the folder where it is to be
//	Place      gives it the name that was asked for, if nothing has that name
//	Remove     removes an image that Stage made, by either name, and no other
//	Extents    where an image has data, zeros, or nothing
//
// Between Stage and Place the caller writes down what Stage made (Made). So one that dies at any moment leaves either a file
// whose name says whose it is, or one whose identity is written down, and never one of which nobody knows.
//
// # What an image is
//
// Formats are qcow2 and raw, as qemu-img has them; images are sparse and take room as they are written. A raw file is one
// without a format, so what a guest has written into it could pass for a header: with a format given, nothing is ever
// guessed, and where it has to be guessed, no other file that the header names is opened.
//
// # Paths
//
// They are absolute and in their shortest form. Folders may be reached through symbolic links, as QEMU reaches them; the
// image itself is made by its folder's descriptor, so that nobody can exchange it meanwhile, and a name that is a symbolic
// link is taken. Nothing is made below /dev (but /dev/shm), /proc and /sys: block devices are used if they are there.
//
// # Who owns what
//
// The package keeps no state and starts nothing that outlives a call but qemu-img for its length, which is killed when
// ctx ends.
package storage
