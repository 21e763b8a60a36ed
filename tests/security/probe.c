/* What a container tries that a shell cannot: one verb, what came of it on stdout.
 *
 *   probe call NUMBER ARGUMENT...   a system call; an argument with @ in front is a string,
 *                                   %N is a zeroed buffer of N bytes
 *   probe swap A B SECONDS          exchange two names again and again
 *   probe watch SECONDS             what can be read of other processes in /proc
 *   probe overwrite PATH            hold PATH open, then try to open it for writing by descriptor
 *   probe fds                       the numbers of the open descriptors
 *
 * A result is a number, or the negative errno.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

static long argument(char *text)
{
	if (text[0] == '@')
		return (long)(text + 1);
	if (text[0] == '%')
		return (long)calloc(1, strtoul(text + 1, NULL, 0));
	return strtol(text, NULL, 0);
}

static int call(int count, char **given)
{
	long a[7] = { 0 };
	for (int n = 0; n < count && n < 7; n++)
		a[n] = argument(given[n]);
	long result = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
	printf("%ld\n", result < 0 ? -(long)errno : result);
	return 0;
}

static int swap(const char *a, const char *b, double seconds)
{
	long done = 0;
	for (double end = now() + seconds; now() < end;)
		for (int n = 0; n < 100; n++)
			done += syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 2) == 0; /* RENAME_EXCHANGE */
	printf("%ld\n", done);
	return 0;
}

#define KNOWN 4096
static char *seen[KNOWN];
static int known;

static void tell(const char *what, const char *text)
{
	char line[1024];
	snprintf(line, sizeof(line), "%s %s", what, text);
	for (int n = 0; n < known; n++)
		if (!strcmp(seen[n], line))
			return;
	if (known < KNOWN) {
		seen[known++] = strdup(line);
		puts(line);
	}
}

static void look_at(const char *pid)
{
	char path[512], text[512];
	static const char *const links[] = { "exe", "cwd", "root" };
	static const char *const files[] = { "environ", "maps", "auxv" };
	for (int n = 0; n < 3; n++) {
		snprintf(path, sizeof(path), "/proc/%s/%s", pid, links[n]);
		ssize_t length = readlink(path, text, sizeof(text) - 1);
		if (length > 0) {
			text[length] = 0;
			tell(links[n], text);
		}
	}
	for (int n = 0; n < 3; n++) {
		snprintf(path, sizeof(path), "/proc/%s/%s", pid, files[n]);
		int fd = open(path, O_RDONLY);
		ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
		if (length > 0) {
			text[length] = 0;
			tell(files[n], n == 2 ? "" : text);
		}
		if (fd >= 0)
			close(fd);
	}
	snprintf(path, sizeof(path), "/proc/%s/root/etc/passwd", pid);
	struct stat found;
	if (!stat(path, &found)) {
		snprintf(text, sizeof(text), "%lu:%lu", (unsigned long)found.st_dev, (unsigned long)found.st_ino);
		tell("passwd", text);
	}
	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	DIR *folder = opendir(path);
	for (struct dirent *entry; folder && (entry = readdir(folder));) {
		ssize_t length = readlinkat(dirfd(folder), entry->d_name, text, sizeof(text) - 1);
		if (length > 0) {
			text[length] = 0;
			tell("fd", text);
		}
	}
	if (folder)
		closedir(folder);
}

static int watch(double seconds)
{
	long processes = 0;
	char self[16];
	snprintf(self, sizeof(self), "%d", getpid());
	for (double end = now() + seconds; now() < end;) {
		DIR *proc = opendir("/proc");
		for (struct dirent *entry; (entry = readdir(proc));)
			if (entry->d_name[0] >= '2' && entry->d_name[0] <= '9' + 0 && strcmp(entry->d_name, self)) {
				processes++;
				look_at(entry->d_name);
			} else if (entry->d_name[0] == '1' && entry->d_name[1]) {
				processes++;
				look_at(entry->d_name);
			}
		closedir(proc);
	}
	printf("looks %ld\n", processes);
	return 0;
}

static int overwrite(const char *path)
{
	char again[64];
	int held = open(path, O_RDONLY);
	if (held < 0) {
		printf("%d\n", -errno);
		return 0;
	}
	snprintf(again, sizeof(again), "/proc/self/fd/%d", held);
	/* Truncation is refused by a read-only mount even while the program runs (ETXTBSY comes later). */
	int fd = open(again, O_WRONLY | O_TRUNC);
	printf("%d\n", fd < 0 ? -errno : (int)write(fd, "overwritten", 11));
	return 0;
}

static int fds(void)
{
	for (int fd = 0; fd < 65536; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf("%d\n", fd);
	return 0;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(verb, "call") && argc > 2)
		return call(argc - 2, argv + 2);
	if (!strcmp(verb, "swap") && argc == 5)
		return swap(argv[2], argv[3], atof(argv[4]));
	if (!strcmp(verb, "watch") && argc == 3)
		return watch(atof(argv[2]));
	if (!strcmp(verb, "overwrite") && argc == 3)
		return overwrite(argv[2]);
	if (!strcmp(verb, "fds"))
		return fds();
	return 2;
}
