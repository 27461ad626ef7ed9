// Package qmptest is a scripted QEMU for tests: it plays the server side of a QMP
// connection from a list of steps, and fails the test when the client does
// anything else.
//
//	conn := qmptest.Start(t,
//		qmptest.Negotiate("oob"),
//		qmptest.Expect("stop").Event("STOP", nil).Return(nil),
//		qmptest.Expect("migrate").Args(map[string]any{"uri": "tcp:b:4444"}).Fail("GenericError", "no route"),
//		qmptest.Close(),
//	)
//	client, err := qmp.NewClient(ctx, conn)
//
// Start plays over an in-memory pipe and Listen over a unix socket, one script
// for each connection in turn, which also carries descriptors. After
// its script a connection stays open until the client closes it; a command that
// comes then fails the test, unless the last step was Hang or Serve. A test that
// ends with steps not yet played fails too, and says which.
//
// One goroutine plays each connection. It belongs to the test: the test's cleanup
// closes the connection and waits for the goroutine. The package knows nothing of
// what commands mean and imports no QMP client, so that any client can be tested
// with it. Its own failures say which step was at play, what was expected, what
// came, and what was said before.
package qmptest
