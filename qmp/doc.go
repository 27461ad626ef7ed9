// Package qmp talks to QEMU over its machine protocol, QMP.
package qmp
