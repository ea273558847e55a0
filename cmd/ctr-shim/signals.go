// SPDX-License-Identifier: Apache-2.0

package main

// Signals that the starter has blocked or ignored would stay so in every program of the container: the Go
// runtime gives its children the mask that it was started with. So the mask is emptied before the runtime
// begins, in this process and in the engine and init, which are this program too.

/*
#include <signal.h>

static void __attribute__((constructor)) defaultSignals(void)
{
	sigset_t none;
	struct sigaction now;

	for (int sig = 1; sig < NSIG; sig++)
		if (sigaction(sig, NULL, &now) == 0 && now.sa_handler == SIG_IGN)
			signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}
*/
import "C"
