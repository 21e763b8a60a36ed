/* Prints the numbers from 1 to argv[1], a thousand a second, and exits with argv[2].
 *
 * Ten lines every ten milliseconds by the clock: one that was held up catches up.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct timespec next;
    long number = 0, last = argc == 3 ? atol(argv[1]) : 0;
    char text[512];

    clock_gettime(CLOCK_MONOTONIC, &next);
    while (number < last) {
        size_t used = 0, written = 0;

        for (int i = 0; i < 10 && number < last; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, "%ld\n", ++number);
        while (written < used) {
            ssize_t count = write(STDOUT_FILENO, text + written, used - written);

            if (count < 0 && errno != EINTR)
                return 127;
            written += count < 0 ? 0 : (size_t)count;
        }
        next.tv_nsec += 10 * 1000 * 1000;
        if (next.tv_nsec >= 1000 * 1000 * 1000) {
            next.tv_nsec -= 1000 * 1000 * 1000;
            next.tv_sec++;
        }
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == EINTR)
            ;
    }
    return atoi(argv[2]);
}
