/*
 * past_caches.h - writing memory so that nothing of it stays in a processor's cache.
 *
 * Whoever touches memory next that a processor has just written has to ask that processor's cache for each line: a GPU that
 * reads it (on an H200 the 600 KiB of an image took 70 us longer, and not always the same), or another processor that
 * writes it.
 */
#ifndef REEF_BASE_PAST_CACHES_H
#define REEF_BASE_PAST_CACHES_H

#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* `to` is a multiple of 16. */
static inline void reef_copy_past_caches(char *to, const char *from, size_t bytes)
{
    size_t done = 0;
#ifdef __SSE2__
    for (; done + 64 <= bytes; done += 64) {
        const __m128i *words = (const __m128i *)(from + done);
        __m128i *target = (__m128i *)(to + done);
        const __m128i a = _mm_loadu_si128(words), b = _mm_loadu_si128(words + 1);
        const __m128i c = _mm_loadu_si128(words + 2), d = _mm_loadu_si128(words + 3);
        _mm_stream_si128(target, a);
        _mm_stream_si128(target + 1, b);
        _mm_stream_si128(target + 2, c);
        _mm_stream_si128(target + 3, d);
    }
    _mm_sfence();
#endif
    memcpy(to + done, from + done, bytes - done);
}

/* Any address. */
static inline void reef_fill_past_caches(char *to, unsigned char value, size_t bytes)
{
    size_t done = -(uintptr_t)to % 16;
    done = done < bytes ? done : bytes;
    memset(to, value, done);
#ifdef __SSE2__
    const __m128i filled = _mm_set1_epi8((char)value);
    for (; done + 16 <= bytes; done += 16) {
        _mm_stream_si128((__m128i *)(to + done), filled);
    }
    _mm_sfence();
#endif
    memset(to + done, value, bytes - done);
}

#endif
