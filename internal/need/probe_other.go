//go:build !linux

package need

// probeNetns knows only Linux.
func probeNetns() *absence {
	return &absence{reason: "network namespaces are a feature of Linux", remedy: "run the tests on Linux"}
}
