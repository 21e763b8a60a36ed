/* webserver PORT TITLE [PIDFILE]: answers every request of HTTP with 200.
 *
 * Stands in for nginx and httpd. It executes itself once more, so that /proc/PID/cmdline shows
 * TITLE while the kernel keeps the file's name as the command's. As PID 1 it would not hear a
 * signal without a handler, so that comes first; "ready" is said once it listens.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 22\r\n"
                             "Connection: close\r\n\r\n<html>it works</html>\n";

static void leave(int number)
{
	(void)number;
	_exit(0);
}

static int fail(const char *what)
{
	perror(what);
	return 1;
}

/* Both versions of IP where the kernel has both. */
static int listen_at(int port)
{
	struct sockaddr_in6 both = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
	int on = 1, off = 0, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
		if (!bind(fd, (struct sockaddr *)&both, sizeof both) && !listen(fd, 128))
			return fd;
		close(fd);
	}
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&four, sizeof four) || listen(fd, 128))
		return -1;
	return fd;
}

/* Another name first: whoever sees the file sees the whole number. */
static int write_pid(const char *path)
{
	char fresh[4096];
	FILE *file;

	snprintf(fresh, sizeof fresh, "%s.new", path);
	file = fopen(fresh, "w");
	if (!file)
		return -1;
	fprintf(file, "%d\n", (int)getpid());
	return fclose(file) || rename(fresh, path) ? -1 : 0;
}

static void serve(int fd)
{
	struct timeval patience = {.tv_sec = 5};
	char request[8192];
	size_t have = 0;
	ssize_t got;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	while (have < sizeof request && (got = read(fd, request + have, sizeof request - have)) > 0) {
		have += (size_t)got;
		if (memmem(request, have, "\r\n\r\n", 4)) {
			if (write(fd, answer, sizeof answer - 1) < 0)
				perror("write");
			break;
		}
	}
	close(fd);
}

int main(int argc, char **argv)
{
	char self[4096] = "";
	int port, fd, client;

	signal(SIGTERM, leave);
	signal(SIGINT, leave);
	signal(SIGQUIT, leave);
	signal(SIGPIPE, SIG_IGN);
	if (argc < 3)
		return 2;
	port = atoi(argv[1]);
	if (strcmp(argv[0], argv[2])) {
		if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
			return fail("readlink");
		argv[0] = argv[2];
		execv(self, argv);
		return fail("execv");
	}
	fd = listen_at(port);
	if (fd < 0)
		return fail("listen");
	if (argc > 3 && write_pid(argv[3]))
		return fail(argv[3]);
	printf("%s: ready at port %d\n", argv[2], port);
	fflush(stdout);
	for (;;) {
		client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
		if (client >= 0)
			serve(client);
	}
}
