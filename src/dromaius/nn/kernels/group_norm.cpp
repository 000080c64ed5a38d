// Group norm and swish of one picture, for the vision tokenizer's stages on a CPU.
//
// A group norm whose statistics are known is one scale and one shift for each channel (of each cell,
// for a spatial norm), so norm, scale, shift and swish are one pass over the pixels. Every number is
// computed the same way in whatever lane, band or thread it lies: sums run over blocks of fixed size
// in double precision and blocks are added in order. torch's own operators round the last elements
// of a thread's share otherwise than the rest, and results move with the number of threads.
//
// Channels last throughout: x [H, W, C]. Built by dromaius/nn/kernels.

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t kBlock = 1024;  // pixels whose sums are taken together

// exp(x) for -87 <= x <= 88, within 1 unit in the last place; no branches, so that it vectorises.
inline float exponential(float x) {
    const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    float n = __builtin_fmaf(x, 1.44269504f, shifter) - shifter;
    float r = __builtin_fmaf(n, -0.693359375f, x);
    r = __builtin_fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = __builtin_fmaf(p, r, 1.3981999507e-3f);
    p = __builtin_fmaf(p, r, 8.3334519073e-3f);
    p = __builtin_fmaf(p, r, 4.1665795894e-2f);
    p = __builtin_fmaf(p, r, 1.6666665459e-1f);
    p = __builtin_fmaf(p, r, 5.0000001201e-1f);
    p = __builtin_fmaf(p, r * r, r) + 1.0f;
    int32_t bits = (int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

inline float swish_of(float x) {
    float z = -x;
    z = z < 88.0f ? z : 88.0f;
    z = z > -87.0f ? z : -87.0f;
    return x * (1.0f / (1.0f + exponential(z)));
}

}  // namespace

extern "C" {

// sums [2, C]: of x and of x squared over all pixels.
void channel_sums(const float* x, double* sums, int64_t pixels, int64_t channels, int threads) {
    const int64_t blocks = (pixels + kBlock - 1) / kBlock;
    std::vector<double> parts(blocks * 2 * channels, 0.0);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
        double* plain = parts.data() + block * 2 * channels;
        double* squared = plain + channels;
        const int64_t end = (block + 1) * kBlock < pixels ? (block + 1) * kBlock : pixels;
        for (int64_t p = block * kBlock; p < end; ++p) {
            const float* row = x + p * channels;
            for (int64_t c = 0; c < channels; ++c) {
                const double v = row[c];
                plain[c] += v;
                squared[c] += v * v;
            }
        }
    }
    std::memset(sums, 0, 2 * channels * sizeof(double));
    for (int64_t block = 0; block < blocks; ++block)
        for (int64_t i = 0; i < 2 * channels; ++i) sums[i] += parts[block * 2 * channels + i];
}

// y [rows, W, C] = f(x * scale + shift) of the rows from `first` on; rows outside x become zeros.
// scale, shift [h * w, C] belong to the cells of a grid [h, w] that lies over the picture.
void scale_shift(const float* x, float* y, const float* scale, const float* shift, int64_t first,
                 int64_t rows, int64_t height, int64_t width, int64_t channels, int64_t grid_height,
                 int64_t grid_width, int swish, int threads) {
    const int64_t cell_height = height / grid_height, cell_width = width / grid_width;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t row = first + i;
        float* out = y + i * width * channels;
        if (row < 0 || row >= height) {
            std::memset(out, 0, width * channels * sizeof(float));
            continue;
        }
        const float* in = x + row * width * channels;
        for (int64_t column = 0; column < width; ++column) {
            const int64_t cell = row / cell_height * grid_width + column / cell_width;
            const float* a = scale + cell * channels;
            const float* b = shift + cell * channels;
            const float* from = in + column * channels;
            float* to = out + column * channels;
            if (swish)
                for (int64_t c = 0; c < channels; ++c)
                    to[c] = swish_of(__builtin_fmaf(from[c], a[c], b[c]));
            else
                for (int64_t c = 0; c < channels; ++c)
                    to[c] = __builtin_fmaf(from[c], a[c], b[c]);
        }
    }
}

// y = x * sigmoid(x), element by element.
void swish(const float* x, float* y, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t start = 0; start < count; start += 4096) {
        const int64_t end = start + 4096 < count ? start + 4096 : count;
        for (int64_t i = start; i < end; ++i) y[i] = swish_of(x[i]);
    }
}
}
