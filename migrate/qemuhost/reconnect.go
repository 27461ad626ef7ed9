package qemuhost

import "github.com/vmmigrate/vmmigrate/migrate"

var _ migrate.Reconnector = (*Host)(nil)

// TakesNewLink: migrate-recover goes out of band here, which QEMU answers even while its main loop waits for a page.
func (h *Host) TakesNewLink() bool { return true }
