/*
 * launch: carries out the script of a process that is being born.
 *
 *     launch SCRIPT CGROUP PIDNS FLAGS REPORT [GIVEN...]
 *
 * All but FLAGS are descriptors, "-" for none. It enters the PID namespace, makes
 * one child in it and in the v2 cgroup, as a child of its own parent, and exits. The
 * child's pid is in the script's head before the child runs, so that nobody is born
 * unknown; if there is none, the errno and which call it is of. The child maps the
 * script (runtime/linux/script.py), a list of system calls that ends with execve,
 * and makes them one after the other. The first one that fails, and is not
 * forgiven, is reported to REPORT by its number and its errno.
 *
 * Of the descriptors that are open the child has REPORT and GIVEN alone, all of them
 * above the standard streams and close-on-exec, and 0, 1 and 2 as they are.
 *
 * A script may also wait, until it is sent another one, and end by having a child born
 * that carries that out (BEAR): so a blank pod waits for its name (runtime/pause.py).
 *
 * What is decided is decided in the script. One thing is done here: making a path
 * below a root in which links dangle (the rules: runtime/rootfs/resolve.py).
 *
 * Freestanding: no C library, no heap. A child copies these few pages instead of a
 * python, and has nothing of the monitor's in its memory. Build:
 *
 *     gcc -static -nostdlib -ffreestanding -Os -o runtime/launch runtime/launch.c
 */

#include <asm/unistd.h>

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

#define MAGIC 0x31736372
#define FIRST_OF_OURS 1000
#define NOWHERE 0xffffffffu
#define UNREAD 0xffffffffu /* no call of the script, but what comes before it */

enum {
	JUMP = FIRST_OF_OURS, IF_SAME, IF_DIFFERENT, EXPECT, SET, STORE, RELOCATE, COMPOSE, CLOSE, LIMIT_BOUNDING,
	FAIL, MAKE_DIRECTORY, MAKE_FILE, MAKE_EXACT, BEAR
};
enum { PLAIN, SLOT, POINTER, LOADED };

/* Beyond any errno: refusals of our own. */
enum { LEADS_OUT = 5001, IS_DIRECTORY, NO_PLACE, UNEXPECTED };

struct head {
	u32 magic, size;
	int born, failed;
	u32 calls, count, slots, given;
};

struct call {
	u32 number, kinds, to, jump;
	u64 forgiven; /* errnos */
	u64 args[6];
};

struct text {
	char at[8192];
	u32 length;
};

#define ENOENT 2
#define EINTR 4
#define EBADF 9
#define EAGAIN 11
#define EEXIST 17
#define ENOTDIR 20
#define EINVAL 22
#define ENAMETOOLONG 36
#define ELOOP 40
#define E2BIG 7
#define EPERM 1
#define ENOSYS 38

#define AT_FDCWD -100
#define O_WRONLY 1
#define O_CREAT 0100
#define O_EXCL 0200
#define O_CLOEXEC 02000000
#define O_PATH 010000000
#if defined(__aarch64__)
#define O_DIRECTORY 040000
#define O_NOFOLLOW 0100000
#else
#define O_DIRECTORY 0200000
#define O_NOFOLLOW 0400000
#endif
#define NO_MAGICLINKS 2
#define NO_SYMLINKS 4
#define BENEATH 8
#define IN_ROOT 16
#define PROC_SUPER_MAGIC 0x9fa0
#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_SHARED 1
#define MAP_PRIVATE 2
#define MAP_POPULATE 0x8000
#define CLOSE_RANGE_CLOEXEC 4
#define F_DUPFD_CLOEXEC 1030
#define SEEK_END 2
#define PR_SET_DUMPABLE 4
#define PR_CAPBSET_DROP 24
#define MSG_NOSIGNAL 0x4000
#define CLONE_VFORK 0x4000
#define CLONE_PARENT 0x8000
#define CLONE_PARENT_SETTID 0x100000
#define CLONE_NEWPID 0x20000000
#define CLONE_INTO_CGROUP 0x200000000UL
#define SIGCHLD 17
#define MAX_LINKS 40
#define RACES 128
#define MAX_GIVEN 64

static long call6(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
#else
#error "launch knows x86_64 and aarch64"
#endif
}

#define call1(number, a) call6(number, (long)(a), 0, 0, 0, 0, 0)
#define call2(number, a, b) call6(number, (long)(a), (long)(b), 0, 0, 0, 0)
#define call3(number, a, b, c) call6(number, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define call4(number, a, b, c, d) call6(number, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

static void leave(int code)
{
	for (;;)
		call1(__NR_exit_group, code);
}

static int number_of(const char *text)
{
	int number = 0;

	if (*text == '-')
		return -1;
	for (; *text; text++)
		number = number * 10 + (*text - '0');
	return number;
}

/* ------------------------------------------------------------ failing */

static int report;

/* Whoever wrote the script has the words for call number "at" of it. */
static void fail(u32 at, long error)
{
	u32 failure[3] = {MAGIC, at, error};

	call6(__NR_sendto, report, (long)failure, sizeof(failure), MSG_NOSIGNAL, 0, 0);
	leave(127);
}

/* ------------------------------------------------------------ paths below a root */

static long open_under(int at, const char *path, u64 flags, u64 resolve)
{
	u64 how[3] = {flags | O_CLOEXEC, 0, resolve};
	long fd = -EAGAIN;
	int tries;

	for (tries = 0; tries < RACES && (fd == -EAGAIN || fd == -EINTR); tries++)
		fd = call4(__NR_openat2, at, *path ? path : ".", how, sizeof(how));
	return fd;
}

static int is_dots(const char *name, u32 length)
{
	return length == 2 && name[0] == '.' && name[1] == '.';
}

/* Append the components of path: no empty ones, no ".", one slash between two. */
static int append(struct text *to, const char *path)
{
	while (*path) {
		u32 length = 0, i;

		while (*path == '/')
			path++;
		while (path[length] && path[length] != '/')
			length++;
		if (length && !(length == 1 && *path == '.')) {
			if (to->length + length + 2 > sizeof(to->at))
				return 0;
			if (to->length)
				to->at[to->length++] = '/';
			for (i = 0; i < length; i++)
				to->at[to->length++] = path[i];
		}
		path += length;
	}
	to->at[to->length] = 0;
	return 1;
}

/* Where the link name points; its length, 0 when there is none. One of procfs has no text to follow. */
static long link_of(int directory, const char *name, char *target, long room)
{
	u64 statfs[32];
	long length = call2(__NR_fstatfs, directory, statfs);

	if (length < 0)
		return length;
	if ((u32)statfs[0] == PROC_SUPER_MAGIC)
		return 0;
	length = call4(__NR_readlinkat, directory, name, target, room - 1);
	if (length == -ENOENT || length == -EINVAL)
		return 0;
	if (length >= 0)
		target[length] = 0;
	return length;
}

/* path[from:to] is a link to target: what the whole path is then. */
static int substitute(struct text *path, u32 from, u32 to, const char *target)
{
	static struct text made;
	u32 i;

	made.length = 0;
	path->at[from ? from - 1 : 0] = 0;
	if (*target != '/' && from && !append(&made, path->at))
		return 0;
	if (!append(&made, target) || !append(&made, path->at + to))
		return 0;
	for (i = 0; i <= made.length; i++)
		path->at[i] = made.at[i];
	path->length = made.length;
	return 1;
}

static u32 end_of(const struct text *path, u32 from)
{
	while (from < path->length && path->at[from] != '/')
		from++;
	return from;
}

/* Make and open what path has from "from" on, one by one; no link, no "..". Closes at. */
static long make_below(int at, struct text *path, u32 from, int mode)
{
	while (from < path->length) {
		u32 end = end_of(path, from);
		char *name = path->at + from;
		long fd;

		path->at[end] = 0;
		fd = is_dots(name, end - from) ? -LEADS_OUT : open_under(at, name, O_PATH | O_DIRECTORY, BENEATH | NO_SYMLINKS);
		if (fd == -ENOENT) {
			fd = call3(__NR_mkdirat, at, name, mode);
			if (fd == 0 || fd == -EEXIST) /* somebody else may be faster */
				fd = open_under(at, name, O_PATH | O_DIRECTORY, BENEATH | NO_SYMLINKS);
		}
		if (end < path->length)
			path->at[end] = '/';
		call1(__NR_close, at);
		if (fd < 0)
			return fd;
		at = fd;
		from = end + 1;
	}
	return at;
}

static long make_directory(int root, struct text *path, int mode)
{
	static char target[4096];
	int links;

	for (links = 0; links <= MAX_LINKS; links++) {
		u32 end = path->length, next;
		long fd, length;

		for (;;) { /* the deepest directory that there is */
			char kept = path->at[end];

			path->at[end] = 0;
			fd = open_under(root, path->at, O_PATH | O_DIRECTORY, IN_ROOT | NO_MAGICLINKS);
			path->at[end] = kept;
			if (fd != -ENOENT || !end)
				break;
			while (end && path->at[--end] != '/')
				;
		}
		if (fd < 0 || end == path->length)
			return fd;
		if (end)
			end++;
		next = end_of(path, end);
		path->at[next] = 0;
		length = link_of(fd, path->at + end, target, sizeof(target));
		if (next < path->length)
			path->at[next] = '/';
		if (length == 0)
			return make_below(fd, path, end, mode);
		call1(__NR_close, fd);
		if (length < 0)
			return length;
		if (!substitute(path, end, next, target))
			return -ENAMETOOLONG;
	}
	return -ELOOP;
}

/* An O_PATH descriptor of a file is never one of a directory. */
static long no_directory(long fd)
{
	u8 stat[256];
	long error = call6(__NR_statx, fd, (long)"", 0x1000, 1, (long)stat, 0);

	if (error == 0 && (*(unsigned short *)(stat + 28) & 0170000) != 0040000)
		return fd;
	call1(__NR_close, fd);
	return error ? error : -IS_DIRECTORY;
}

/* "x/" or "x/.": no file is made there, nor would the kernel find one. */
static int names_directory(const char *target, long length)
{
	if (target[length - 1] == '.')
		length--;
	return length && target[length - 1] == '/';
}

static long make_file(int root, struct text *path, int mode)
{
	static char target[4096];
	static struct text parent;
	int links;

	for (links = 0; links <= MAX_LINKS; links++) {
		u32 name = path->length;
		long at, fd, length;

		while (name && path->at[name - 1] != '/')
			name--;
		if (!path->length || is_dots(path->at + name, path->length - name))
			return -IS_DIRECTORY;
		parent.length = 0;
		parent.at[0] = 0;
		if (name) {
			path->at[name - 1] = 0;
			if (!append(&parent, path->at))
				return -ENAMETOOLONG;
			path->at[name - 1] = '/';
		}
		at = make_directory(root, &parent, 0755);
		if (at < 0)
			return at;
		fd = open_under(root, path->at, O_PATH, IN_ROOT | NO_MAGICLINKS);
		if (fd == -ENOENT)
			fd = call4(__NR_openat, at, path->at + name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
		length = fd == -EEXIST ? link_of(at, path->at + name, target, sizeof(target)) : 0;
		call1(__NR_close, at);
		if (fd >= 0)
			return no_directory(fd);
		if (fd != -EEXIST)
			return fd;
		if (length < 0)
			return length;
		if (length && names_directory(target, length))
			return -IS_DIRECTORY;
		if (length && !substitute(path, name, path->length, target))
			return -ENAMETOOLONG;
		/* else it has just been made by somebody else: look again */
	}
	return -ELOOP;
}

/* A directory that is no link, nor lies behind one. */
static long make_exact(int root, struct text *path, int mode)
{
	u32 from, end;
	long fd;

	for (from = 0; from < path->length; from = end + 1) {
		end = end_of(path, from);
		if (is_dots(path->at + from, end - from))
			return -NO_PLACE;
	}
	if (!path->length)
		return -NO_PLACE;
	fd = open_under(root, ".", O_PATH | O_DIRECTORY, BENEATH | NO_SYMLINKS);
	return fd < 0 ? fd : make_below(fd, path, 0, mode);
}

static long make(u32 kind, int root, const char *asked, int mode)
{
	static struct text path;

	path.length = 0;
	if (!append(&path, asked))
		return -ENAMETOOLONG;
	if (kind == MAKE_DIRECTORY)
		return make_directory(root, &path, mode);
	return kind == MAKE_FILE ? make_file(root, &path, mode) : make_exact(root, &path, mode);
}

/* ------------------------------------------------------------ the script */

static u64 loaded(const u8 *at)
{
	u64 value = 0;
	int n;

	for (n = 7; n >= 0; n--)
		value = value << 8 | at[n];
	return value;
}

/* Offsets become addresses; 0 stays the NULL at the end of a vector. */
static void relocate(u64 *words, long count, const u8 *base)
{
	for (; count > 0; count--, words++)
		if (*words)
			*words += (u64)base;
}

/* Copy from, with the decimal value of slot n where it has "\1n;". */
static long compose(char *to, long room, const char *from, const long *slots)
{
	const char *end = to + room - 12;

	for (; *from; from++) {
		if (to >= end)
			return -E2BIG;
		if (*from == 1) {
			char digits[12];
			int slot = 0, n = 0;
			u32 value;

			for (from++; *from != ';'; from++)
				slot = slot * 10 + (*from - '0');
			value = slots[slot];
			do
				digits[n++] = '0' + value % 10;
			while (value /= 10);
			while (n)
				*to++ = digits[--n];
		} else {
			*to++ = *from;
		}
	}
	*to = 0;
	return 0;
}

static void close_all(const long *fds, u32 kinds)
{
	for (; kinds & 15; kinds >>= 4)
		call1(__NR_close, *fds++);
}

/* Drop every capability that is not in keep; EINVAL is for what is beyond the kernel's last one. */
static long limit_bounding(u64 keep)
{
	int n;

	for (n = 0; n < 64; n++) {
		long error = keep >> n & 1 ? 0 : call6(__NR_prctl, PR_CAPBSET_DROP, n, 0, 0, 0, 0);

		if (error == -EINVAL)
			break;
		if (error < 0)
			return error;
	}
	return 0;
}

/* ANY: what no bit stands for, too, but no refusal of our own. */
static int is_forgiven(u64 forgiven, long error)
{
	return error < 64 ? forgiven >> error & 1 : forgiven == ~0UL && error < 4096;
}

static void be_born(int script, u64 flags, int cgroup, const long *given, u32 count);

/* Have another one born, which is given the rest of the arguments, and end once it has executed or ended. */
static void bear_another(const long *a, u32 kinds)
{
	u32 count = 0;

	while (count < 4 && kinds >> 4 * (2 + count) & 15)
		count++;
	be_born(a[0], CLONE_VFORK, a[1], a + 2, count);
}

static void carry_out(const u8 *base, const struct call *calls, u32 count, long *slots)
{
	u32 at = 0;

	while (at < count) {
		const struct call *now = calls + at++;
		long a[6], result = 0;
		int n;

		for (n = 0; n < 6; n++) {
			u64 given = now->args[n];

			switch (now->kinds >> (4 * n) & 15) {
			case PLAIN: a[n] = given; break;
			case SLOT: a[n] = slots[given]; break;
			case POINTER: a[n] = (long)(base + given); break;
			default: a[n] = loaded(base + given);
			}
		}
		switch (now->number) {
		case JUMP: at = now->jump; continue;
		case IF_SAME: if ((a[0] & a[1]) == a[2]) at = now->jump; continue;
		case IF_DIFFERENT: if ((a[0] & a[1]) != a[2]) at = now->jump; continue;
		case EXPECT: if ((a[0] & a[1]) != a[2]) fail(at - 1, UNEXPECTED); continue;
		case SET: slots[now->to] = a[0]; continue;
		case STORE: *(u64 *)a[0] = a[1]; continue;
		case RELOCATE: relocate((u64 *)a[0], a[1], base); continue;
		case COMPOSE: result = compose((char *)a[0], a[1], (const char *)a[2], slots); break;
		case CLOSE: close_all(a, now->kinds); continue;
		case LIMIT_BOUNDING: result = limit_bounding(a[0]); break;
		case BEAR: bear_another(a, now->kinds); continue;
		case FAIL: fail(a[1] ? a[1] : at - 1, a[0] < 0 ? -a[0] : a[0]); continue;
		case MAKE_DIRECTORY:
		case MAKE_FILE:
		case MAKE_EXACT: result = make(now->number, a[0], (const char *)a[1], a[2]); break;
		case __NR_openat2:
			result = -EAGAIN; /* a rename elsewhere disturbed it */
			for (n = 0; n < RACES && (result == -EAGAIN || result == -EINTR); n++)
				result = call4(__NR_openat2, a[0], a[1], a[2], a[3]);
			break;
		default: result = call6(now->number, a[0], a[1], a[2], a[3], a[4], a[5]);
		}
		if (now->to != NOWHERE)
			slots[now->to] = result;
		if (result < 0) {
			if (!is_forgiven(now->forgiven, -result))
				fail(at - 1, -result);
			if (now->jump)
				at = now->jump;
		}
	}
}

/* Above the standard streams, which a script replaces. */
static long above_streams(long fd)
{
	if (fd < 3)
		fd = call3(__NR_fcntl, fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		fail(UNREAD, -fd);
	return fd;
}

/* Close all others above the standard streams; what is kept is for the script alone. */
static void keep_only(const long *kept, u32 count)
{
	u32 from = 3, next, n;

	for (;;) {
		next = ~0u;
		for (n = 0; n < count; n++)
			if (kept[n] >= from && kept[n] < next)
				next = kept[n];
		if (next > from)
			call3(__NR_close_range, from, next - 1, 0);
		if (next == ~0u)
			break;
		from = next + 1;
	}
	call3(__NR_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
}

static void follow(int script, const long *given, u32 count)
{
	struct head head;
	long *slots, mapped;
	u8 *base;
	u32 n;

	if (call4(__NR_pread64, script, &head, sizeof(head), 0) != sizeof(head) || head.magic != MAGIC)
		fail(UNREAD, EINVAL);
	if (call3(__NR_lseek, script, 0, SEEK_END) != head.size) /* what is cut off could not even be reported */
		fail(UNREAD, EINVAL);
	mapped = call6(__NR_mmap, 0, head.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_POPULATE, script, 0);
	if (mapped < 0)
		fail(UNREAD, -mapped);
	call1(__NR_close, script);
	base = (u8 *)mapped;
	slots = (long *)(base + head.slots);
	for (n = 0; n < head.given; n++) {
		if (n >= count)
			fail(UNREAD, EBADF);
		slots[n] = above_streams(given[n]);
	}
	report = slots[0];
	keep_only(slots, head.given);
	carry_out(base, (const struct call *)(base + head.calls), head.count, slots);
	leave(0);
}

/* ------------------------------------------------------------ the birth */

static void join(int cgroup)
{
	long file = call4(__NR_openat, cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC, 0);

	if (file >= 0) {
		long written = call3(__NR_write, file, "0", 1);

		call1(__NR_close, file);
		file = written;
	}
	if (file < 0)
		fail(UNREAD, -file);
}

/* The pid of the child, 0 in it; *joined tells whether it is in the cgroup already. */
static long bear(u64 flags, int cgroup, int *pid, int *joined)
{
	u64 arguments[11] = {0};
	long born;

	flags |= CLONE_PARENT | CLONE_PARENT_SETTID;
	arguments[0] = flags | (cgroup < 0 ? 0 : CLONE_INTO_CGROUP);
	arguments[3] = (u64)pid;
	arguments[10] = cgroup < 0 ? 0 : cgroup;
	*joined = 1;
	born = call2(__NR_clone3, arguments, sizeof(arguments));
	if (born == -ENOSYS || born == -EPERM || born == -EINVAL || born == -E2BIG) {
		*joined = cgroup < 0;
		born = call3(__NR_clone, flags | SIGCHLD, 0, pid);
	}
	return born;
}

/* There is no child: why, and which call it was. */
static void stay_alone(int script, int call, long error)
{
	int born[2] = {call, error};

	call4(__NR_pwrite64, script, born, sizeof(born), 8);
	leave(1);
}

/* A child that follows the script, which ends this process; there, the first of given is the report. */
static void be_born(int script, u64 flags, int cgroup, const long *given, u32 count)
{
	int joined;
	long result = call6(__NR_mmap, 0, sizeof(struct head), PROT_READ | PROT_WRITE, MAP_SHARED, script, 0);

	if (result < 0)
		stay_alone(script, -2, -result);
	result = bear(flags, cgroup, &((struct head *)result)->born, &joined);
	if (result < 0)
		stay_alone(script, 0, -result);
	if (result > 0)
		leave(0);
	report = given[0];
	if (!joined)
		join(cgroup);
	follow(script, given, count);
}

static void begin(long argc, char **argv)
{
	int script, pids, n;
	u64 all = ~0UL;
	long given[MAX_GIVEN], result;

	if (argc < 6 || argc - 5 > MAX_GIVEN)
		leave(126);
	call4(__NR_rt_sigprocmask, 2, &all, 0, 8); /* none is due before the script says so */
	call2(__NR_prctl, PR_SET_DUMPABLE, 0); /* the child is so from its first moment among others */
	for (n = 1; n <= 64; n++) { /* what is ignored would stay so in the program */
		u64 action[4] = {0};

		call4(__NR_rt_sigaction, n, action, 0, 8);
	}
	script = number_of(argv[1]);
	pids = number_of(argv[3]);
	for (n = 5; n < argc; n++)
		given[n - 5] = number_of(argv[n]);
	result = pids < 0 ? 0 : call2(__NR_setns, pids, CLONE_NEWPID);
	if (result < 0)
		stay_alone(script, -1, -result);
	be_born(script, (u32)number_of(argv[4]), number_of(argv[2]), given, argc - 5);
}

__attribute__((used)) static void begin_with(long *stack)
{
	begin(stack[0], (char **)(stack + 1));
	leave(126);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin_with\n\thlt\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x0, sp\n\tbl begin_with\n\tbrk #1\n");
#endif
