package main

import "github.com/spf13/cobra"

// commands are all subcommands in the order of --help.
func commands(g *globals) []*cobra.Command {
	return []*cobra.Command{
		newCheckCmd(g), newPlanCmd(g), newMigrateCmd(g), newStatusCmd(g), newWatchCmd(g), newHurryCmd(g), newCancelCmd(g), newRecoverCmd(g),
		newHistoryCmd(g), newAnalyzeCmd(g), newSimulateCmd(g), newExportCmd(g), newBenchCmd(g), newAgentCmd(g), newKeptCmd(g), newLabCmd(g), newVersionCmd(g), newManCmd(),
		newCoordinateCmd(g),
	}
}
