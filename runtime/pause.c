/*
 * pause: the process that keeps a pod's namespaces alive.
 *
 * It waits for signals, reaps what becomes its child (it is PID 1 of a shared PID
 * namespace) and exits on SIGTERM and SIGINT. Freestanding: no C library, no heap,
 * two pages of memory of its own. Build:
 *
 *     gcc -static -nostdlib -ffreestanding -Os -o runtime/pause runtime/pause.c
 *
 * The signals are blocked and waited for, never handled: the kernel drops an
 * unblocked SIGTERM to the PID 1 of a namespace, but queues a blocked one.
 */

#include <asm/unistd.h>

#define SIGINT 2
#define SIGTERM 15
#define SIGCHLD 17
#define SIG_BLOCK 0
#define WNOHANG 1
#define EINTR 4
#define EAGAIN 11
#define BIT(signal) (1UL << ((signal) - 1))

static long call(long number, long a, long b, long c, long d)
{
#if defined(__x86_64__)
	long result;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
#else
#error "pause knows x86_64 and aarch64"
#endif
}

static void leave(int code)
{
	for (;;)
		call(__NR_exit_group, code, 0, 0, 0);
}

void _start(void)
{
	unsigned long signals = BIT(SIGINT) | BIT(SIGTERM) | BIT(SIGCHLD);

	call(__NR_rt_sigprocmask, SIG_BLOCK, (long)&signals, 0, sizeof(signals));
	for (;;) {
		long signal = call(__NR_rt_sigtimedwait, (long)&signals, 0, 0, sizeof(signals));

		if (signal == SIGINT || signal == SIGTERM)
			leave(0);
		/* Also after EINTR: children may have ended before the signals were blocked. */
		while (call(__NR_wait4, -1, 0, WNOHANG, 0) > 0)
			;
		if (signal < 0 && signal != -EINTR && signal != -EAGAIN)
			leave(1); /* a filter that forbids waiting must not make it spin */
	}
}
