// Package arch holds the shape of the repository to what its design says: which
// package may import which, where unsafe code may stand, what has to be documented,
// and how long things may grow. Its test runs over the whole module and names each offender with the
// reason of the rule and what to do about it.
//
//	cmd ──> migrate/engine ──> migrate, precopy, postcopy,        ──> migrate/nbd,     ──> migrate/ram ──> internal/sys
//	  │         │              migrate/libvirthost, /qemuhost,        migrate/storage,
//	  │         │              migrate/agent                          qmp
//	  └────┬────┘
//	       └──> migrate/journal, migrate/check ──> migrate
//
//	analysis   imports none of the others; cmd and migrate/engine may import it
//	testenv    is imported by tests and cmd only
//
// The arrows are the table in rules.go, one row for each package or folder, each
// with its reason. A package without a row is an error, so that a new one is
// placed on purpose. Tests may import more than the package they test: the lab,
// internal/need, and packages made for tests, whose names end in "test". Yet
// precopy and postcopy stay apart in tests too.
//
// Load parses a tree of files (any fs.FS, the package's own tests use trees made
// of strings) and Check returns what is wrong with it. Nothing is executed, no
// file is changed, and build constraints are not evaluated: a rule holds on every
// platform. The package does not judge what code does; it reads names, imports
// and lengths.
package arch
