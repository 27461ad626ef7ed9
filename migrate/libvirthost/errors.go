package libvirthost

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// kindError is a cause together with the sentinel that says what kind it is. Its text is the cause's.
type kindError struct {
	kind, err error
}

func (e *kindError) Error() string {
	if errors.Is(e.kind, migrate.ErrLinkLost) {
		return e.kind.Error() + ": " + e.err.Error()
	}
	return e.err.Error()
}

// Unwrap gives both the kind and the cause.
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

func kind(k, err error) error {
	if err == nil || errors.Is(err, k) {
		return err
	}
	return &kindError{k, err}
}

// link marks err as a lost connection.
func link(err error) error {
	if err == nil {
		err = errors.New("no reason is known")
	}
	return kind(migrate.ErrLinkLost, err)
}

// classify gives what go-libvirt returned the sentinel that callers look for.
func classify(err error) error {
	var le libvirt.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &le):
		return classifyCode(libvirt.ErrorNumber(le.Code), err)
	case errors.Is(err, libvirt.ErrUnsupported):
		return kind(migrate.ErrNotSupported, err)
	case errors.Is(err, libvirt.ErrInterrupted), errors.Is(err, syscall.EINVAL):
		return link(err)
	}
	return err
}

func classifyCode(code libvirt.ErrorNumber, err error) error {
	switch code {
	case libvirt.ErrNoDomain:
		return kind(migrate.ErrNoDomain, err)
	case libvirt.ErrNoSupport, libvirt.ErrOperationUnsupported, libvirt.ErrArgumentUnsupported, libvirt.ErrConfigUnsupported:
		return kind(migrate.ErrNotSupported, err)
	case libvirt.ErrOperationTimeout, libvirt.ErrResourceBusy:
		return kind(migrate.ErrBusy, err)
	case libvirt.ErrOperationAborted:
		return kind(migrate.ErrCancelled, err)
	case libvirt.ErrOperationInvalid:
		// libvirt has no number for these. Nothing that keeps a guest safe hangs on the words.
		if says(err, "migration job is already running", "migration is still running") {
			return kind(migrate.ErrBusy, err)
		}
	}
	return err
}

// says tells whether libvirt's English text holds one of some phrases.
func says(err error, phrases ...string) bool {
	for _, p := range phrases {
		if strings.Contains(err.Error(), p) {
			return true
		}
	}
	return false
}

// code is libvirt's number of err, or ErrOk if it is not one of libvirt's.
func code(err error) libvirt.ErrorNumber {
	var le libvirt.Error
	if errors.As(err, &le) {
		return libvirt.ErrorNumber(le.Code)
	}
	return libvirt.ErrOk
}

// fixFor is what a user can do about an error of a phase; "" where nothing is known.
func fixFor(err error) string {
	switch code(err) {
	case libvirt.ErrMigrateUnsafe:
		return "share the disks between the hosts, or move them too (--copy-storage-all), or use --unsafe if you know they are coherent"
	case libvirt.ErrCPUIncompatible:
		return "give the guest a CPU model that both hosts have (virsh hypervisor-cpu-baseline finds one)"
	case libvirt.ErrDomExist:
		return "remove or rename the domain of the same name or UUID at the destination"
	case libvirt.ErrAccessDenied, libvirt.ErrAuthFailed, libvirt.ErrOperationDenied:
		return "run as root, or allow this user to manage domains on that host"
	}
	if fix := diskFix(err); fix != "" {
		return fix
	}
	switch {
	case says(err, "already exists with uuid", "is already active as", "already exists"):
		return "remove or rename the domain of the same name or UUID at the destination, or give this one another name there"
	case says(err, "migration is still running"):
		return "wait until QEMU has noticed that the link is broken, then recover again"
	case errors.Is(err, migrate.ErrBusy):
		return "wait for the job that holds the domain, or end it (virsh domjobinfo, virsh domjobabort)"
	case errors.Is(err, migrate.ErrLinkLost):
		return "ask both hosts for the guest's state before anything else"
	}
	return ""
}

// stepFail wraps the error of a step of a migration.
func stepFail(op string, side migrate.Side, err error) error {
	if err == nil {
		return nil
	}
	return migrate.Fail(op, side, err, fixFor(err))
}

// lookFail wraps the error of a query.
func lookFail(op string, args []any, err error) error {
	return migrate.Fail(fmt.Sprintf(op, args...), "", err, "")
}
