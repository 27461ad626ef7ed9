package postcopy_test

import "syscall"

// ownGroup makes a process the head of a group, to which all that forks off belongs.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }
