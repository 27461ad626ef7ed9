// Package need lets a test say which feature of the machine it cannot do
// without.
//
// A test that needs QEMU starts with
//
//	need.QEMU(t)
//
// Where the feature is present the call returns. Where it is absent the test is
// skipped, with the reason and what to do about it. Where it is absent and named
// in the environment variable VMMIGRATE_REQUIRE, the test fails with the same
// text, so that a machine which promises a feature cannot lose a whole tier of
// tests in silence:
//
//	VMMIGRATE_REQUIRE=uffd,netns,qemu,libvirt,kvm,nbd,guest go test ./...
//
// These are the names. A name that is none of these
// fails every test that asks for anything, since a misspelt requirement would
// otherwise require nothing.
//
//	probe (touches the machine) ──> absence or nil ─┐
//	                                                ├─> decide (pure) ──> run, skip, fail
//	VMMIGRATE_REQUIRE ──────────────────────────────┘
//
// Each probe opens and closes what it needs and leaves nothing behind. Probing
// answers for this moment only and is not cached. The package does not install
// or change anything, and it says nothing about versions: a test that needs a
// particular QEMU command asks QEMU.
package need
