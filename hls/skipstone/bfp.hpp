// Block floating point (skipstone.spec.formats.BlockFloat): the smallest shared exponent at which
// every rounded magnitude is below 2^(BITS - 1).
#pragma once

#include "fp32.hpp"

namespace skipstone {

// What an element asks of the shared exponent: its own, one more if rounding carries, 0 for zero.
template <int BITS> SKIPSTONE_ELEMENT int top_of(Float x) {
    const UInt<32> raw = to_bits(x);
    const UInt<32> kept = (1u << (BITS - 1)) - 1;
    const int biased = int(UInt<32>(raw >> 23) & 0xFFu);
    const int carries = (UInt<32>(raw >> (24 - BITS)) & kept) == kept;
    return biased == 0 ? 0 : biased + carries;
}

template <int BITS> inline int shared_exponent(int top) {
    const int exponent = top - 127 - (BITS - 2);
    return top == 0 || exponent < EXPONENT_MIN ? EXPONENT_MIN
           : exponent > EXPONENT_MAX           ? EXPONENT_MAX
                                               : exponent;
}

// x / 2^exponent, rounded to nearest even.
SKIPSTONE_ELEMENT Int<32> mantissa_of(Float x, int exponent) {
#ifdef SKIPSTONE_AP_INT
    const int shift = exponent - (soft::exponent_of(to_bits(x)) - 150);  // right, at least 12
    const UInt<64> significand = soft::significand_of(to_bits(x));
    if (shift > 40) return 0;
    const UInt<64> rest = significand & ((UInt<64>(1) << shift) - 1), half = UInt<64>(1) << (shift - 1);
    UInt<64> kept = significand >> shift;
    if (rest > half || (rest == half && (kept & 1) != 0)) kept = kept + 1;
    return soft::negative(to_bits(x)) ? Int<32>(-Int<32>(kept)) : Int<32>(kept);
#else
    // Adding and subtracting 1.5 * 2^52 rounds to an integer.
    const double scaled = double(x) * power_of_two(-exponent);
    return Int<32>((scaled + 0x1.8p52) - 0x1.8p52);
#endif
}

// BFP(BITS, group) of `length` values.
template <int BITS, class M>
inline void quantize(const Float* x, int length, int group, M* mantissa, Exponent* exponent) {
quantize_groups:
    for (int g = 0; g < length / group; ++g) {
        int top = 0;
    find_exponent:
        for (int n = 0; n < group; ++n) {
#pragma HLS pipeline II=1
            const int mine = top_of<BITS>(x[g * group + n]);
            top = mine > top ? mine : top;
        }
        const int shared = shared_exponent<BITS>(top);
        exponent[g] = shared;
    round_mantissas:
        for (int n = 0; n < group; ++n) {
#pragma HLS pipeline II=1
            mantissa[g * group + n] = M(mantissa_of(x[g * group + n], shared));
        }
    }
}

inline int largest_exponent(const Exponent* exponent, int groups) {
    int largest = EXPONENT_MIN;
largest_of_groups:
    for (int g = 0; g < groups; ++g) {
#pragma HLS pipeline II=1
        largest = int(exponent[g]) > largest ? int(exponent[g]) : largest;
    }
    return largest;
}

}  // namespace skipstone
