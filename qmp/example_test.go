package qmp_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/qmp/qmptest"
)

// A migration is followed by its events, from a subscription that was there before
// it began.
func Example() {
	ctx := context.Background()
	conn := qmptest.Start(new(testing.T), // the test's own in real life
		qmptest.Negotiate("oob"),
		qmptest.Expect("migrate").Args(map[string]string{"uri": "tcp:b:4444"}).
			Event("MIGRATION", map[string]string{"status": "setup"}).Return(nil),
		qmptest.Event("MIGRATION", map[string]string{"status": "active"}),
		qmptest.Event("STOP", nil),
		qmptest.Event("MIGRATION", map[string]string{"status": "completed"}),
	)
	client, err := qmp.NewClient(ctx, conn)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = client.Close() }()
	events, err := client.Subscribe(qmp.SubscribeOptions{Names: []string{qmp.EventMigration}})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := qmp.Migrate(ctx, client, qmp.MigrateArgs{URI: "tcp:b:4444"}); err != nil {
		fmt.Println(err)
		return
	}
	_, err = events.Wait(ctx, func(e qmp.Event) bool {
		status, _ := e.MigrationStatus()
		fmt.Println(status)
		return status.Ended()
	})
	fmt.Println(err)
	// Output:
	// setup
	// active
	// completed
	// <nil>
}

// QEMU's refusal has a class, by which a command that this QEMU lacks is told from
// one that failed.
func ExampleIsCommandNotFound() {
	conn := qmptest.Start(new(testing.T), qmptest.Negotiate(),
		qmptest.Expect("migrate-recover").Fail(qmp.ClassCommandNotFound, "The command migrate-recover has not been found"))
	client, err := qmp.NewClient(context.Background(), conn)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = client.Close() }()
	err = qmp.MigrateRecover(context.Background(), client, "tcp:0:0")
	fmt.Println(qmp.IsCommandNotFound(err), err)
	// Output: true qmp: migrate-recover: CommandNotFound: The command migrate-recover has not been found
}
