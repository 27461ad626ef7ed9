// Package disks is what an agent does for a guest's disks, on both hosts.
package disks
