// binary32 as the core computes it (skipstone.spec.fp32): round to nearest even, subnormals are
// zero, zero has no sign, overflow saturates. `soft` is the circuit; natively, `Float` is the
// machine's float and the three operations are written so that compilers vectorise them.
#pragma once

#include "types.hpp"

namespace skipstone {
namespace soft {

using Float32 = UInt<32>;  // sign 31, biased exponent 30:23, fraction 22:0

constexpr unsigned LARGEST = 0x7F7FFFFF;

inline Float32 pack(bool negative, int exponent, UInt<32> significand) {
#pragma HLS inline
    if (exponent <= 0 || significand == 0) return 0;
    const Float32 sign = negative ? 0x80000000u : 0u;
    if (exponent >= 255) return sign | LARGEST;
    return sign | Float32(UInt<32>(exponent) << 23) | Float32(significand & 0x7FFFFFu);
}

// (-1)^negative * magnitude * 2^exponent, rounded.
inline Float32 round(bool negative, UInt<64> magnitude, int exponent) {
#pragma HLS inline
    if (magnitude == 0) return 0;
    const int top = 63 - leading_zeros(magnitude);  // the significand's first bit
    UInt<64> kept = magnitude;
    if (top > 23) {
        const int drop = top - 23;
        const UInt<64> rest = magnitude & ((UInt<64>(1) << drop) - 1);
        const UInt<64> half = UInt<64>(1) << (drop - 1);
        kept = magnitude >> drop;
        if (rest > half || (rest == half && (kept & 1) != 0)) kept = kept + 1;
    } else {
        kept = magnitude << (23 - top);
    }
    const bool carried = (kept >> 24) != 0;
    return pack(negative, top + exponent + 127 + carried, carried ? UInt<32>(0x800000) : UInt<32>(kept));
}

SKIPSTONE_ELEMENT int exponent_of(Float32 x) { return int(UInt<32>(x >> 23) & 0xFFu); }
SKIPSTONE_ELEMENT UInt<64> significand_of(Float32 x) {
    return exponent_of(x) ? UInt<64>((x & 0x7FFFFFu) | 0x800000u) : UInt<64>(0);
}
SKIPSTONE_ELEMENT bool negative(Float32 x) { return (x >> 31) != 0; }

inline Float32 mul(Float32 a, Float32 b) {
#pragma HLS inline off
    const UInt<64> product = significand_of(a) * significand_of(b);
    return round(negative(a) != negative(b), product, exponent_of(a) + exponent_of(b) - 300);
}

inline Float32 add(Float32 a, Float32 b) {
#pragma HLS inline off
    const bool swap = (b & 0x7FFFFFFFu) > (a & 0x7FFFFFFFu);
    const Float32 large = swap ? b : a, small = swap ? a : b;
    const int distance = exponent_of(large) - exponent_of(small);
    // 36 bits below the larger one hold every bit that rounding needs; what falls off is sticky.
    const UInt<64> wide = significand_of(large) << 36;
    const UInt<64> narrow = significand_of(small) << 36;
    UInt<64> aligned = distance > 60 ? UInt<64>(0) : UInt<64>(narrow >> distance);
    const bool sticky = distance > 60 ? narrow != 0 : UInt<64>(aligned << distance) != narrow;
    if (sticky) aligned = aligned | 1;
    const UInt<64> sum = negative(a) != negative(b) ? UInt<64>(wide - aligned) : UInt<64>(wide + aligned);
    return round(negative(large), sum, exponent_of(large) - 150 - 36);
}

inline Float32 from_int(Int<64> mantissa, int exponent) {
#pragma HLS inline off
    const bool below = mantissa < 0;
    return round(below, below ? UInt<64>(-mantissa) : UInt<64>(mantissa), exponent);
}

// floor(x * 2^16), saturated to [-EXP2_LIMIT, EXP2_LIMIT].
inline Int<32> to_fixed(Float32 x) {
    const int shift = exponent_of(x) - 150 + 16;
    const Int<64> magnitude = significand_of(x);
    const Int<64> signed_ = negative(x) ? Int<64>(-magnitude) : magnitude;
    if (shift >= 4) return negative(x) ? -EXP2_LIMIT : EXP2_LIMIT;  // 2^23 * 2^4 > the limit
    const Int<64> fixed = shift >= 0 ? Int<64>(signed_ << shift) : shift_right(signed_, -shift);
    return fixed > EXP2_LIMIT ? Int<64>(EXP2_LIMIT) : fixed < -EXP2_LIMIT ? Int<64>(-EXP2_LIMIT) : fixed;
}

}  // namespace soft

#ifdef SKIPSTONE_AP_INT

struct Float {
    UInt<32> bits;
};
inline Float from_bits(UInt<32> bits) { return Float{bits}; }
inline UInt<32> to_bits(Float x) { return x.bits; }
inline Float mul(Float a, Float b) { return {soft::mul(a.bits, b.bits)}; }
inline Float add(Float a, Float b) { return {soft::add(a.bits, b.bits)}; }
inline Float from_int(Int<64> mantissa, int exponent) { return {soft::from_int(mantissa, exponent)}; }
inline Int<32> to_fixed(Float x) { return soft::to_fixed(x.bits); }

#else

using Float = float;

SKIPSTONE_ELEMENT Float from_bits(UInt<32> bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
SKIPSTONE_ELEMENT UInt<32> to_bits(Float x) {
    UInt<32> bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

constexpr float LARGEST = 0x1.fffffep127f, SMALLEST = 0x1p-126f;

// What double arithmetic computed exactly, rounded once. Just below the smallest normal number,
// values round up to it.
SKIPSTONE_ELEMENT Float round_exact(double exact) {
    const double magnitude = __builtin_fabs(exact);
    exact = magnitude < 0x1p-126 * (1 - 0x1p-25) ? 0.0 : exact;
    exact = exact > double(LARGEST) ? double(LARGEST) : exact;
    exact = exact < -double(LARGEST) ? -double(LARGEST) : exact;
    return float(exact) + 0.0f;
}
SKIPSTONE_ELEMENT Float mul(Float a, Float b) { return round_exact(double(a) * double(b)); }
SKIPSTONE_ELEMENT Float add(Float a, Float b) {
    float sum = a + b;
    sum = __builtin_fabsf(sum) < SMALLEST ? 0.0f : sum;
    sum = sum > LARGEST ? LARGEST : sum;
    sum = sum < -LARGEST ? -LARGEST : sum;
    return sum + 0.0f;
}
SKIPSTONE_ELEMENT double power_of_two(int exponent) {
    const std::int64_t bits = std::int64_t(exponent + 1023) << 52;
    double x;
    std::memcpy(&x, &bits, 8);
    return x;
}
// An integer below 2^53, as a double, times a power of two: rounded to 24 bits first.
SKIPSTONE_ELEMENT Float from_exact(double integer, double power) {
    double value = double(float(integer)) * power;
    value = __builtin_fabs(value) < double(SMALLEST) ? 0.0 : value;
    value = value > double(LARGEST) ? double(LARGEST) : value;
    value = value < -double(LARGEST) ? -double(LARGEST) : value;
    return float(value) + 0.0f;
}
SKIPSTONE_ELEMENT Float from_int(Int<64> mantissa, int exponent) {
    return from_exact(double(mantissa), power_of_two(exponent));
}
SKIPSTONE_ELEMENT Int<32> to_fixed(Float x) {
    double fixed = __builtin_floor(double(x) * 65536.0);
    fixed = fixed > EXP2_LIMIT ? EXP2_LIMIT : fixed;
    fixed = fixed < -EXP2_LIMIT ? -EXP2_LIMIT : fixed;
    return Int<32>(fixed);
}

#endif

SKIPSTONE_ELEMENT Float negate(Float x) {
    // Zero has no sign.
    return to_bits(x) == 0 ? x : from_bits(to_bits(x) ^ 0x80000000u);
}

}  // namespace skipstone
