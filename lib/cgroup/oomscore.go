// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Expose makes the kernel end a process, and those that it starts afterwards, rather than the caller when memory is short:
// its oom_score_adj (proc(5)) becomes one more than the caller's.
func Expose(pid int) error {
	const own, most = "/proc/self/oom_score_adj", 1000
	text, err := os.ReadFile(own)
	if err != nil {
		return err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%s: %w", own, err)
	}
	return os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(min(score+1, most))), 0)
}
