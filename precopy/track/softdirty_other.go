//go:build !linux

package track

import "github.com/vmmigrate/vmmigrate/internal/sys"

func openSoftDirty(int, []Region) (watcher, error) { return nil, sys.ErrNotLinux }
