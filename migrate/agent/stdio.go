package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// pipeConn is a connection over two pipes, or over a socket that was given twice.
type pipeConn struct{ in, out *os.File }

func (c *pipeConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *pipeConn) Write(p []byte) (int, error) { return c.out.Write(p) }

// Close closes both ways.
func (c *pipeConn) Close() error { return errors.Join(c.out.Close(), c.in.Close()) }

func (c *pipeConn) SetDeadline(t time.Time) error {
	return errors.Join(c.in.SetReadDeadline(t), c.out.SetWriteDeadline(t))
}
func (c *pipeConn) SetReadDeadline(t time.Time) error  { return c.in.SetReadDeadline(t) }
func (c *pipeConn) SetWriteDeadline(t time.Time) error { return c.out.SetWriteDeadline(t) }
func (c *pipeConn) LocalAddr() net.Addr                { return stdioAddr{} }
func (c *pipeConn) RemoteAddr() net.Addr               { return stdioAddr{} }

type stdioAddr struct{}

func (stdioAddr) Network() string { return "stdio" }
func (stdioAddr) String() string  { return "stdio" }

// copyPrefix begins the name of a folder with nothing but a copied executable in it.
const copyPrefix = "vmmigrate-agent."

// RemoveExecutable removes the running program's own executable, and its folder, if that was made for a copy: the kernel
// keeps what runs. Nothing is left behind then, however the program ends.
func RemoveExecutable() error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("remove the copied executable: %w", err)
	}
	dir := filepath.Dir(exe)
	if !strings.HasPrefix(filepath.Base(dir), copyPrefix) {
		return fmt.Errorf("%s is no copy that was made for one run", exe)
	}
	return errors.Join(os.Remove(exe), os.Remove(dir))
}
