package check

import (
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// rule looks at the facts and tells what it found. It is pure.
type rule func(Facts) []Finding

// rules lists all of them in the order in which equally grave findings are shown.
func rules() []rule {
	return []rule{
		ruleDomain, ruleJobs, ruleWritesLost, ruleSnapshots, ruleHypervisorBlocks,
		ruleHosts, ruleSameHost, ruleDrivers, ruleVersions, ruleClock,
		ruleNamesake, ruleTwin, ruleDestinationXML,
		ruleMachine, ruleCPU,
		ruleMemory, ruleHugePages,
		ruleDevices, ruleCDROMs,
		ruleDiskTargets, ruleDiskMaps, ruleDisksKept, ruleDisksCopied, ruleDisksInUse,
		ruleLinks,
		ruleName, rulePorts, ruleClear,
		ruleCerts,
		ruleNBD,
		rulePostcopy, ruleRecovery,
		ruleOptions,
	}
}

// Evaluate tells what the facts mean for the migration, gravest first.
func Evaluate(f Facts) []Finding {
	var out []Finding
	for _, r := range rules() {
		out = append(out, r(f)...)
	}
	sortFindings(out)
	return out
}

// one is the result of a rule that found one thing.
func one(id string, sev Severity, side migrate.Side, title, detail, fix string) []Finding {
	return []Finding{{ID: id, Severity: sev, Side: side, Title: title, Detail: detail, Fix: fix}}
}

// untold is a finding about something that could not be ruled out. what completes "could not tell".
func untold(id string, side migrate.Side, what, why, fix string) []Finding {
	return one(id, Unknown, side, "could not tell "+what, why, fix)
}

// unlessUnsafe is a blocker that --unsafe turns into a warning.
func unlessUnsafe(p migrate.Params) Severity {
	if p.Unsafe {
		return Warning
	}
	return Blocker
}

// guestOf is the domain at the source, or nil.
func guestOf(f Facts) *migrate.DomainFacts {
	if !f.Guest.OK {
		return nil
	}
	return f.Guest.Value
}

// thereOf is the guest as it would be at the destination, or nil.
func thereOf(f Facts) *migrate.DomainFacts {
	if guestOf(f) == nil || !f.There.OK {
		return nil
	}
	return &f.There.Value
}

// virsh is a virsh command against one host.
func virsh(uri, format string, args ...any) string {
	return "virsh -c " + shellWord(uri) + " " + fmt.Sprintf(format, args...)
}

// size spells bytes for a person, in the largest binary unit that does not round to below one.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if v == float64(int64(v)) {
		return fmt.Sprintf("%d %ciB", int64(v), units[i])
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}
