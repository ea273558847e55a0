// SPDX-License-Identifier: Apache-2.0

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pid1.h"

enum { ANSWERS = 4 };

// fail says what went wrong, and why, in one line, and ends.
__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
	const char *why = strerror(errno);
	char what[2048];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof what, format, args);
	va_end(args);
	for (char *c = what; *c; c++)
		if (*c == '\n')
			*c = ' ';
	dprintf(ANSWERS, "%s: %s\n", what, why);
	_exit(1);
}

static void loopbackUp(void) // netdevice(7)
{
	struct ifreq r = { .ifr_name = "lo" };
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (s < 0 || ioctl(s, SIOCGIFFLAGS, &r) < 0)
		fail("set the loopback device up");
	r.ifr_flags |= IFF_UP;
	if (ioctl(s, SIOCSIFFLAGS, &r) < 0)
		fail("set the loopback device up");
	close(s);
}

// set sets a sysctl. What is below /proc/sys shows the namespaces of who opens it.
static void set(const char *name, const char *value)
{
	char path[PATH_MAX];
	int length = snprintf(path, sizeof path, "/proc/sys/%s", name);

	if (length >= (int)sizeof path) {
		errno = ENAMETOOLONG;
		fail("sysctl %.100s", name);
	}
	for (char *c = path + strlen("/proc/sys/"); *c; c++)
		if (*c == '.')
			*c = '/';
	int f = open(path, O_WRONLY | O_CLOEXEC);
	if (f < 0)
		fail("sysctl %s=%s: %s", name, value, path);
	// The kernel takes a list in pieces. An empty value is a write of nothing.
	for (size_t size = strlen(value), done = 0;;) {
		errno = EIO;
		ssize_t n = write(f, value + done, size - done);
		if (n < 0 || (n == 0 && size > 0))
			fail("sysctl %s=%s: %s", name, value, path);
		done += n;
		if (done == size)
			break;
	}
	close(f);
}

static void mountOrFail(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
	if (mount(source, target, type, flags, data) < 0)
		fail("the root of the pod's first process: mount %s", target);
}

// becomeRest makes this process the first one of its PID namespace. A container that may trace processes sees its root and its
// program: so the root is empty, and the program a read-only mount.
static void becomeRest(void)
{
	const char *root = "/sys", *program = "/sys/init"; // a directory that is everywhere, for every user; nothing of it is needed
	char name[PATH_MAX], self[64];
	ssize_t length = readlink("/proc/self/exe", name, sizeof name - 1);

	// By its path: only what is on a mount of this namespace can be bound. Opened, as the new root may lie over the path.
	if (length < 0)
		fail("read /proc/self/exe");
	name[length] = 0;
	int fd = open(name, O_PATH | O_CLOEXEC);
	if (fd < 0)
		fail("open %s", name);
	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	mountOrFail("", "/", "", MS_REC | MS_PRIVATE, "");
	mountOrFail("none", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=4k,nr_inodes=4,mode=755");
	int made = open(program, O_CREAT | O_RDONLY | O_CLOEXEC, 0555);
	if (made < 0)
		fail("make %s", program);
	close(made);
	mountOrFail(self, program, "", MS_BIND, "");
	mountOrFail("", program, "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, "");
	mountOrFail("", root, "", MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, "");
	// Both the same: the old root lies over the new one until it is detached.
	if (chdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		fail("enter the root of the pod's first process");
	// The supervisor waits for the end of this pipe: while a process becomes another program, /proc may show no namespaces of it.
	fcntl(ANSWERS, F_SETFD, FD_CLOEXEC);
	dprintf(ANSWERS, "ok\n");
	for (int f = 0; f < 3; f++)
		fcntl(f, F_SETFD, FD_CLOEXEC);
	execve("/init", (char *[]){ "ctr-shim", "pid1", "rest", NULL }, (char *[]){ NULL });
	fail("become the first process");
}

void pin(int argc, char **argv)
{
	if (strchr(argv[0], 'n'))
		loopbackUp();
	if (*argv[1] && sethostname(argv[1], strlen(argv[1])) < 0)
		fail("set the hostname \"%s\"", argv[1]);
	for (int i = 2; i + 1 < argc; i += 2)
		set(argv[i], argv[i + 1]);
	if (strchr(argv[0], 'p'))
		becomeRest();
	dprintf(ANSWERS, "ok\n");
}
