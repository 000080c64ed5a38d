// float32 and bfloat16 behind one pair of functions, for every kernel that takes both.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

inline float to_float(uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

inline uint16_t to_bfloat16(float value) {  // to nearest, ties to even, as torch rounds
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);  // no branch: a vector
}

inline float load(const float* p) { return *p; }
inline float load(const uint16_t* p) { return to_float(*p); }
inline void store(float* p, float value) { *p = value; }
inline void store(uint16_t* p, float value) { *p = to_bfloat16(value); }

}  // namespace
