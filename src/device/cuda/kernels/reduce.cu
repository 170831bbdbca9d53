/*
 * reduce.cu - reductions, softmax and the place of the largest element: results of many elements each.
 *
 * A block has one or more results; the threads of a result each go through every parts-th element, in order, and a tree
 * joins what they found. So the order of a sum depends on the kernel's arguments alone. Long lines test for being
 * abandoned on the way: nothing is stored before every element has been seen.
 */
#define REEF_PAD_STATICS 6144
#include "device/cuda/kernels/walk.cuh"

enum { KIND_SUM, KIND_MEAN, KIND_MAX, KIND_MIN, KIND_PROD, KIND_L1, KIND_L2, KIND_SUM_SQUARE, KIND_LOG_SUM_EXP };
enum { REDUCE_GROUP = 4 /* elements of a thread that are read at once */ };
enum { SOFTMAX_GROUP = 4 };
enum { TEST_EVERY = 256 /* elements of a thread between two looks at the lease: a few microseconds */ };

/* Elements first, first + step, ... below count, cut into stretches with a test before each but the first. Every thread
 * of the block makes the same number of stretches. Returns false from the surrounding function when abandoned. */
#define STRETCHES(count, parts, from, to)                                                                              \
    for (int64_t from = 0, to; from < (count) && (to = min((count), from + (int64_t)TEST_EVERY * (parts)), true);      \
         from = to)                                                                                                    \
        if (Abandon::on && from && __syncthreads_or(abandon.now())) {                                                  \
            return false;                                                                                              \
        } else

/* The largest so far and the sum of e^(x - largest); an empty one has sum 0. */
struct scaled {
    float top, sum;
};
static __device__ __forceinline__ scaled join_scaled(scaled a, scaled b)
{
    if (a.sum == 0 || b.sum == 0) {
        return a.sum == 0 ? b : a;
    }
    const float top = fmaxf(a.top, b.top);
    scaled r;
    r.top = top;
    r.sum = (a.top == top ? a.sum : a.sum * expf(a.top - top)) + (b.top == top ? b.sum : b.sum * expf(b.top - top));
    return r;
}
static __device__ __forceinline__ scaled add_scaled(scaled s, float v)
{
    scaled one;
    one.top = v, one.sum = 1;
    return join_scaled(s, one);
}

template <class T>
static __device__ __forceinline__ T neutral(int kind)
{
    if constexpr (sizeof(T) == 4) {
        return kind == KIND_MAX ? -INFINITY : kind == KIND_MIN ? INFINITY : kind == KIND_PROD ? 1.0f : 0.0f;
    } else {
        return kind == KIND_MAX ? INT64_MIN : kind == KIND_MIN ? INT64_MAX : kind == KIND_PROD ? 1 : 0;
    }
}
template <class T>
static __device__ __forceinline__ T mapped(int kind, T v)
{
    return kind == KIND_L1 ? (v < 0 ? -v : v) : kind == KIND_L2 || kind == KIND_SUM_SQUARE ? v * v : v;
}
template <class T>
static __device__ __forceinline__ T joined(int kind, T a, T b)
{
    switch (kind) {
    case KIND_MAX: return b > a || b != b ? b : a;
    case KIND_MIN: return b < a || b != b ? b : a;
    case KIND_PROD: return a * b;
    default: return a + b;
    }
}

struct reduce_kernel {
    using args = reef_cuda_reduce_args;
    static constexpr int threads = 256;

    static __device__ __forceinline__ void store(const args &a, int64_t at, float v, int64_t count)
    {
        v = a.kind == KIND_MEAN ? v / (float)count : a.kind == KIND_L2 ? sqrtf(v) : v;
        reef_store_elem(a.y, at, a.y_type, v);
    }
    static __device__ __forceinline__ void store(const args &a, int64_t at, int64_t v, int64_t count)
    {
        v = a.kind == KIND_MEAN ? (count ? v / count : 0) : a.kind == KIND_L2 ? (int64_t)sqrt((double)v) : v;
        ((int64_t *)a.y)[at] = v;
    }

    /* T: the sum's type, E: the elements'. */
    template <class T, class E, class Abandon>
    static __device__ __forceinline__ bool run(const args &a, uint32_t index, T *shared, Abandon &abandon)
    {
        const block_share s = share_block(a.lanes_log2, a.along);
        const int64_t lane = ((int64_t)index << a.lanes_log2) + s.lane, count = a.reduced.total;
        const bool mine = lane < a.kept.total;
        int64_t off[2] = {0, 0};
        if (mine) {
            walk_at<2>(a.kept, lane, off);
        }
        const E *const x = (const E *)a.x + off[1];
        const bool sums = sizeof(T) == 4 && a.kind != KIND_MAX && a.kind != KIND_MIN && a.kind != KIND_PROD;
        T v = neutral<T>(a.kind), lost = 0; /* lost: what the sum's rounding left out */
        abandon.wait();
        STRETCHES(count, s.parts, from, to)
        {
            for (int64_t i = from + s.part; mine && i < to; i += REDUCE_GROUP * s.parts) {
                E e[REDUCE_GROUP];
#pragma unroll
                for (int g = 0; g < REDUCE_GROUP; g++) { /* all on their way before the first is used */
                    int64_t at[1];
                    if (i + g * s.parts < to) {
                        walk_at<1>(a.reduced, i + g * s.parts, at);
                        e[g] = x[at[0]];
                    }
                }
#pragma unroll
                for (int g = 0; g < REDUCE_GROUP; g++) {
                    if (i + g * s.parts >= to) {
                        break;
                    }
                    const T m = mapped<T>(a.kind, (T)e[g]);
                    if (sums) {
                        const T more = m - lost, sum = v + more;
                        const T next = (sum - v) - more;
                        lost = next == next ? next : 0; /* infinities leave no rest */
                        v = sum;
                    } else {
                        v = joined<T>(a.kind, v, m);
                    }
                }
            }
        }
        v = join_parts(s, v, shared, [&](T p, T q) { return joined<T>(a.kind, p, q); });
        if (!abandon.commit()) {
            return false;
        }
        if (mine && s.part == 0) {
            store(a, off[0], v, count);
        }
        return true;
    }

    template <class Abandon>
    static __device__ __forceinline__ bool run_exp(const args &a, uint32_t index, scaled *shared, Abandon &abandon)
    {
        const block_share s = share_block(a.lanes_log2, a.along);
        const int64_t lane = ((int64_t)index << a.lanes_log2) + s.lane, count = a.reduced.total;
        const bool mine = lane < a.kept.total;
        int64_t off[2] = {0, 0};
        if (mine) {
            walk_at<2>(a.kept, lane, off);
        }
        scaled v;
        v.top = -INFINITY, v.sum = 0;
        STRETCHES(count, s.parts, from, to)
        {
            for (int64_t i = from + s.part; mine && i < to; i += s.parts) {
                int64_t x[1];
                walk_at<1>(a.reduced, i, x);
                v = add_scaled(v, reef_load_elem(a.x, off[1] + x[0], a.x_type));
            }
        }
        v = join_parts(s, v, shared, join_scaled);
        if (!abandon.commit()) {
            return false;
        }
        if (mine && s.part == 0) {
            reef_store_elem(a.y, off[0], a.y_type, v.top + logf(v.sum));
        }
        return true;
    }

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_SHARED(shared, uint64_t[threads]);
        if (a.kind == KIND_LOG_SUM_EXP) {
            abandon.wait();
            return run_exp(a, index, (scaled *)shared, abandon);
        }
        return a.x_type == REEF_ELEM_F16   ? run<float, __half>(a, index, (float *)shared, abandon)
               : a.x_type == REEF_ELEM_F32 ? run<float, float>(a, index, (float *)shared, abandon)
                                           : run<int64_t, int64_t>(a, index, (int64_t *)shared, abandon);
    }
};

struct softmax_kernel {
    using args = reef_cuda_softmax_args;
    static constexpr int threads = 256;

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_SHARED(shared, scaled[threads]);
        const block_share s = share_block(a.lanes_log2, a.along);
        const int64_t lane = ((int64_t)index << a.lanes_log2) + s.lane;
        const bool mine = lane < a.kept.total;
        int64_t off[2] = {0, 0};
        if (mine) {
            walk_at<2>(a.kept, lane, off);
        }
        abandon.wait();
        scaled v;
        v.top = -INFINITY, v.sum = 0;
        STRETCHES(a.length, s.parts, from, to)
        {
            for (int64_t i = from + s.part; mine && i < to; i += SOFTMAX_GROUP * s.parts) {
                float e[SOFTMAX_GROUP], top = v.top;
#pragma unroll
                for (int g = 0; g < SOFTMAX_GROUP; g++) {
                    const int64_t at = i + g * s.parts;
                    e[g] = at < to ? reef_load_elem(a.x, off[1] + at * a.x_stride, a.x_type) : -INFINITY;
                }
#pragma unroll
                for (int g = 0; g < SOFTMAX_GROUP; g++) {
                    top = fmaxf(top, e[g]);
                }
                v.sum = v.top == top ? v.sum : v.sum * expf(v.top - top);
                v.top = top;
#pragma unroll
                for (int g = 0; g < SOFTMAX_GROUP; g++) {
                    if (i + g * s.parts < to) {
                        v.sum += e[g] == top ? 1.0f : expf(e[g] - top);
                    }
                }
            }
        }
        v = join_parts(s, v, shared, join_scaled);
        if (!abandon.commit()) {
            return false;
        }
        const float factor = a.log ? logf(v.sum) : 1.0f / v.sum;
        for (int64_t i = s.part; mine && i < a.length; i += s.parts) {
            const float e = reef_load_elem(a.x, off[1] + i * a.x_stride, a.x_type) - v.top;
            reef_store_elem(a.y, off[0] + i * a.y_stride, a.y_type, a.log ? e - factor : expf(e) * factor);
        }
        return true;
    }
};

/* The first (or last) of the largest; a NaN counts only in front, where nothing beats it. */
template <class T>
struct best {
    T value;
    int64_t at; /* -1: none yet */
};

struct arg_max_kernel {
    using args = reef_cuda_arg_max_args;
    static constexpr int threads = 256;

    template <class T>
    static __device__ __forceinline__ best<T> join(const args &a, best<T> p, best<T> q)
    {
        if (p.at < 0 || q.at < 0) {
            return p.at < 0 ? q : p;
        }
        if (p.value == q.value) {
            return (p.at < q.at) != (a.select_last != 0) ? p : q;
        }
        return (a.min ? p.value < q.value : p.value > q.value) ? p : q;
    }
    static __device__ __forceinline__ float element(const args &a, int64_t at, float)
    {
        return reef_load_elem(a.x, at, a.x_type);
    }
    static __device__ __forceinline__ int64_t element(const args &a, int64_t at, int64_t)
    {
        return ((const int64_t *)a.x)[at];
    }

    template <class T, class Abandon>
    static __device__ __forceinline__ bool run(const args &a, uint32_t index, best<T> *shared, Abandon &abandon)
    {
        const block_share s = share_block(a.lanes_log2, a.along);
        const int64_t lane = ((int64_t)index << a.lanes_log2) + s.lane;
        const bool mine = lane < a.kept.total;
        int64_t off[2] = {0, 0};
        if (mine) {
            walk_at<2>(a.kept, lane, off);
        }
        best<T> v;
        v.value = 0, v.at = -1;
        STRETCHES(a.length, s.parts, from, to)
        {
            for (int64_t i = from + s.part; mine && i < to; i += s.parts) {
                best<T> one;
                one.value = element(a, off[1] + i * a.x_stride, T());
                one.at = one.value == one.value ? i : -1;
                v = join(a, v, one);
            }
        }
        v = join_parts(s, v, shared, [&](best<T> p, best<T> q) { return join(a, p, q); });
        if (!abandon.commit()) {
            return false;
        }
        if (mine && s.part == 0) {
            const T first = element(a, off[1], T());
            a.y[off[0]] = first != first || v.at < 0 ? 0 : v.at;
        }
        return true;
    }

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_SHARED(shared, best<int64_t>[threads]);
        abandon.wait();
        return a.x_type <= REEF_ELEM_F16 ? run<float>(a, index, (best<float> *)shared, abandon)
                                         : run<int64_t>(a, index, shared, abandon);
    }
};

REEF_KERNEL(reef_reduce, reduce_kernel)
REEF_KERNEL(reef_softmax, softmax_kernel)
REEF_KERNEL(reef_arg_max, arg_max_kernel)
