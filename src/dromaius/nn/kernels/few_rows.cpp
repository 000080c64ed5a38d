// Products of a few rows with a large matrix, y = x W^T: what decoding consists of.
//
// Every weight is read once, whatever the number of rows, so that the time is that of reading W
// from memory. The sum behind one output runs in the same order for every number of rows and
// threads: a row's result does not depend on the rows beside it.
//
// Row-major throughout: x [rows, in], W [out, in], y [rows, out]. Built by dromaius/nn/kernels.

#include <cstdint>
#include <cstring>
#include <vector>

#include "numbers.h"
#include "share.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>
#define WIDE 1
#else
#define WIDE 0
#endif

namespace {

constexpr int TOGETHER = 8;  // rows that a weight serves once it is read
constexpr int STRETCH = 24;  // outputs whose sums wait while `stretch` goes through their columns

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

// How far ahead of its reads a block asks memory for weights, in bytes of each output's row.
constexpr int64_t AHEAD = 2048;

// Sums of OUTS outputs of ROWS rows: every vector of W that is loaded serves all rows.
template <int ROWS, int OUTS>
struct Sums {
    __m512 of[ROWS][OUTS];

    // Columns [from, to); x is packed. Meanwhile memory is asked for the columns behind, or for
    // those of the outputs that begin at `next` when these are done.
    template <typename Kind>
    inline void add(const typename Kind::element* x, const typename Kind::element* w, int64_t in,
                    int64_t from, int64_t to, const typename Kind::element* next) {
        constexpr int64_t ahead = AHEAD / sizeof(typename Kind::element);
        __m512 sums[ROWS][OUTS];  // registers
        for (int r = 0; r < ROWS; ++r)
            for (int o = 0; o < OUTS; ++o) sums[r][o] = of[r][o];
        int64_t i = from;
        for (; i + Kind::step <= to; i += Kind::step) {
            // The processor foresees neither the ends of pages nor the jump to the next outputs.
            const auto* asked = i + ahead < to ? w + i + ahead : next + i + ahead - to;
            typename Kind::vector weights[OUTS];
            for (int o = 0; o < OUTS; ++o) {
                _mm_prefetch(reinterpret_cast<const char*>(asked + o * in), _MM_HINT_T0);
                weights[o] = Kind::read(w + o * in + i);
            }
            for (int r = 0; r < ROWS; ++r) {
                const auto value = Kind::read(x + i * ROWS + r * Kind::step);
                for (int o = 0; o < OUTS; ++o)
                    sums[r][o] = Kind::madd(sums[r][o], value, weights[o]);
            }
        }
        if (i < to) {
            const int rest = int(to - i);
            for (int r = 0; r < ROWS; ++r)
                for (int o = 0; o < OUTS; ++o)
                    sums[r][o] = Kind::madd(sums[r][o], Kind::read(x + i * ROWS + r * Kind::step),
                                            Kind::read(w + o * in + i, rest));
        }
        for (int r = 0; r < ROWS; ++r)
            for (int o = 0; o < OUTS; ++o) of[r][o] = sums[r][o];
    }

    template <typename T>
    inline void finish(const T* bias, T* y, int64_t out) const {
        for (int r = 0; r < ROWS; ++r)
            for (int o = 0; o < OUTS; ++o) {
                const float sum = _mm512_reduce_add_ps(of[r][o]);
                store(y + r * out + o, bias ? sum + load(bias + o) : sum);
            }
    }
};

// x [rows, in] as blocks read it: TOGETHER rows at a time, of them a vector of each in turn. Rows whose
// length is a power of two would else push each other, and the weights, out of the nearest cache.
template <typename Kind>
void pack(const typename Kind::element* x, int64_t rows, int64_t in,
          std::vector<typename Kind::element>& packed) {
    const int64_t steps = (in + Kind::step - 1) / Kind::step;
    packed.assign(rows * steps * Kind::step, 0);
    auto* to = packed.data();
    for (int64_t group = 0; group < rows; group += TOGETHER) {
        const int64_t last = rows - group < TOGETHER ? rows : group + TOGETHER;
        for (int64_t i = 0; i < in; i += Kind::step)
            for (int64_t r = group; r < last; ++r, to += Kind::step) {
                const int64_t count = in - i < Kind::step ? in - i : Kind::step;
                std::memcpy(to, x + r * in + i, count * sizeof(*to));
            }
    }
}

// OUTS outputs at a time, from column 0 to the last.
template <typename Kind, int ROWS, int OUTS>
inline void block(const typename Kind::element* x, const typename Kind::element* w,
                  const typename Kind::element* bias, typename Kind::element* y, int64_t in,
                  int64_t out) {
    Sums<ROWS, OUTS> sums{};
    sums.template add<Kind>(x, w, in, 0, in, w + OUTS * in);
    sums.finish(bias, y, out);
}

// STRETCH outputs of many rows, some columns of all before the next columns: x of a few thousand
// numbers is larger than the nearest cache, its part for these columns is not.
template <typename Kind, int ROWS>
inline void stretch(const typename Kind::element* x, const typename Kind::element* w,
                    const typename Kind::element* bias, typename Kind::element* y, int64_t in,
                    int64_t out) {
    constexpr int OUTS = 3;
    constexpr int64_t columns = AHEAD / sizeof(typename Kind::element);
    Sums<ROWS, OUTS> sums[STRETCH / OUTS] = {};
    for (int64_t from = 0; from < in; from += columns) {
        const int64_t to = from + columns < in ? from + columns : in;
        for (int o = 0; o < STRETCH; o += OUTS) {
            const auto* next = o + OUTS < STRETCH ? w + (o + OUTS) * in + from : w + to;
            sums[o / OUTS].template add<Kind>(x, w + o * in, in, from, to, next);
        }
    }
    for (int o = 0; o < STRETCH; o += OUTS)
        sums[o / OUTS].finish(bias ? bias + o : nullptr, y + o, out);
}

// Outputs [first, stop) of ROWS rows, as many together as there are registers for sums.
template <typename Kind, int ROWS>
inline void span(const typename Kind::element* x, const typename Kind::element* w,
                 const typename Kind::element* bias, typename Kind::element* y, int64_t first,
                 int64_t stop, int64_t in, int64_t out) {
    constexpr int OUTS = ROWS <= 2 ? 8 : ROWS <= 4 ? 4 : 3;
    const auto from = [&](int64_t o) { return bias ? bias + o : nullptr; };
    int64_t o = first;
    if (ROWS > 4 && in * int64_t(sizeof(*x)) > AHEAD)
        for (; o + STRETCH <= stop; o += STRETCH)
            stretch<Kind, ROWS>(x, w + o * in, from(o), y + o, in, out);
    for (; o + OUTS <= stop; o += OUTS)
        block<Kind, ROWS, OUTS>(x, w + o * in, from(o), y + o, in, out);
    for (; o < stop; ++o) block<Kind, ROWS, 1>(x, w + o * in, from(o), y + o, in, out);
}
#endif

// One matrix: weight [out, in], bias [out] or null, y [rows, out].
template <typename T>
struct Matrix {
    const T* weight;
    const T* bias;
    T* y;
    int64_t out;
};

// Outputs [first, stop) of all rows; the weights stay in the nearest cache from eight to eight rows.
template <typename T, typename Kind>
inline void outputs(const T* x, const Matrix<T>& m, int64_t first, int64_t stop, int64_t rows,
                    int64_t in) {
#if WIDE
    for (int64_t r = 0; r < rows; r += TOGETHER) {
        const T* xr = x + r * ((in + Kind::step - 1) / Kind::step * Kind::step);
        T* yr = m.y + r * m.out;
        switch (rows - r < TOGETHER ? rows - r : TOGETHER) {
#define CASE(n)                                                                          \
    case n:                                                                              \
        span<Kind, n>(xr, m.weight, m.bias, yr, first, stop, in, m.out);                 \
        break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
        }
    }
#else
    for (int64_t o = first; o < stop; ++o)
        for (int64_t r = 0; r < rows; ++r) {
            float sum = dot(x + r * in, m.weight + o * in, in);
            store(m.y + r * m.out + o, m.bias ? sum + load(m.bias + o) : sum);
        }
#endif
}

// Several matrices with the same x, as if their outputs were those of one.
template <typename T, typename Kind>
void products(const T* x, const Matrix<T>* matrices, int64_t count, int64_t rows, int64_t in,
              int threads) {
    constexpr int64_t PART = 48 * 1024;  // bytes of weights that a thread takes together
    const int64_t least = rows > 4 ? STRETCH : 8;  // a whole number of blocks
    int64_t part = PART / (in * int64_t(sizeof(T))) / least * least;
    if (part < least) part = least;
#if WIDE
    static thread_local std::vector<T> packed;  // its memory is kept from call to call
    pack<Kind>(x, rows, in, packed);
    x = packed.data();
#endif
    int64_t parts = 0;
    for (int64_t m = 0; m < count; ++m) parts += (matrices[m].out + part - 1) / part;
    share_out(parts, threads, [&](int64_t place) {
        const Matrix<T>* m = matrices;
        for (; place >= (m->out + part - 1) / part; ++m) place -= (m->out + part - 1) / part;
        const int64_t first = place * part, stop = first + part < m->out ? first + part : m->out;
        outputs<T, Kind>(x, *m, first, stop, rows, in);
    });
}

#if !WIDE
struct Float32 {};
struct BFloat16 {};
#endif

}  // namespace

extern "C" {

void products_float32(const float* x, const Matrix<float>* matrices, int64_t count, int64_t rows,
                      int64_t in, int threads) {
    products<float, Float32>(x, matrices, count, rows, in, threads);
}

void products_bfloat16(const uint16_t* x, const Matrix<uint16_t>* matrices, int64_t count,
                       int64_t rows, int64_t in, int threads) {
    products<uint16_t, BFloat16>(x, matrices, count, rows, in, threads);
}

}  // extern "C"
