package libvirthost_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/libvirthost"
)

func ExampleOpen() {
	_, err := libvirthost.Open(context.Background(), "xen:///system", libvirthost.Options{})
	fmt.Println(err)
	fmt.Println(errors.Is(err, migrate.ErrNotSupported))
	// Output:
	// read the URI "xen:///system": driver "xen": not supported; only qemu is
	// true
}
