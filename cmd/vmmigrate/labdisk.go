package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/testenv"
)

func newLabMountCmd(l *lab) *cobra.Command {
	return &cobra.Command{
		Use:     "mount HOST DIR SIZE",
		Short:   "Give a host a file system that is soon full",
		Long:    `Mount a file system of that SIZE on a folder that nobody but the host sees.`,
		Example: `  vmmigrate lab mount b /srv/small 64MiB`,
		Args:    rangeArgs(3, 3, "HOST, DIR and SIZE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := testenv.ParseSize(args[2])
			if err != nil {
				return usageError{err}
			}
			h, err := l.host(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return h.MountSmall(cmd.Context(), args[1], size)
		},
	}
}

func newLabBreakCmd(l *lab) *cobra.Command {
	return &cobra.Command{
		Use:   "break NAME DISK OFFSET",
		Short: "Make one place of a guest's disk unreadable",
		Long: `Make the guest's QEMU fail to read the DISK (vda, vdb …) at that OFFSET from its
beginning, until "lab mend". The image has to be qcow2 with data there, and the
guest needs a monitor of its own (--monitor, or shared backing).`,
		Example: `  vmmigrate lab break web vda 20MiB`,
		Args:    rangeArgs(3, 3, "NAME, DISK and OFFSET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := testenv.ParseSize(args[2])
			if err != nil {
				return usageError{fmt.Errorf("OFFSET: %w", err)}
			}
			return l.withGuest(cmd.Context(), args[0], func(g *testenv.Guest, h *testenv.Host) error {
				return g.BreakDisk(cmd.Context(), h, args[1], at)
			})
		},
	}
}

func newLabMendCmd(l *lab) *cobra.Command {
	return &cobra.Command{
		Use:   "mend NAME DISK",
		Short: `Undo "lab break"`,
		Args:  rangeArgs(2, 2, "NAME and DISK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return l.withGuest(cmd.Context(), args[0], func(g *testenv.Guest, h *testenv.Host) error {
				return g.MendDisk(cmd.Context(), h, args[1])
			})
		},
	}
}

// withGuest finds a guest and the host that runs it.
func (l *lab) withGuest(ctx context.Context, name string, do func(*testenv.Guest, *testenv.Host) error) error {
	g, err := l.guest(ctx, name)
	if err != nil {
		return err
	}
	h, err := g.Host(ctx)
	if err != nil {
		return err
	}
	return do(g, h)
}
