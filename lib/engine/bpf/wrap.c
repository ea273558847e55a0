// SPDX-License-Identifier: Apache-2.0

//go:build cgo && seccomp

// The two functions of libseccomp that take time. The linker has what calls them call these here, which call the real ones
// when there is no filter yet (ld(1), --wrap).

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int __real_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int n, const struct scmp_arg_cmp *args);
int __real_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd);

static int memfd = -1;
static char *program; // NULL: it is not known
static size_t length;

// load reads the program that memfd has.
static int load(void)
{
	struct stat st;

	if (fstat(memfd, &st) < 0 || st.st_size == 0)
		return -1;
	char *p = malloc(st.st_size);
	if (!p)
		return -1;
	if (pread(memfd, p, st.st_size, 0) != st.st_size) {
		free(p);
		return -1;
	}
	program = p;
	length = st.st_size;
	return 0;
}

static void done(void)
{
	close(memfd);
	memfd = -1;
}

void ctrd_use_filter(int fd)
{
	memfd = fd;
	if (load() == 0)
		done();
}

int __wrap_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int n, const struct scmp_arg_cmp *args)
{
	return program ? 0 : __real_seccomp_rule_add_array(ctx, action, syscall, n, args);
}

int __wrap_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd)
{
	if (memfd >= 0) {
		int err = __real_seccomp_export_bpf(ctx, memfd);
		if (err == 0 && (fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0 || load() < 0))
			err = -EIO;
		done();
		if (err)
			return err;
	}
	if (!program)
		return __real_seccomp_export_bpf(ctx, fd);
	for (size_t at = 0; at < length;) {
		ssize_t n = write(fd, program + at, length - at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
	}
	return 0;
}
