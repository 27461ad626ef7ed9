package qmp

import "log/slog"

const (
	// defaultLimit is the largest message accepted unless told otherwise.
	defaultLimit = 64 << 20
	// defaultWindow is how many commands may wait for QEMU at a time. QEMU queues
	// eight and then stops reading, out-of-band commands included, so one less
	// keeps the way free for them.
	defaultWindow = 7
)

// options is what Option functions change.
type options struct {
	limit  int
	window int
	oob    bool
	log    *slog.Logger
}

// Option changes how a Client behaves.
type Option func(*options)

// WithMessageLimit bounds the size of one message from QEMU, in bytes. A larger
// one ends the client with ErrTooLarge. The default is 64 MiB; values below 1
// are ignored.
func WithMessageLimit(bytes int) Option {
	return func(o *options) {
		if bytes > 0 {
			o.limit = bytes
		}
	}
}

// WithWindow bounds how many commands may be with QEMU at a time; further ones
// wait on our side, where their context can still call them back. Out-of-band
// commands have a window of the same size to themselves. The default is 7; more
// than that lets QEMU stop reading, which also holds up out-of-band commands.
// Values below 1 are ignored.
func WithWindow(commands int) Option {
	return func(o *options) {
		if commands > 0 {
			o.window = commands
		}
	}
}

// WithoutOOB does not ask for out-of-band execution even where QEMU offers it.
func WithoutOOB() Option { return func(o *options) { o.oob = false } }

// WithLogger reports what the client discards, and each command at debug level.
// The default is silence.
func WithLogger(log *slog.Logger) Option {
	return func(o *options) {
		if log != nil {
			o.log = log
		}
	}
}

// buildOptions applies opts to the defaults.
func buildOptions(opts []Option) options {
	o := options{limit: defaultLimit, window: defaultWindow, oob: true, log: slog.New(slog.DiscardHandler)}
	for _, apply := range opts {
		apply(&o)
	}
	return o
}
