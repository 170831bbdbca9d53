/*
 * walk.cuh - the device half of walks (misc_args.h), vectors of elements, and reductions within a block.
 *
 * Short tiles: a tile that takes a few microseconds is all epilogue. It waits for its predecessor and then computes and
 * stores as it goes; the lease was read just before, when the tile was claimed. Only tiles that can be long (one result
 * of many elements, spinning) test for being abandoned, and those store nothing until they are through.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_WALK_CUH
#define REEF_DEVICE_CUDA_KERNELS_WALK_CUH

#include "device/cuda/kernels/device.cuh"
#include "device/cuda/kernels/misc_args.h"

static __device__ __forceinline__ uint32_t walk_div(uint32_t n, const reef_cuda_div &by)
{
    return (__umulhi(n, by.mul) + n) >> by.shift;
}

/* Offsets of item `at`, which is below total. */
template <int OPS, class Walk>
static __device__ __forceinline__ void walk_at(const Walk &w, int64_t at, int64_t (&off)[OPS])
{
#pragma unroll
    for (int o = 0; o < OPS; o++) {
        off[o] = 0;
    }
    if (w.wide) {
        for (int i = w.rank - 1; i > 0; i--) {
            int64_t up = at / w.dims[i], c = at - up * w.dims[i];
            at = up;
#pragma unroll
            for (int o = 0; o < OPS; o++) {
                off[o] += c * w.stride[o][i];
            }
        }
    } else {
        uint32_t rest = (uint32_t)at;
        for (int i = w.rank - 1; i > 0; i--) {
            uint32_t up = walk_div(rest, w.div[i]), c = rest - up * w.div[i].d;
            rest = up;
#pragma unroll
            for (int o = 0; o < OPS; o++) {
                off[o] += (int64_t)c * w.stride[o][i];
            }
        }
        at = rest;
    }
#pragma unroll
    for (int o = 0; o < OPS; o++) {
        off[o] += at * w.stride[o][0];
    }
}

/* Coordinates of item `at` of a walk of four dimensions that were not merged. */
template <class Walk>
static __device__ __forceinline__ void walk_coords(const Walk &w, int64_t at, int64_t (&c)[4])
{
    if (w.wide) {
#pragma unroll
        for (int i = 3; i > 0; i--) {
            int64_t up = at / w.dims[i];
            c[i] = at - up * w.dims[i];
            at = up;
        }
        c[0] = at;
    } else {
        uint32_t rest = (uint32_t)at;
#pragma unroll
        for (int i = 3; i > 0; i--) {
            uint32_t up = walk_div(rest, w.div[i]);
            c[i] = rest - up * w.div[i].d;
            rest = up;
        }
        c[0] = rest;
    }
}

/*
 * This thread's items of the tile. The body waits for the predecessor when it has worked out its addresses, so that this
 * is done by then; waiting again costs nothing. Behind the loop the tile waits once more, for threads without items.
 */
#define WALK_ITEMS(args, index, item)                                                                                  \
    for (int64_t item = (int64_t)(index) * (args).per_tile + threadIdx.x,                                              \
                 item##_end = min((int64_t)((index) + 1) * (int64_t)(args).per_tile, (args).walk.total);               \
         item < item##_end; item += REEF_THREADS)

/* ------------------------------------------------------------ vectors -- */

/* V elements of T as floats; 16-byte accesses where a vector is that long. The address is aligned to min(16, size). */
template <int V>
static __device__ __forceinline__ void load_f32(const float *p, float (&v)[V])
{
    if constexpr (V % 4 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            float4 q = *(const float4 *)(p + i);
            v[i] = q.x, v[i + 1] = q.y, v[i + 2] = q.z, v[i + 3] = q.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) {
            v[i] = p[i];
        }
    }
}
template <int V>
static __device__ __forceinline__ void load_f16(const __half *p, float (&v)[V])
{
    if constexpr (V == 8 || V == 4) {
        uint32_t raw[V / 2];
        if constexpr (V == 8) {
            uint4 q = *(const uint4 *)p;
            raw[0] = q.x, raw[1] = q.y, raw[2] = q.z, raw[3] = q.w;
        } else {
            uint2 q = *(const uint2 *)p;
            raw[0] = q.x, raw[1] = q.y;
        }
#pragma unroll
        for (int i = 0; i < V / 2; i++) {
            float2 f = __half22float2(*(const __half2 *)&raw[i]);
            v[2 * i] = f.x, v[2 * i + 1] = f.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) {
            v[i] = __half2float(p[i]);
        }
    }
}
template <int V>
static __device__ __forceinline__ void load_vector(const void *p, int64_t at, int type, float (&v)[V])
{
    if (type == REEF_ELEM_F16) {
        load_f16<V>((const __half *)p + at, v);
    } else {
        load_f32<V>((const float *)p + at, v);
    }
}
/* The same, not yet converted. */
template <class T, int V>
struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) pack {
    T e[V];
};
template <int V>
static __device__ __forceinline__ void store_vector(void *p, int64_t at, int type, const float (&v)[V])
{
    if (type == REEF_ELEM_F16) {
        __half *to = (__half *)p + at;
        if constexpr (V == 8 || V == 4) {
            uint32_t raw[V / 2];
#pragma unroll
            for (int i = 0; i < V / 2; i++) {
                __half2 h = __floats2half2_rn(v[2 * i], v[2 * i + 1]);
                raw[i] = *(const uint32_t *)&h;
            }
            if constexpr (V == 8) {
                *(uint4 *)to = make_uint4(raw[0], raw[1], raw[2], raw[3]);
            } else {
                *(uint2 *)to = make_uint2(raw[0], raw[1]);
            }
        } else {
#pragma unroll
            for (int i = 0; i < V; i++) {
                to[i] = __float2half_rn(v[i]);
            }
        }
    } else {
        float *to = (float *)p + at;
        if constexpr (V % 4 == 0) {
#pragma unroll
            for (int i = 0; i < V; i += 4) {
                *(float4 *)(to + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
            }
        } else {
#pragma unroll
            for (int i = 0; i < V; i++) {
                to[i] = v[i];
            }
        }
    }
}

/* NaN stays NaN, as plan.h has it. */
static __device__ __forceinline__ float elt_act(float x, int act, float a, float b)
{
    switch (act) {
    case REEF_DACT_NONE: return x;
    case REEF_DACT_RELU: return x < 0 ? 0.0f : x;
    case REEF_DACT_CLIP: return x < a ? a : x > b ? b : x;
    default: return reef_act_rare(x, act, a, b);
    }
}

/* One element of any type, unconverted, in the low bits. */
static __device__ __forceinline__ uint64_t load_raw(const void *p, int64_t at, unsigned bytes)
{
    switch (bytes) {
    case 1: return ((const uint8_t *)p)[at];
    case 2: return ((const uint16_t *)p)[at];
    case 4: return ((const uint32_t *)p)[at];
    default: return ((const uint64_t *)p)[at];
    }
}
static __device__ __forceinline__ void store_raw(void *p, int64_t at, unsigned bytes, uint64_t v)
{
    switch (bytes) {
    case 1: ((uint8_t *)p)[at] = (uint8_t)v; break;
    case 2: ((uint16_t *)p)[at] = (uint16_t)v; break;
    case 4: ((uint32_t *)p)[at] = (uint32_t)v; break;
    default: ((uint64_t *)p)[at] = v; break;
    }
}
static __device__ __forceinline__ unsigned elem_bytes(int type)
{
    return type == 0 ? 4 : type == 1 ? 2 : type == 2 ? 8 : type == 3 ? 4 : type == 6 ? 8 : 1;
}
/* An element of x_type as an element of y_type: the same, or between f32 and f16. */
static __device__ __forceinline__ uint64_t convert_raw(uint64_t v, int x_type, int y_type)
{
    if (x_type == y_type) {
        return v;
    }
    if (y_type == REEF_ELEM_F16) {
        return __half_as_ushort(__float2half_rn(__uint_as_float((uint32_t)v)));
    }
    return __float_as_uint(__half2float(__ushort_as_half((unsigned short)v)));
}

/* --------------------------------------------------- sharing a block -- */

/* Which of the block's results this thread works on, and as which of how many. */
struct block_share {
    uint32_t lane, part, parts;
    uint32_t next; /* distance in threads between parts */
};
static __device__ __forceinline__ block_share share_block(uint32_t lanes_log2, uint32_t along)
{
    block_share s;
    s.parts = REEF_THREADS >> lanes_log2;
    if (along) {
        s.lane = threadIdx.x / s.parts, s.part = threadIdx.x & (s.parts - 1), s.next = 1;
    } else {
        s.lane = threadIdx.x & ((1u << lanes_log2) - 1), s.part = threadIdx.x >> lanes_log2, s.next = 1u << lanes_log2;
    }
    return s;
}
template <class T>
static __device__ __forceinline__ T shuffle_xor(T v, int mask)
{
    static_assert(sizeof(T) % 4 == 0, "goes by words");
    union {
        T whole;
        uint32_t word[sizeof(T) / 4];
    } u;
    u.whole = v;
#pragma unroll
    for (unsigned i = 0; i < sizeof(T) / 4; i++) {
        u.word[i] = __shfl_xor_sync(0xffffffffu, u.word[i], mask);
    }
    return u.whole;
}
/* Joins the parts' values by a tree, always the same one; every part gets the result. shared: one T per thread. */
template <class T, class Join>
static __device__ __forceinline__ T join_parts(const block_share &s, T v, T *shared, Join join)
{
    if (s.next == 1 && s.parts <= 32) { /* within a warp */
        for (uint32_t half = s.parts / 2; half > 0; half /= 2) {
            v = join(v, shuffle_xor(v, (int)half));
        }
        return v;
    }
    shared[threadIdx.x] = v;
    __syncthreads();
    for (uint32_t half = s.parts / 2; half > 0; half /= 2) {
        if (s.part < half) {
            v = join(v, shared[threadIdx.x + half * s.next]);
            shared[threadIdx.x] = v;
        }
        __syncthreads();
    }
    v = shared[threadIdx.x - s.part * s.next];
    __syncthreads();
    return v;
}

#endif
