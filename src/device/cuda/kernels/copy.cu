/*
 * copy.cu - moving elements: runs of them, transposing through shared memory, padding, gathering.
 *
 * None computes; elements of f32 and f16 are converted where x and y differ, all others are moved as they are.
 */
#define REEF_PAD_STATICS 8448
#include "device/cuda/kernels/walk.cuh"

struct copy_kernel {
    using args = reef_cuda_copy_args;
    static constexpr int threads = 256;

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_TURN(abandon);
        WALK_ITEMS(a, index, item)
        {
            int64_t off[2];
            walk_at<2>(a.walk, item, off);
            abandon.wait();
            if (a.unit_bytes == 16) {
                ((uint4 *)a.y)[off[0]] = ((const uint4 *)a.x)[off[1]];
            } else if (a.unit_bytes == 0) { /* from one type to another */
                store_raw(a.y, off[0], elem_bytes(a.y_type),
                          convert_raw(load_raw(a.x, off[1], elem_bytes(a.x_type)), a.x_type, a.y_type));
            } else {
                store_raw(a.y, off[0], a.unit_bytes, load_raw(a.x, off[1], a.unit_bytes));
            }
        }
        abandon.wait();
        return true;
    }
};

struct transpose_kernel {
    using args = reef_cuda_transpose_args;
    static constexpr int threads = 256;
    static constexpr int side = 32, step = threads / side;

    template <class T, class Abandon>
    static __device__ __forceinline__ bool square(const args &a, uint32_t index, T (*shared)[side + 1],
                                                  Abandon &abandon)
    {
        const uint32_t rest = index / a.col_tiles;
        const int64_t row = (int64_t)(rest % a.row_tiles) * side, col = (int64_t)(index - rest * a.col_tiles) * side;
        int64_t off[2];
        walk_at<2>(a.outer, rest / a.row_tiles, off);
        const int inner = threadIdx.x % side, outer = threadIdx.x / side;
        abandon.wait();
#pragma unroll
        for (int i = 0; i < side; i += step) {
            const int64_t r = row + inner, c = col + outer + i;
            if (r < a.rows && c < a.cols) {
                const uint64_t v = load_raw(a.x, off[1] + r * a.x_row + c * a.x_col, elem_bytes(a.x_type));
                shared[outer + i][inner] = (T)convert_raw(v, a.x_type, a.y_type);
            }
        }
        __syncthreads();
        if (!abandon.commit()) {
            return false;
        }
#pragma unroll
        for (int i = 0; i < side; i += step) {
            const int64_t c = col + inner, r = row + outer + i;
            if (r < a.rows && c < a.cols) {
                store_raw(a.y, off[0] + r * a.y_row + c * a.y_col, elem_bytes(a.y_type), shared[inner][outer + i]);
            }
        }
        __syncthreads(); /* a worker's next tile fills the same memory */
        return true;
    }

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_SHARED(shared, uint64_t[side][side + 1]);
        if (elem_bytes(a.y_type) <= 4) {
            return square<uint32_t>(a, index, (uint32_t(*)[side + 1]) shared, abandon);
        }
        return square<uint64_t>(a, index, shared, abandon);
    }
};

struct pad_kernel {
    using args = reef_cuda_pad_args;
    static constexpr int threads = 256;

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_TURN(abandon);
        const int64_t first = (int64_t)index * a.per_tile, end = min(first + (int64_t)a.per_tile, a.total);
        for (int64_t item = first + threadIdx.x; item < end; item += REEF_THREADS) {
            int64_t rest = item, x = 0, y = 0;
            bool outside = false;
            for (int d = a.rank - 1; d >= 0; d--) {
                const int64_t up =
                    a.total <= INT32_MAX ? (int64_t)((uint32_t)rest / (uint32_t)a.dims[d]) : rest / a.dims[d];
                const int64_t c = rest - up * a.dims[d], last = a.x_dims[d] - 1;
                int64_t from = c - a.before[d];
                rest = up;
                if (a.mode == 2) { /* REEF_PAD_EDGE */
                    from = from < 0 ? 0 : from > last ? last : from;
                }
                while (a.mode == 1 && last > 0 && (from < 0 || from > last)) { /* REEF_PAD_REFLECT */
                    from = from < 0 ? -from : 2 * last - from;
                }
                outside = outside || from < 0 || from > last;
                x += from * a.x_stride[d];
                y += c * a.y_stride[d];
            }
            abandon.wait();
            store_raw(a.y, y, elem_bytes(a.y_type),
                      outside ? a.value : convert_raw(load_raw(a.x, x, elem_bytes(a.x_type)), a.x_type, a.y_type));
        }
        abandon.wait();
        return true;
    }
};

/* Indices outside the data are held to its ends. */
static __device__ __forceinline__ int64_t gather_at(const reef_cuda_gather_args &a, int64_t at)
{
    int64_t g = a.index_type == 3 ? (int64_t)((const int32_t *)a.indices)[at] : ((const int64_t *)a.indices)[at];
    g = g < 0 ? g + a.axis_dim : g;
    return g < 0 ? 0 : g >= a.axis_dim ? a.axis_dim - 1 : g;
}

template <int V>
struct gather_kernel {
    using args = reef_cuda_gather_args;
    static constexpr int threads = 256;

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_TURN(abandon);
        WALK_ITEMS(a, index, item)
        {
            int64_t off[3];
            walk_at<3>(a.walk, item, off);
            abandon.wait();
            const int64_t from = off[1] + gather_at(a, off[2]) * a.axis_stride;
            if (V > 1 && a.data_type == a.y_type) { /* bit for bit */
                if (a.y_type == REEF_ELEM_F16) {
                    *(pack<uint16_t, V> *)((uint16_t *)a.y + off[0]) =
                        *(const pack<uint16_t, V> *)((const uint16_t *)a.data + from);
                } else {
                    *(pack<uint32_t, V> *)((uint32_t *)a.y + off[0]) =
                        *(const pack<uint32_t, V> *)((const uint32_t *)a.data + from);
                }
            } else if constexpr (V > 1) {
                float v[V];
                load_vector<V>(a.data, from, a.data_type, v);
                store_vector<V>(a.y, off[0], a.y_type, v);
            } else {
                store_raw(a.y, off[0], elem_bytes(a.y_type),
                          convert_raw(load_raw(a.data, from, elem_bytes(a.data_type)), a.data_type, a.y_type));
            }
        }
        abandon.wait();
        return true;
    }
};

REEF_KERNEL(reef_copy, copy_kernel)
REEF_KERNEL(reef_transpose, transpose_kernel)
REEF_KERNEL(reef_pad, pad_kernel)
REEF_KERNEL(reef_gather_v8, gather_kernel<8>)
REEF_KERNEL(reef_gather_v4, gather_kernel<4>)
REEF_KERNEL(reef_gather_v1, gather_kernel<1>)
