/*
 * thread.h - ending threads that sleep on a condition.
 */
#ifndef REEF_BASE_THREAD_H
#define REEF_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>

/* Sets *stop under the lock, which guards it where a thread goes to sleep, wakes the n threads that wait for `changed`, and
 * waits for their ends; busy ones may look at *stop without the lock. The caller must not be one of them. */
static inline void reef_threads_stop(const pthread_t *threads, unsigned n, pthread_mutex_t *lock,
                                     pthread_cond_t *changed, _Atomic bool *stop)
{
    pthread_mutex_lock(lock);
    *stop = true;
    pthread_cond_broadcast(changed);
    pthread_mutex_unlock(lock);
    for (unsigned i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
}

#endif
