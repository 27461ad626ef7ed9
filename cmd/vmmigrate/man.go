package main

import (
	"fmt"
	"os"
	"regexp"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newManCmd writes the man pages; packagers call it, so it is hidden.
func newManCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages into a directory",
		Hidden: true,
		Args:   rangeArgs(1, 1, "a directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			indentMore(root)
			header := &doc.GenManHeader{Title: "VMMIGRATE", Section: "1", Source: "vmmigrate " + buildVersion(), Manual: "vmmigrate"}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("write the man pages: %w", err)
			}
			return nil
		},
	}
}

var indented = regexp.MustCompile(`(?m)^  (\S)`)

// indentMore makes of what help texts indent, by two columns, what Markdown takes for code: else its lines are filled.
func indentMore(cmd *cobra.Command) {
	cmd.Long = indented.ReplaceAllString(cmd.Long, "    $1")
	for _, c := range cmd.Commands() {
		indentMore(c)
	}
}
