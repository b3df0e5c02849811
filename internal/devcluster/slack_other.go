//go:build !linux

package devcluster

import "os/exec"

// startWithSlack starts cmd. Only Linux lets a process choose how late its
// timers may be.
func startWithSlack(cmd *exec.Cmd) error { return cmd.Start() }
