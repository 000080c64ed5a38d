// The draw of an id from scores: top-k, noise for the ids that are left, the largest sum.
//
// The noise is that of docs/noise.md, so the id is that of dromaius/engine/sampling.py; in torch
// the same are forty passes over all ids. Legend: B rows, V ids. Built by dromaius/nn/kernels.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

namespace {

constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15, POSITION = 0xD1B54A32D192ED03;

inline uint64_t mix(uint64_t x) {  // the finaliser of SplitMix64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

inline float gumbel(uint64_t row, uint64_t id) {
    const uint64_t h = mix(row + id * GOLDEN);
    const double u = (double(h >> 12) + 0.5) * 0x1p-52;
    return float(-std::log(-std::log(u)));
}

// A number whose order as an integer is that of the float.
inline uint32_t ordered(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

inline float from_ordered(uint32_t key) {
    const uint32_t bits = key & 0x80000000 ? key & 0x7fffffff : ~key;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// The k-th largest of n scores, 0 < k <= n: the 12 high bits by counting, the rest by selection.
float kth_largest(const float* scores, int64_t n, int64_t k) {
    static thread_local std::vector<int32_t> counts;
    static thread_local std::vector<uint32_t> keys;
    counts.assign(4096, 0);
    uint32_t most = 0;
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t high = ordered(scores[i]) >> 20;
        ++counts[high];
        most = high > most ? high : most;
    }
    uint32_t bin = most;
    while (counts[bin] < k) k -= counts[bin--];
    keys.clear();
    for (int64_t i = 0; i < n; ++i)
        if (ordered(scores[i]) >> 20 == bin) keys.push_back(ordered(scores[i]));
    std::nth_element(keys.begin(), keys.begin() + (k - 1), keys.end(), std::greater<uint32_t>());
    return from_ordered(keys[k - 1]);
}

int64_t draw(const float* scores, int64_t ids, int64_t k, uint64_t seed, uint64_t position,
             int64_t first_id) {
    const float least = k < ids ? kth_largest(scores, ids, k) : -INFINITY;
    const uint64_t row = mix(mix(seed + GOLDEN) + position * POSITION);
    float best = -INFINITY;
    int64_t drawn = 0;
    for (int64_t i = 0; i < ids; ++i) {
        if (!(scores[i] >= least)) continue;
        const float sum = scores[i] + gumbel(row, uint64_t(first_id + i));
        if (sum > best) {
            best = sum;
            drawn = i;
        }
    }
    return drawn;
}

}  // namespace

extern "C" void draw_ids(const float* scores, int64_t rows, int64_t ids, int64_t k,
                         const int64_t* seeds, const int64_t* positions, int64_t first_id,
                         int64_t* drawn, int threads) {
#pragma omp parallel for num_threads(threads) if (rows > 1)
    for (int64_t r = 0; r < rows; ++r)
        drawn[r] = draw(scores + r * ids, ids, k, uint64_t(seeds[r]), uint64_t(positions[r]), first_id);
}
