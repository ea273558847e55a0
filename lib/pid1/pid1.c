// SPDX-License-Identifier: Apache-2.0

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pid1.h"

// Signals that the kernel sends for a fault of this process itself, and those of job control that would stop it.
static const int own[] = { SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP, SIGTTIN, SIGTTOU };

static void say(const char *what, const char *name)
{
	const char *parts[] = { "ctr-init: ", what, " ", name, ": ", strerror(errno), "\n" };
	char line[1024];
	size_t used = 0;

	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		size_t n = strlen(parts[i]);
		if (n > sizeof line - used)
			n = sizeof line - used;
		memcpy(line + used, parts[i], n);
		used += n;
	}
	if (write(2, line, used) < 0)
		return; // nobody is left to be told
}

static void run(char **argv, const sigset_t *mask)
{
	// Without a terminal the second fails, which is fine. SIGTTOU is ignored and blocked here.
	setpgid(0, 0);
	tcsetpgrp(0, getpid());
	signal(SIGTTIN, SIG_DFL);
	signal(SIGTTOU, SIG_DFL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	execvp(argv[0], argv);
	int missing = errno == ENOENT || errno == ENOTDIR;
	say("exec", argv[0]);
	_exit(missing ? 127 : 126);
}

// reap takes the status of all that have ended, and ends with the program's.
static void reap(pid_t program)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == program)
			_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

static void first(char **argv)
{
	sigset_t mask, old;

	sigfillset(&mask);
	for (size_t i = 0; i < sizeof own / sizeof *own; i++)
		sigdelset(&mask, own[i]);
	sigprocmask(SIG_SETMASK, &mask, &old);
	signal(SIGTTIN, SIG_IGN);
	signal(SIGTTOU, SIG_IGN);
	// In a PID namespace that is shared with others it is not process 1, and orphans come to it all the same.
	prctl(PR_SET_CHILD_SUBREAPER, 1);

	pid_t program = fork();
	if (program < 0) {
		say("start", argv[0]);
		_exit(126);
	}
	if (program == 0)
		run(argv, &old);
	for (;;) {
		siginfo_t from;
		int sig = sigwaitinfo(&mask, &from);
		if (sig == SIGCHLD)
			reap(program);
		else if (sig > 0)
			kill(program, sig);
	}
}

// rest lives until the pipe at descriptor 3 closes. It keeps a PID namespace whose other processes are not its children: they
// come to it as orphans, and the kernel reaps them.
static void rest(void)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN, .sa_flags = SA_NOCLDWAIT };
	char byte;
	ssize_t n;

	sigaction(SIGCHLD, &ignore, NULL);
	do
		n = read(3, &byte, 1);
	while (n > 0 || (n < 0 && errno == EINTR));
	_exit(0);
}

__attribute__((constructor)) static void pid1(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "pid1") == 0 && strcmp(argv[2], "rest") == 0)
		rest();
	if (argc > 4 && strcmp(argv[1], "pid1") == 0 && strcmp(argv[2], "pin") == 0) {
		pin(argc - 3, argv + 3);
		rest();
	}
	if (argc > 3 && strcmp(argv[1], "pid1") == 0 && strcmp(argv[2], "--") == 0)
		first(argv + 3);
}
