/*
 * late.c - threads that are late now and then, for the thread sanitizer.
 *
 * It sees a race only when the two sides meet, and most of what goes wrong between threads needs one of them to be late
 * by as long as another takes to free what it still uses. On an idle machine that never happens; on a busy one, once in a
 * hundred runs. REEF_LATE="5 1000" makes five of a thousand steps up to 1000 us long: before a lock is taken, after it
 * is dropped, around sleeping and waking. Linked with --wrap for each function (Makefile); without the variable nothing
 * is different.
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __real_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex);
long __real_syscall(long number, ...);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex);
long __wrap_syscall(long number, ...);

static struct {
    unsigned per_mille, most_us;
} late;

__attribute__((constructor)) static void read_environment(void)
{
    const char *text = getenv("REEF_LATE");
    char *end = NULL;
    if (text) {
        late.per_mille = (unsigned)strtoul(text, &end, 10);
        late.most_us = (unsigned)strtoul(end, NULL, 10);
    }
}

static void maybe_late(void)
{
    static _Thread_local uint64_t state;
    if (!late.per_mille || !late.most_us) {
        return;
    }
    if (!state) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        state = ((uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15u) ^ (uintptr_t)&state;
        state |= 1;
    }
    state ^= state << 13; /* xorshift: no lock, no memory that threads share */
    state ^= state >> 7;
    state ^= state << 17;
    if ((state >> 20) % 1000 < late.per_mille) {
        const int before = errno;
        nanosleep(&(struct timespec){.tv_nsec = (long)((state >> 33) % late.most_us) * 1000}, NULL);
        errno = before;
    }
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    maybe_late();
    return __real_pthread_mutex_lock(mutex);
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    const int result = __real_pthread_mutex_unlock(mutex);
    maybe_late();
    return result;
}

int __wrap_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    const int result = __real_pthread_cond_wait(condition, mutex);
    maybe_late();
    return result;
}

/* The futexes; base/futex.h gives six arguments at the most. */
long __wrap_syscall(long number, ...)
{
    long argument[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) {
        argument[i] = va_arg(list, long);
    }
    va_end(list);
    if (number == SYS_futex) {
        maybe_late();
    }
    const long result =
        __real_syscall(number, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
    if (number == SYS_futex) {
        maybe_late();
    }
    return result;
}
