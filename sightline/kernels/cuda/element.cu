// What the engines' buffers hold: float, float16 and bfloat16 (as its bits), and the conversions between them. The
// headers of CUDA that know these types are not on every machine that has NVRTC, so they are not used.
// Rounding is to the nearest, ties to even, and a NaN becomes 0x7FFF, whether a GPU or a C++ compiler does it.

struct Half {
    unsigned short bits;
};

struct Bfloat16 {
    unsigned short bits;
};

__device__ inline unsigned short portable_half(float value) {
    const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return 0x7FFF;
    if (magnitude >= 0x477FF000u) return static_cast<unsigned short>(sign | 0x7C00u);  // 65520 and more
    if (magnitude < 0x38800000u) {
        // A subnormal of float16: adding ½ lets the adder of the processor round to multiples of 2⁻²⁴.
        const unsigned rounded = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3F000000u;
        return static_cast<unsigned short>(sign | rounded);
    }
    const unsigned rounded = magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1u);
    return static_cast<unsigned short>(sign | rounded >> 13);
}

__device__ inline unsigned short portable_bfloat16(float value) {
    const unsigned bits = __float_as_uint(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;
    return static_cast<unsigned short>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

// Two values side by side in a register, the first in the low half.
__device__ inline unsigned pair(Half, float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
#elif defined(__CUDA_ARCH__)
    unsigned short low, high;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(low) : "f"(first));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(high) : "f"(second));
    return low | static_cast<unsigned>(high) << 16;
#else
    return portable_half(first) | static_cast<unsigned>(portable_half(second)) << 16;
#endif
}

__device__ inline unsigned pair(Bfloat16, float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
#else
    return portable_bfloat16(first) | static_cast<unsigned>(portable_bfloat16(second)) << 16;
#endif
}

__device__ inline void store(float* target, float value) { *target = value; }

template <class Element>
__device__ inline void store(Element* target, float value) {
    target->bits = static_cast<unsigned short>(pair(Element(), value, 0.0f));
}

// 16 bytes at once: four floats, or eight values of two bytes. The target is a multiple of 16.
__device__ inline void store_vector(float* target, const float (&values)[4]) {
    *reinterpret_cast<uint4*>(target) = make_uint4(__float_as_uint(values[0]), __float_as_uint(values[1]),
                                                   __float_as_uint(values[2]), __float_as_uint(values[3]));
}

template <class Element>
__device__ inline void store_vector(Element* target, const float (&values)[8]) {
    *reinterpret_cast<uint4*>(target) =
        make_uint4(pair(Element(), values[0], values[1]), pair(Element(), values[2], values[3]),
                   pair(Element(), values[4], values[5]), pair(Element(), values[6], values[7]));
}

__device__ inline double widened(double value) { return value; }
__device__ inline double widened(float value) { return value; }
__device__ inline double widened(Bfloat16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }
__device__ inline double widened(Half value) {
    const unsigned sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7FFFu;
    if (magnitude >= 0x7C00u) return __uint_as_float(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
    // The exponent moves by 112; multiplying does that for subnormals as well.
    return __uint_as_float(sign | magnitude << 13) * 5.192296858534828e33f;  // 2¹¹²
}
