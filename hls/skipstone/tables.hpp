// exp2, reciprocal, reciprocal square root and logistic function by piecewise linear tables
// (skipstone.spec.tables).
#pragma once

#include "fp32.hpp"

namespace skipstone {

// y in [0, 2^16] for a fraction of INPUT_BITS; the result it stands for is 1 + y / 2^16.
template <int N> SKIPSTONE_ELEMENT UInt<32> interpolate(const unsigned (&bases)[N], const int (&slopes)[N], UInt<32> fraction, int piece) {
#pragma HLS inline
    const int segment = (piece << SEGMENT_BITS) | int(UInt<32>(fraction >> OFFSET_BITS));
    const int offset = int(UInt<32>(fraction & ((1u << OFFSET_BITS) - 1)));
    return bases[segment] + ((slopes[segment] * offset) >> OFFSET_BITS);
}

SKIPSTONE_ELEMENT UInt<32> exp2_mantissa(UInt<32> fraction) {
    return (1u << OUTPUT_BITS) + interpolate(EXP2_BASES, EXP2_SLOPES, fraction, 0);
}

// 2^(x / 2^16) for |x| <= EXP2_LIMIT.
SKIPSTONE_ELEMENT Float exp2_fixed(Int<32> x) {
    const UInt<32> fraction = UInt<32>(x) & 0xFFFFu;
    return from_int(Int<64>(exp2_mantissa(fraction)), int(Int<32>(x >> 16)) - OUTPUT_BITS);
}

SKIPSTONE_ELEMENT int unbiased(Float x) { return soft::exponent_of(to_bits(x)) - 127; }
SKIPSTONE_ELEMENT UInt<32> top_fraction(Float x) { return UInt<32>(to_bits(x) & 0x7FFFFFu) >> (23 - INPUT_BITS); }

SKIPSTONE_ELEMENT Float reciprocal(Float x) {
    const UInt<32> y = (1u << OUTPUT_BITS) + interpolate(RECIPROCAL_BASES, RECIPROCAL_SLOPES, top_fraction(x), 0);
    const Float value = from_int(Int<64>(y), -unbiased(x) - 1 - OUTPUT_BITS);
    return to_bits(x) == 0 ? from_bits(soft::LARGEST) : value;
}

SKIPSTONE_ELEMENT Float rsqrt(Float x) {
    if (to_bits(x) == 0) return from_bits(soft::LARGEST);
    const int exponent = unbiased(x);
    const UInt<32> y = (1u << OUTPUT_BITS) + interpolate(RSQRT_BASES, RSQRT_SLOPES, top_fraction(x), exponent & 1);
    return from_int(Int<64>(y), -(exponent >> 1) - 1 - OUTPUT_BITS);
}

// 1 / (1 + 2^-t)
SKIPSTONE_ELEMENT Float sigmoid2(Float t) {
    return reciprocal(add(from_bits(0x3F800000u), exp2_fixed(to_fixed(negate(t)))));
}

}  // namespace skipstone
