// Scores and un-normalised probabilities of attention, in base 2.
#pragma once

#include "tables.hpp"

namespace skipstone {

// dot * 2^exponent as a base-2 score.
SKIPSTONE_ELEMENT Score score_of(Int<32> dot, int exponent) {
#pragma HLS inline
    const int up = exponent + SCORE_FRACTION_BITS;
    const Int<64> raised = Int<64>(dot) << (up < 0 ? 0 : up > 36 ? 36 : up);
    const Int<64> score = shift_right(raised, up < 0 ? -up : 0);
    const Int<64> most = 0x7FFFFFFF;
    return score > most ? Score(most) : score < -most - 1 ? Score(-most - 1) : Score(score);
}

// 2^below for a difference of scores.
SKIPSTONE_ELEMENT Probability probability(Int<64> below) {
#pragma HLS inline
    const UInt<32> mantissa = exp2_mantissa(UInt<32>(below & 0xFFFF));
    return Probability(shift_right(UInt<64>(UInt<64>(mantissa) << (PROBABILITY_FRACTION_BITS - 16)), int(-Int<64>(below >> 16)) ));
}

}  // namespace skipstone
