// Products of a few rows with a matrix in few bits, y = x W^T, and such matrices written out.
//
// A weight is read once and only ever becomes a float in a register, so that the time is that of
// reading the packed matrix from memory. Sums are float32 and run in the same
// order for every number of rows and threads: a row's result does not depend on the rows beside it.
//
// Layout of a packed row: dromaius/nn/packing.py. Scales and lows are bfloat16 [out, groups].
// Row-major throughout: x [rows, in], y [rows, out]. Built by dromaius/nn/kernels.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "numbers.h"
#include "share.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define WIDE 1
#else
#define WIDE 0
#endif
#if WIDE && defined(__AVX512BF16__)
#define DOTS 1  // pairs of bfloat16 are multiplied and added to a float at once
#else
#define DOTS 0
#endif

namespace {

constexpr int64_t STEP = 32;   // columns that are read together
constexpr int64_t CHUNK = 16;  // outputs that a thread takes together
constexpr int64_t TOGETHER = 8;  // rows that a weight serves once it is a float

inline int64_t padded(int64_t in) { return (in + STEP - 1) / STEP * STEP; }

constexpr float TO_E4M3 = 0x1p120f;  // exponent bias 127 against 7

// Each kind: bytes of a row, and 32 weights of it from column c on as floats.
// `prepared` is what a group's scale and low become.

struct Int8 {
    static int64_t stride(int64_t in) { return in; }
    static void read(const uint8_t* row, int64_t c, int64_t in, float scale, float, float* to) {
        const int64_t n = in - c < STEP ? in - c : STEP;
        for (int64_t i = 0; i < n; ++i) to[i] = float(int8_t(row[c + i])) * scale;
        for (int64_t i = n; i < STEP; ++i) to[i] = 0;
    }
#if WIDE
    static inline __m512 prepare(float scale, float) { return _mm512_set1_ps(scale); }
    static inline __m512 wide(__m128i bytes, __m512 scale) {
        return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), scale);
    }
#endif
};

struct Float8 {  // 1 sign, 4 exponent, 3 mantissa bits: those of a float whose exponent is shifted
    static int64_t stride(int64_t in) { return in; }
    static void read(const uint8_t* row, int64_t c, int64_t in, float scale, float, float* to) {
        const int64_t n = in - c < STEP ? in - c : STEP;
        for (int64_t i = 0; i < n; ++i) {
            const uint32_t b = row[c + i], bits = (b & 0x80) << 24 | (b & 0x7f) << 20;
            float value;
            std::memcpy(&value, &bits, 4);
            to[i] = value * (scale * TO_E4M3);
        }
        for (int64_t i = n; i < STEP; ++i) to[i] = 0;
    }
#if WIDE
    static inline __m512 prepare(float scale, float) { return _mm512_set1_ps(scale * TO_E4M3); }
    static inline __m512 wide(__m128i bytes, __m512 scale) {
        const __m512i v = _mm512_cvtepu8_epi32(bytes);
        const __m512i sign = _mm512_and_si512(_mm512_slli_epi32(v, 24), _mm512_set1_epi32(1 << 31));
        const __m512i rest = _mm512_slli_epi32(_mm512_and_si512(v, _mm512_set1_epi32(0x7f)), 20);
        const __m512i bits = _mm512_or_si512(sign, rest);
        return _mm512_mul_ps(_mm512_castsi512_ps(bits), scale);
    }
#endif
};

struct Int4 {
    static int64_t stride(int64_t in) { return padded(in) / 2; }
    static void read(const uint8_t* row, int64_t c, int64_t, float scale, float low, float* to) {
        const uint8_t* p = row + c / 2;
        for (int i = 0; i < 16; ++i) {
            to[i] = float(p[i] & 15) * scale + low;
            to[16 + i] = float(p[i] >> 4) * scale + low;
        }
    }
#if WIDE
    // The sixteen values of the group: a weight is looked up, whatever scale and low are.
    static inline __m512 prepare(float scale, float low) {
        const __m512 levels = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        return _mm512_fmadd_ps(levels, _mm512_set1_ps(scale), _mm512_set1_ps(low));
    }
#endif
};

#if WIDE
// 32 weights; only the low four bits of an index count in a permutation of sixteen.
template <typename Kind>
inline void read(const uint8_t* row, int64_t c, int64_t in, __m512 group, __m512& a, __m512& b) {
    if constexpr (std::is_same_v<Kind, Int4>) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + c / 2));
        const __m512i index = _mm512_cvtepu8_epi32(bytes);
        a = _mm512_permutexvar_ps(index, group);
        b = _mm512_permutexvar_ps(_mm512_srli_epi32(index, 4), group);
    } else {
        __m256i bytes;
        if (c + STEP <= in)
            bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + c));
        else
            bytes = _mm256_maskz_loadu_epi8(__mmask32((1u << (in - c)) - 1), row + c);
        a = Kind::wide(_mm256_castsi256_si128(bytes), group);
        b = Kind::wide(_mm256_extracti128_si256(bytes, 1), group);
    }
}
#endif

struct Matrix {
    const uint8_t* packed;
    const uint16_t* scales;
    const uint16_t* lows;
    int64_t in, out, group;  // group: columns, a multiple of STEP

    int64_t groups() const { return (in + group - 1) / group; }
    float scale(int64_t o, int64_t g) const { return to_float(scales[o * groups() + g]); }
    float low(int64_t o, int64_t g) const { return lows ? to_float(lows[o * groups() + g]) : 0; }
};

#if WIDE
// Bytes of a row that are asked of memory ahead of their reading.
constexpr int64_t AHEAD = 2048;

// How STEP columns are multiplied: as two vectors of floats.
struct Floats {
    using element = float;
    using group = __m512;
    struct vector {
        __m512 a, b;
    };
    template <typename Kind>
    static inline group prepare(float scale, float low) {
        return Kind::prepare(scale, low);
    }
    template <typename Kind>
    static inline vector weights(const uint8_t* row, int64_t c, int64_t in, group g) {
        vector w;
        read<Kind>(row, c, in, g, w.a, w.b);
        return w;
    }
    static inline vector values(const element* x) {
        return {_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16)};
    }
    static inline __m512 madd(__m512 sum, const vector& x, const vector& w) {
        return _mm512_fmadd_ps(x.b, w.b, _mm512_fmadd_ps(x.a, w.a, sum));
    }
};

#if DOTS
// Or as one vector of bfloat16, to which weights are rounded: as torch multiplies in bfloat16.
struct BFloats {
    using element = uint16_t;
    using vector = __m512i;
    struct group {
        __m512 floats;
        __m512i table;  // in int4: twice the sixteen levels, so that a fifth bit does not count
    };
    template <typename Kind>
    static inline group prepare(float scale, float low) {
        group g{Kind::prepare(scale, low), _mm512_setzero_si512()};
        if constexpr (std::is_same_v<Kind, Int4>)
            g.table = _mm512_broadcast_i64x4((__m256i)_mm512_cvtneps_pbh(g.floats));
        return g;
    }
    template <typename Kind>
    static inline vector weights(const uint8_t* row, int64_t c, int64_t in, const group& g) {
        if constexpr (std::is_same_v<Kind, Int4>) {
            const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + c / 2));
            const __m256i low = _mm256_cvtepu8_epi16(bytes), high = _mm256_srli_epi16(low, 4);
            const __m512i index = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
            return _mm512_permutexvar_epi16(index, g.table);
        } else {
            __m512 a, b;
            read<Kind>(row, c, in, g.floats, a, b);
            return (__m512i)_mm512_cvtne2ps_pbh(b, a);
        }
    }
    static inline vector values(const element* x) { return _mm512_loadu_si512(x); }
    static inline __m512 madd(__m512 sum, const vector& x, const vector& w) {
        return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w);
    }
};
#endif

// OUTS outputs of ROWS rows: weights that are read serve all rows. x: see `interleave`.
template <typename Numbers, typename Kind, int ROWS, int OUTS>
inline void block(const typename Numbers::element* x, const Matrix& w, int64_t first,
                  float* sums_out) {
    const int64_t width = padded(w.in), stride = Kind::stride(w.in), groups = w.groups();
    const uint8_t* rows = w.packed + first * stride;
    const uint16_t* scales = w.scales + first * groups;
    const uint16_t* lows = w.lows ? w.lows + first * groups : nullptr;
    // The processor foresees neither the ends of pages nor the jump to the next outputs.
    const int64_t near = stride > AHEAD ? AHEAD : stride, far = near + (OUTS - 1) * stride;
    __m512 sums[ROWS][OUTS];
    for (int r = 0; r < ROWS; ++r)
        for (int o = 0; o < OUTS; ++o) sums[r][o] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; ++g) {
        typename Numbers::group group[OUTS];
        for (int o = 0; o < OUTS; ++o)
            group[o] = Numbers::template prepare<Kind>(
                to_float(scales[o * groups + g]), lows ? to_float(lows[o * groups + g]) : 0);
        const int64_t stop = (g + 1) * w.group < width ? (g + 1) * w.group : width;
        for (int64_t c = g * w.group; c < stop; c += STEP) {
            const auto* xc = x + c * ROWS;
            const int64_t here = Kind::stride(c), next = here + (here + near < stride ? near : far);
            for (int o = 0; o < OUTS; ++o)
                _mm_prefetch(reinterpret_cast<const char*>(rows + o * stride + next), _MM_HINT_T0);
            if constexpr (ROWS <= 4) {  // registers hold x, and the weights of one output
                typename Numbers::vector values[ROWS];
                for (int r = 0; r < ROWS; ++r) values[r] = Numbers::values(xc + r * STEP);
                for (int o = 0; o < OUTS; ++o) {
                    const auto weights =
                        Numbers::template weights<Kind>(rows + o * stride, c, w.in, group[o]);
                    for (int r = 0; r < ROWS; ++r)
                        sums[r][o] = Numbers::madd(sums[r][o], values[r], weights);
                }
            } else {  // registers hold the weights, and x of one row
                typename Numbers::vector weights[OUTS];
                for (int o = 0; o < OUTS; ++o)
                    weights[o] =
                        Numbers::template weights<Kind>(rows + o * stride, c, w.in, group[o]);
                for (int r = 0; r < ROWS; ++r) {
                    const auto values = Numbers::values(xc + r * STEP);
                    for (int o = 0; o < OUTS; ++o)
                        sums[r][o] = Numbers::madd(sums[r][o], values, weights[o]);
                }
            }
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int o = 0; o < OUTS; ++o) sums_out[r * CHUNK + o] = _mm512_reduce_add_ps(sums[r][o]);
}

// `count` outputs from `first` on, of ROWS rows, as many together as registers allow.
template <typename Numbers, typename Kind, int ROWS>
inline void rows_of(const typename Numbers::element* x, const Matrix& w, int64_t first,
                    int64_t count, float* sums) {
    constexpr int OUTS = ROWS <= 2 ? 8 : ROWS <= 4 ? 4 : 2;
    int64_t o = 0;
    for (; o + OUTS <= count; o += OUTS)
        block<Numbers, Kind, ROWS, OUTS>(x, w, first + o, sums + o);
    for (; o < count; ++o) block<Numbers, Kind, ROWS, 1>(x, w, first + o, sums + o);
}

template <typename Numbers, typename Kind>
void wide_sums(const typename Numbers::element* x, int64_t rows, const Matrix& w, int64_t first,
               int64_t count, float* sums) {
    for (int64_t r = 0; r < rows; r += TOGETHER) {
        const auto* xr = x + r * padded(w.in);
        float* to = sums + r * CHUNK;
        switch (rows - r < TOGETHER ? rows - r : TOGETHER) {
            case 1: rows_of<Numbers, Kind, 1>(xr, w, first, count, to); break;
            case 2: rows_of<Numbers, Kind, 2>(xr, w, first, count, to); break;
            case 3: rows_of<Numbers, Kind, 3>(xr, w, first, count, to); break;
            case 4: rows_of<Numbers, Kind, 4>(xr, w, first, count, to); break;
            case 5: rows_of<Numbers, Kind, 5>(xr, w, first, count, to); break;
            case 6: rows_of<Numbers, Kind, 6>(xr, w, first, count, to); break;
            case 7: rows_of<Numbers, Kind, 7>(xr, w, first, count, to); break;
            case 8: rows_of<Numbers, Kind, 8>(xr, w, first, count, to); break;
        }
    }
}
#endif

// x [rows, in] with TOGETHER rows side by side: STEP columns of each in turn, then the next ones,
// filled up with zeros. Rows whose length is a power of two would else push each other out of the
// nearest cache.
template <typename Element, typename T>
const std::vector<Element>& interleave(const T* x, int64_t rows, int64_t in) {
    static thread_local std::vector<Element> made;  // its memory is kept from call to call
    made.assign(size_t(rows * padded(in)), Element(0));
    Element* to = made.data();
    for (int64_t group = 0; group < rows; group += TOGETHER) {
        const int64_t last = rows - group < TOGETHER ? rows : group + TOGETHER;
        for (int64_t c = 0; c < in; c += STEP) {
            const int64_t n = in - c < STEP ? in - c : STEP;
            for (int64_t r = group; r < last; ++r, to += STEP)
                for (int64_t i = 0; i < n; ++i)
                    if constexpr (std::is_same_v<Element, T>)
                        to[i] = x[r * in + c + i];
                    else
                        to[i] = load(x + r * in + c + i);
        }
    }
    return made;
}

// The form for any processor, as the compiler vectorises it.
template <typename Kind>
void plain_sums(const float* x, int64_t rows, const Matrix& w, int64_t first, int64_t count,
                float* sums) {
    const int64_t width = padded(w.in), stride = Kind::stride(w.in);
    std::vector<float> lanes(size_t(rows * STEP));
    for (int64_t o = 0; o < count; ++o) {
        std::fill(lanes.begin(), lanes.end(), 0.0f);
        const uint8_t* row = w.packed + (first + o) * stride;
        for (int64_t c = 0; c < width; c += STEP) {
            const int64_t g = c / w.group;
            float weights[STEP];
            Kind::read(row, c, w.in, w.scale(first + o, g), w.low(first + o, g), weights);
            for (int64_t r = 0; r < rows; ++r) {
                const int64_t group = r / TOGETHER * TOGETHER;
                const int64_t beside = rows - group < TOGETHER ? rows - group : TOGETHER;
                const float* xr = x + group * width + c * beside + (r - group) * STEP;
                for (int64_t i = 0; i < STEP; ++i)
                    lanes[size_t(r * STEP + i)] += xr[i] * weights[i];
            }
        }
        for (int64_t r = 0; r < rows; ++r) {
            float sum = 0;
            for (int64_t i = 0; i < STEP; ++i) sum += lanes[size_t(r * STEP + i)];
            sums[r * CHUNK + o] = sum;
        }
    }
}

// One matrix, what is added to its product, and where the product goes: y [rows, out].
template <typename T>
struct Product {
    Matrix w;
    const T* bias;
    T* y;
    int64_t kind;
};

// `sums_of(product, first output, count, sums)` for all outputs of all products, shared out to the
// threads as if they were those of one; then bias and y.
template <typename T, typename Sums>
void shared_out(const std::vector<Product<T>>& products, int64_t rows, int threads, Sums sums_of) {
    int64_t parts = 0;
    for (const auto& p : products) parts += (p.w.out + CHUNK - 1) / CHUNK;
    share_out(parts, threads, [&](int64_t place) {
        const Product<T>* p = products.data();
        for (; place >= (p->w.out + CHUNK - 1) / CHUNK; ++p) place -= (p->w.out + CHUNK - 1) / CHUNK;
        const int64_t start = place * CHUNK;
        const int64_t count = p->w.out - start < CHUNK ? p->w.out - start : CHUNK;
        static thread_local std::vector<float> sums;  // its memory is kept from call to call
        sums.resize(size_t(rows * CHUNK));
        sums_of(*p, start, count, sums.data());
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t o = 0; o < count; ++o) {
                float sum = sums[size_t(r * CHUNK + o)];
                if (p->bias) sum += load(p->bias + start + o);
                store(p->y + r * p->w.out + start + o, sum);
            }
    });
}

#if WIDE
template <typename Numbers>
void wide_sums_of(int64_t kind, const typename Numbers::element* x, int64_t rows, const Matrix& w,
                  int64_t first, int64_t count, float* sums) {
    switch (kind) {
        case 0: wide_sums<Numbers, Int8>(x, rows, w, first, count, sums); break;
        case 1: wide_sums<Numbers, Int4>(x, rows, w, first, count, sums); break;
        case 2: wide_sums<Numbers, Float8>(x, rows, w, first, count, sums); break;
    }
}
#endif

void plain_sums_of(int64_t kind, const float* x, int64_t rows, const Matrix& w, int64_t first,
                   int64_t count, float* sums) {
    switch (kind) {
        case 0: plain_sums<Int8>(x, rows, w, first, count, sums); break;
        case 1: plain_sums<Int4>(x, rows, w, first, count, sums); break;
        case 2: plain_sums<Float8>(x, rows, w, first, count, sums); break;
    }
}

template <typename T>
void multiply(const T* x, const std::vector<Product<T>>& products, int64_t rows, int64_t in,
              int threads, bool plain) {
#if DOTS
    if (std::is_same_v<T, uint16_t> && !plain) {
        const auto& numbers = interleave<uint16_t>(x, rows, in);
        shared_out(products, rows, threads,
                   [&](const Product<T>& p, int64_t first, int64_t count, float* sums) {
                       wide_sums_of<BFloats>(p.kind, numbers.data(), rows, p.w, first, count, sums);
                   });
        return;
    }
#endif
    const auto& numbers = interleave<float>(x, rows, in);
    shared_out(products, rows, threads,
               [&](const Product<T>& p, int64_t first, int64_t count, float* sums) {
#if WIDE
                   if (!plain)
                       return wide_sums_of<Floats>(p.kind, numbers.data(), rows, p.w, first, count,
                                                   sums);
#endif
                   plain_sums_of(p.kind, numbers.data(), rows, p.w, first, count, sums);
               });
    (void)plain;
}

// The matrix itself, [out, in].
template <typename Kind, typename T>
void write_out(const Matrix& w, T* y, int threads) {
    const int64_t width = padded(w.in), stride = Kind::stride(w.in);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t o = 0; o < w.out; ++o)
        for (int64_t c = 0; c < width; c += STEP) {
            const int64_t g = c / w.group, n = w.in - c < STEP ? w.in - c : STEP;
            float weights[STEP];
#if WIDE
            __m512 a, b;
            read<Kind>(w.packed + o * stride, c, w.in, Kind::prepare(w.scale(o, g), w.low(o, g)),
                       a, b);
            _mm512_storeu_ps(weights, a);
            _mm512_storeu_ps(weights + 16, b);
#else
            Kind::read(w.packed + o * stride, c, w.in, w.scale(o, g), w.low(o, g), weights);
#endif
            for (int64_t i = 0; i < n; ++i) store(y + o * w.in + c + i, weights[i]);
        }
}

template <typename T>
void any_write_out(int kind, const Matrix& w, T* y, int threads) {
    switch (kind) {
        case 0: write_out<Int8, T>(w, y, threads); break;
        case 1: write_out<Int4, T>(w, y, threads); break;
        case 2: write_out<Float8, T>(w, y, threads); break;
    }
}

inline Matrix matrix(const uint8_t* packed, const uint16_t* scales, const uint16_t* lows,
                     int64_t in, int64_t out, int64_t group) {
    return {packed, scales, lows, in, out, group ? group : padded(in)};
}

// A matrix as the caller gives it; bias and y in the dtype of x.
struct Packed {
    const uint8_t* packed;
    const uint16_t *scales, *lows;
    const void* bias;
    void* y;
    int64_t out, group, kind;  // kind: 0 int8, 1 int4, 2 fp8
};

template <typename T>
void any_products(const T* x, const Packed* matrices, int64_t count, int64_t rows, int64_t in,
                  int threads, bool plain) {
    static thread_local std::vector<Product<T>> products;
    products.clear();
    for (const Packed* m = matrices; m < matrices + count; ++m)
        products.push_back({matrix(m->packed, m->scales, m->lows, in, m->out, m->group),
                            (const T*)m->bias, (T*)m->y, m->kind});
    multiply(x, products, rows, in, threads, plain);
}

}  // namespace

extern "C" {

// Several matrices with the same x. wide: x, biases and results are float32, else bfloat16.
void quantized_products(int wide, const void* x, const Packed* matrices, int64_t count,
                        int64_t rows, int64_t in, int threads, int plain) {
    if (wide)
        any_products((const float*)x, matrices, count, rows, in, threads, plain);
    else
        any_products((const uint16_t*)x, matrices, count, rows, in, threads, plain);
}

void quantized_write_out(int kind, int wide, const uint8_t* packed, const uint16_t* scales,
                         const uint16_t* lows, void* y, int64_t in, int64_t out, int64_t group,
                         int threads) {
    const Matrix w = matrix(packed, scales, lows, in, out, group);
    if (wide)
        any_write_out(kind, w, (float*)y, threads);
    else
        any_write_out(kind, w, (uint16_t*)y, threads);
}

}  // extern "C"
