// What stands between the products of a decoder layer, for the few tokens of a decoding step: norm,
// rotation, cache, attention, gate, sum. Each is small; what is saved are dozens of calls and passes.
//
// Plain loops that any compiler turns into vectors; numbers are float32 between loading and storing,
// so that a bfloat16 result is rounded once. A row's result does not depend on the rows beside it.
// Legend: B rows, T tokens, H query heads, K key/value heads, S slots, D head dim. Built by
// dromaius/nn/kernels.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "numbers.h"

namespace {

// e^x within 2 units in the last place, without a branch, so that loops over it become vectors.
inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float turned = x * 1.44269504f + 12582912.0f;  // the sum has no bits for a fraction
    const float n = turned - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const int32_t power = (int32_t(n) + 127) << 23;
    float scale;
    std::memcpy(&scale, &power, 4);
    return y * scale;
}

template <typename T>
void rms_norm(const T* x, const T* weight, T* y, int64_t rows, int64_t size, float eps) {
    for (int64_t row = 0; row < rows; ++row, x += size, y += size) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < size; ++i) sum += load(x + i) * load(x + i);
        const float scale = 1.0f / std::sqrt(sum / float(size) + eps);
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) {
            T normed;  // rounded before the weight, as LLaMA's is
            store(&normed, load(x + i) * scale);
            store(y + i, load(&normed) * load(weight + i));
        }
    }
}

// x: strides of B, H, T, the last axis dense; angles [B or 1,T,D]; y [B,T,H,D].
template <typename T>
void rotate(const T* x, const int64_t* stride, const T* cosines, const T* sines,
            int64_t angle_stride, T* y, const int64_t* shape) {
    const int64_t heads = shape[1], tokens = shape[2], dim = shape[3], half = dim / 2;
    for (int64_t b = 0; b < shape[0]; ++b)
        for (int64_t t = 0; t < tokens; ++t) {
            const T* c = cosines + b * angle_stride + t * dim;
            const T* s = sines + b * angle_stride + t * dim;
            for (int64_t h = 0; h < heads; ++h) {
                const T* from = x + b * stride[0] + h * stride[1] + t * stride[2];
                T* to = y + ((b * tokens + t) * heads + h) * dim;
#pragma omp simd
                for (int64_t i = 0; i < half; ++i) {
                    const float first = load(from + i), second = load(from + half + i);
                    store(to + i, first * load(c + i) - second * load(s + i));
                    store(to + half + i, second * load(c + half + i) + first * load(s + half + i));
                }
            }
        }
}

// x [B,K,T,D] into slots [B,K,S,D], token t of row b at positions[b,t]; strides of three axes each.
template <typename T>
void keep(const T* x, const int64_t* stride, T* slots, const int64_t* slot_stride,
          const int64_t* positions, const int64_t* shape) {
    for (int64_t b = 0; b < shape[0]; ++b)
        for (int64_t k = 0; k < shape[1]; ++k)
            for (int64_t t = 0; t < shape[2]; ++t) {
                const int64_t slot = positions[b * shape[2] + t];
                std::memcpy(slots + b * slot_stride[0] + k * slot_stride[1] + slot * slot_stride[2],
                            x + b * stride[0] + k * stride[1] + t * stride[2], shape[3] * sizeof(T));
            }
}

// The queries of one token that share a key head: y [groups,D]. DIM is D where it is known early.
template <typename T, int DIM>
void attend(const T* q, int64_t q_stride, const T* k, int64_t k_stride, const T* v,
            int64_t v_stride, const bool* mask, T* y, int64_t groups, int64_t slots, int64_t width,
            float scale) {
    const int64_t dim = DIM ? DIM : width;
    while (slots > 0 && !mask[slots - 1]) --slots;
    static thread_local std::vector<float> memory;  // kept from call to call
    memory.assign(groups * (slots + 2 * dim), 0.0f);
    float* const weights = memory.data();                // [groups,slots]
    float* const queries = weights + groups * slots;     // [groups,D]
    float* const sums = queries + groups * dim;          // [groups,D]
    for (int64_t g = 0; g < groups; ++g)
        for (int64_t d = 0; d < dim; ++d)
            queries[g * dim + d] = load(q + g * q_stride + d) * scale;
    for (int64_t s = 0; s < slots; ++s)
        for (int64_t g = 0; g < groups; ++g) {
            float sum = 0;
            const float* query = queries + g * dim;
            const T* key = k + s * k_stride;
#pragma omp simd reduction(+ : sum)
            for (int64_t d = 0; d < dim; ++d) sum += query[d] * load(key + d);
            weights[g * slots + s] = mask[s] ? sum : -INFINITY;
        }
    for (int64_t g = 0; g < groups; ++g) {
        float* row = weights + g * slots;
        float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
        for (int64_t s = 0; s < slots; ++s) most = row[s] > most ? row[s] : most;
#pragma omp simd reduction(+ : sum)
        for (int64_t s = 0; s < slots; ++s) {
            row[s] = mask[s] ? exponential(row[s] - most) : 0.0f;
            sum += row[s];
        }
        for (int64_t s = 0; s < slots; ++s) row[s] /= sum;
    }
    for (int64_t s = 0; s < slots; ++s) {
        if (!mask[s]) continue;  // what lies there may be anything
        const T* value = v + s * v_stride;
        for (int64_t g = 0; g < groups; ++g) {
            const float weight = weights[g * slots + s];
            float* sum = sums + g * dim;
#pragma omp simd
            for (int64_t d = 0; d < dim; ++d) sum[d] += weight * load(value + d);
        }
    }
    for (int64_t i = 0; i < groups * dim; ++i) store(y + i, sums[i]);
}

// q [B,H,T,D], k and v [B,K,S,D], mask [B,T,S] (strides of B and T), y [B,T,H,D].
// shape: B, H, K, T, S, D.
template <typename T>
void attend_all(const T* q, const int64_t* qs, const T* k, const int64_t* ks, const T* v,
                const int64_t* vs, const bool* mask, const int64_t* ms, T* y, const int64_t* shape,
                float scale, int threads) {
    const int64_t heads = shape[1], shared = shape[2], tokens = shape[3], slots = shape[4];
    const int64_t dim = shape[5], groups = heads / shared, tasks = shape[0] * shared * tokens;
    const auto one = dim == 64 ? attend<T, 64> : dim == 128 ? attend<T, 128> : attend<T, 0>;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (tasks * slots * dim > 32768)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t t = task % tokens, h = task / tokens % shared, b = task / tokens / shared;
        one(q + b * qs[0] + h * groups * qs[1] + t * qs[2], qs[1], k + b * ks[0] + h * ks[1], ks[2],
            v + b * vs[0] + h * vs[1], vs[2], mask + b * ms[0] + t * ms[1],
            y + ((b * tokens + t) * heads + h * groups) * dim, groups, slots, dim, scale);
    }
}

// y = silu(gate) * up, element by element.
template <typename T>
void gate(const T* gate, const T* up, T* y, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
        const float x = load(gate + i);
        T opened;  // rounded before the product, as LLaMA's is
        store(&opened, x / (1.0f + exponential(-x)));
        store(y + i, load(&opened) * load(up + i));
    }
}

// y = a + b, element by element.
template <typename T>
void add(const T* a, const T* b, T* y, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) store(y + i, load(a + i) + load(b + i));
}

}  // namespace

#define KERNELS(name, T)                                                                          \
    void rms_norm_##name(const T* x, const T* weight, T* y, int64_t rows, int64_t size,           \
                         float eps) {                                                             \
        rms_norm(x, weight, y, rows, size, eps);                                                  \
    }                                                                                             \
    void rotate_##name(const T* x, const int64_t* stride, const T* cosines, const T* sines,       \
                       int64_t angle_stride, T* y, const int64_t* shape) {                        \
        rotate(x, stride, cosines, sines, angle_stride, y, shape);                                \
    }                                                                                             \
    void keep_##name(const T* x, const int64_t* stride, T* slots, const int64_t* slot_stride,     \
                     const int64_t* positions, const int64_t* shape) {                            \
        keep(x, stride, slots, slot_stride, positions, shape);                                    \
    }                                                                                             \
    void attend_##name(const T* q, const int64_t* qs, const T* k, const int64_t* ks, const T* v,  \
                       const int64_t* vs, const bool* mask, const int64_t* ms, T* y,              \
                       const int64_t* shape, float scale, int threads) {                          \
        attend_all(q, qs, k, ks, v, vs, mask, ms, y, shape, scale, threads);                      \
    }                                                                                             \
    void gate_##name(const T* closed, const T* up, T* y, int64_t count) {                         \
        gate(closed, up, y, count);                                                               \
    }                                                                                             \
    void add_##name(const T* a, const T* b, T* y, int64_t count) { add(a, b, y, count); }

extern "C" {
KERNELS(float32, float)
KERNELS(bfloat16, uint16_t)
}
