// SPDX-License-Identifier: Apache-2.0

package main

// Signals that the starter has blocked or ignored would stay so in every program of the container: the Go
// runtime gives its children the mask that it was started with. So the mask is emptied before the runtime
// begins, in this process and in the engine and init, which are this program too.

/*
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// The C library keeps signals 32 and 33 for itself, and so out of sigaction(3)'s reach.
static void kernelDefault(int sig)
{
	char action[64]; // struct sigaction of the kernel: all zero is SIG_DFL

	memset(action, 0, sizeof action);
	syscall(SYS_rt_sigaction, sig, action, NULL, 8);
}

static void __attribute__((constructor)) defaultSignals(void)
{
	sigset_t none;
	struct sigaction now;

	for (int sig = 1; sig < NSIG; sig++)
		if (sigaction(sig, NULL, &now) == 0 && now.sa_handler == SIG_IGN)
			signal(sig, SIG_DFL);
	kernelDefault(32);
	kernelDefault(33);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}
*/
import "C"
