package need

import (
	"fmt"
	"slices"
	"strings"
)

// feature is the name of something a machine may lack, as it is spelt in
// VMMIGRATE_REQUIRE.
type feature string

const (
	featureQEMU    feature = "qemu"
	featureLibvirt feature = "libvirt"
	featureNetns   feature = "netns"
	featureUFFD    feature = "uffd"
	featureKVM     feature = "kvm"
	featureNBD     feature = "nbd"
	featureGuest   feature = "guest"
)

// features lists every name that VMMIGRATE_REQUIRE may hold.
func features() []feature {
	return []feature{featureUFFD, featureNetns, featureQEMU, featureLibvirt, featureKVM, featureNBD, featureGuest}
}

// absence says that a feature is missing. A nil *absence means it is there.
type absence struct {
	// reason is what was found to be missing.
	reason string
	// remedy is what the reader can do about it.
	remedy string
}

// verdict is what becomes of the test. Its zero value is none of them.
type verdict int

const (
	verdictRun verdict = iota + 1
	verdictSkip
	verdictFail
)

// decide turns what was found and what was required into a verdict, with the
// text that explains it when the test does not run.
func decide(f feature, lack *absence, required string) (verdict, string) {
	names := split(required)
	for _, n := range names {
		if !slices.Contains(features(), n) {
			return verdictFail, fmt.Sprintf("%s names %q, which is not a feature; the names are %s",
				RequireEnv, n, join(features()))
		}
	}
	if lack == nil {
		return verdictRun, ""
	}
	if slices.Contains(names, f) {
		return verdictFail, fmt.Sprintf("%s is required by %s but absent: %s; remedy: %s",
			f, RequireEnv, lack.reason, lack.remedy)
	}
	return verdictSkip, fmt.Sprintf("needs %s: %s; remedy: %s (%s=%s turns this skip into a failure)",
		f, lack.reason, lack.remedy, RequireEnv, f)
}

// split reads a comma-separated list and leaves out spaces and empty items.
func split(list string) []feature {
	var out []feature
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, feature(item))
		}
	}
	return out
}

// join is the opposite of split.
func join(fs []feature) string {
	names := make([]string, len(fs))
	for i, f := range fs {
		names[i] = string(f)
	}
	return strings.Join(names, ",")
}
