// Products of a few rows with a large matrix, y = x W^T: what decoding consists of.
//
// Every weight is read once, whatever the number of rows, so that the time is that of reading W
// from memory. The sum behind one output runs in the same order for every number of rows and
// threads: a row's result does not depend on the rows beside it.
//
// Row-major throughout: x [rows, in], W [out, in], y [rows, out]. Built by dromaius/nn/kernels.

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>
#define WIDE 1
#else
#define WIDE 0
#endif

namespace {

inline float to_float(uint16_t bits) {
    uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

inline uint16_t to_bfloat16(float value) {  // to nearest, ties to even, as torch rounds
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float load(const float* p) { return *p; }
inline float load(const uint16_t* p) { return to_float(*p); }
inline void store(float* p, float value) { *p = value; }
inline void store(uint16_t* p, float value) { *p = to_bfloat16(value); }

// One output of one row at a time, as the compiler vectorises it: the form for any processor.
template <typename T>
inline float dot(const T* a, const T* b, int64_t n) {
    float lanes[16] = {};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; ++l) lanes[l] += load(a + i + l) * load(b + i + l);
    float sum = 0;
    for (int l = 0; l < 16; ++l) sum += lanes[l];
    for (; i < n; ++i) sum += load(a + i) * load(b + i);
    return sum;
}

#if WIDE
struct Float32 {
    using element = float;
    static constexpr int step = 16;
    using vector = __m512;
    static inline vector read(const element* p) { return _mm512_loadu_ps(p); }
    static inline vector read(const element* p, int n) {
        return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
    }
    static inline __m512 madd(__m512 sum, vector a, vector b) { return _mm512_fmadd_ps(a, b, sum); }
};

struct BFloat16 {
    using element = uint16_t;
    static constexpr int step = 32;
    static inline __m512i read(const element* p) { return _mm512_loadu_si512(p); }
    static inline __m512i read(const element* p, int n) {
        return _mm512_maskz_loadu_epi16(__mmask32(n == 32 ? ~0u : (1u << n) - 1), p);
    }
    using vector = __m512i;
    static inline __m512 madd(__m512 sum, vector a, vector b) {
#if defined(__AVX512BF16__)
        return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#else
        const __m512i high = _mm512_set1_epi32(int(0xffff0000));
        __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(a, high));
        __m512 odd_b = _mm512_castsi512_ps(_mm512_and_si512(b, high));
        __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(a, 16));
        __m512 even_b = _mm512_castsi512_ps(_mm512_slli_epi32(b, 16));
        return _mm512_fmadd_ps(odd, odd_b, _mm512_fmadd_ps(even, even_b, sum));
#endif
    }
};

// OUTS outputs of ROWS rows: every vector of W that is loaded serves all rows.
template <typename Kind, int ROWS, int OUTS>
inline void block(const typename Kind::element* x, const typename Kind::element* w,
                  const typename Kind::element* bias, typename Kind::element* y, int64_t in,
                  int64_t out) {
    __m512 sums[ROWS][OUTS];
    for (int r = 0; r < ROWS; ++r)
        for (int o = 0; o < OUTS; ++o) sums[r][o] = _mm512_setzero_ps();
    int64_t i = 0;
    for (; i + Kind::step <= in; i += Kind::step) {
        typename Kind::vector weights[OUTS];
        for (int o = 0; o < OUTS; ++o) weights[o] = Kind::read(w + o * in + i);
        for (int r = 0; r < ROWS; ++r) {
            const auto value = Kind::read(x + r * in + i);
            for (int o = 0; o < OUTS; ++o) sums[r][o] = Kind::madd(sums[r][o], value, weights[o]);
        }
    }
    if (i < in) {
        const int rest = int(in - i);
        for (int r = 0; r < ROWS; ++r)
            for (int o = 0; o < OUTS; ++o)
                sums[r][o] = Kind::madd(sums[r][o], Kind::read(x + r * in + i, rest),
                                        Kind::read(w + o * in + i, rest));
    }
    for (int r = 0; r < ROWS; ++r)
        for (int o = 0; o < OUTS; ++o) {
            float sum = _mm512_reduce_add_ps(sums[r][o]);
            store(y + r * out + o, bias ? sum + load(bias + o) : sum);
        }
}

template <typename Kind, int OUTS>
inline void blocks(const typename Kind::element* x, const typename Kind::element* w,
                   const typename Kind::element* bias, typename Kind::element* y, int64_t rows,
                   int64_t in, int64_t out) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) block<Kind, 4, OUTS>(x + r * in, w, bias, y + r * out, in, out);
    switch (rows - r) {
        case 3: block<Kind, 3, OUTS>(x + r * in, w, bias, y + r * out, in, out); break;
        case 2: block<Kind, 2, OUTS>(x + r * in, w, bias, y + r * out, in, out); break;
        case 1: block<Kind, 1, OUTS>(x + r * in, w, bias, y + r * out, in, out); break;
    }
}
#endif

template <typename T, typename Kind>
void product(const T* x, const T* w, const T* bias, T* y, int64_t rows, int64_t in, int64_t out,
             int threads) {
    constexpr int64_t CHUNK = 16;  // outputs that a thread takes together
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t start = 0; start < out; start += CHUNK) {
        const int64_t stop = start + CHUNK < out ? start + CHUNK : out;
        int64_t o = start;
#if WIDE
        for (; o + 4 <= stop; o += 4)
            blocks<Kind, 4>(x, w + o * in, bias ? bias + o : nullptr, y + o, rows, in, out);
        for (; o < stop; ++o)
            blocks<Kind, 1>(x, w + o * in, bias ? bias + o : nullptr, y + o, rows, in, out);
#else
        for (; o < stop; ++o)
            for (int64_t r = 0; r < rows; ++r) {
                float sum = dot(x + r * in, w + o * in, in);
                store(y + r * out + o, bias ? sum + load(bias + o) : sum);
            }
#endif
    }
}

#if !WIDE
struct Float32 {};
struct BFloat16 {};
#endif

}  // namespace

extern "C" {

void product_float32(const float* x, const float* w, const float* bias, float* y, int64_t rows,
                     int64_t in, int64_t out, int threads) {
    product<float, Float32>(x, w, bias, y, rows, in, out, threads);
}

void product_bfloat16(const uint16_t* x, const uint16_t* w, const uint16_t* bias, uint16_t* y,
                      int64_t rows, int64_t in, int64_t out, int threads) {
    product<uint16_t, BFloat16>(x, w, bias, y, rows, in, out, threads);
}

}  // extern "C"
