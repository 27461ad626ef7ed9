// Package libvirthost drives hosts through libvirt.
package libvirthost
