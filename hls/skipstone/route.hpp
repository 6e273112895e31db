// ROUTER, ROUTE and the running reductions: 1 / rms and both skip decisions of a token, from the
// mantissas of its residual stream. Exact integer sums, one term per group.
#pragma once

#include "probe.hpp"
#include "tables.hpp"

namespace skipstone {

inline ErrorCode load_router(SKIPSTONE_MEMORY_PARAMETERS, State& s, const Instruction& i, UInt<32> memory_words) {
    const int hidden = s.geometry.hidden(), groups = s.geometry.groups;
    const int exponent_words = ceil_div(2 * groups, WORD_BYTES);
    const int words = 1 + exponent_words + ceil_div(4 * hidden, WORD_BYTES);
    if (!within(i.address, words, memory_words)) return ErrorCode::ADDRESS_RANGE;
    const Address base = Address(i.address) * WORD_BYTES;
    Byte head[WORD_BYTES];
    read_bytes(SKIPSTONE_MEMORY, base, WORD_BYTES, head);
    Byte exponents[2 * MAX_HIDDEN / GROUP];
    read_bytes(SKIPSTONE_MEMORY, base + WORD_BYTES, 2 * groups, exponents);
    Byte mantissas[4 * MAX_HIDDEN];
    read_bytes(SKIPSTONE_MEMORY, base + Address(WORD_BYTES) * (1 + exponent_words), 4 * hidden, mantissas);
load_vectors:
    for (int r = 0; r < 2; ++r) {
        s.router.bias[r] = from_bits(number<32>(head + 4 * r));
        for (int g = 0; g < groups; ++g) s.router.exponent[r][g] = Exponent(exponents[2 * g + r]);
        s.router.largest[r] = largest_exponent(s.router.exponent[r], groups);
    load_mantissas:
        for (int k = 0; k < hidden; ++k) {
#pragma HLS pipeline II=1
            s.router.mantissa[r][k] = RouterMantissa(number<16>(mantissas + 4 * k + 2 * r));
        }
    }
    for (int n = 0; n < MAX_CHUNK; ++n) s.touched[n] = false;
    return ErrorCode::NONE;
}

// 1 / rms of a token.
inline Float reduce_norm(State& s, int token) {
    if (s.reduced[token]) return s.norm[token];
    const Geometry& g = s.geometry;
    const int largest = largest_exponent(s.x.exponent[token], g.groups);
    Int<64> total = 0;
sum_squares:
    for (int n = 0; n < g.groups; ++n) {
        Int<32> squares = 0;
    square_group:
        for (int k = 0; k < GROUP; ++k) {
#pragma HLS unroll factor=8
            const Int<32> m = s.x.mantissa[token][n * GROUP + k];
            squares = squares + m * m;
        }
        const int down = 2 * (largest - int(s.x.exponent[token][n]));
        total = total + shift_right(Int<64>(Int<64>(squares) << SQUARE_GUARD_BITS), down);
    }
    const Float mean = mul(from_int(total, 2 * largest - SQUARE_GUARD_BITS), g.inverse_hidden);
    s.norm[token] = rsqrt(add(mean, g.epsilon));
    s.reduced[token] = true;
    return s.norm[token];
}

// Whether router r has the token skip.
inline bool reduce_skip(const State& s, int token, int r) {
    const Geometry& g = s.geometry;
    const int largest = largest_exponent(s.x.exponent[token], g.groups);
    Int<64> total = 0;
router_product:
    for (int n = 0; n < g.groups; ++n) {
        Int<64> dot = 0;
    router_group:
        for (int k = 0; k < GROUP; ++k) {
#pragma HLS unroll factor=8
            dot = dot + Int<32>(s.x.mantissa[token][n * GROUP + k]) * Int<32>(s.router.mantissa[r][n * GROUP + k]);
        }
        const int shift = (largest - int(s.x.exponent[token][n])) + (s.router.largest[r] - int(s.router.exponent[r][n]));
        total = total + shift_right(Int<64>(dot << ROUTER_GUARD_BITS), shift);
    }
    const Float logit = add(from_int(total, largest + s.router.largest[r] - ROUTER_GUARD_BITS), s.router.bias[r]);
    return to_bits(logit) != 0 && !soft::negative(to_bits(logit));
}

inline ErrorCode route(State& s, const Instruction& i, UInt<32> memory_words, Status& status) {
    s.store[i.layer] = i.a;
    // The gateware begins to read the matrix that may follow; here only its address is checked.
    const Address words = Address(i.blocks) * matrix_block_words(i.groups);
    const Address ahead = words < Address(PREFETCH_WORDS) ? words : Address(PREFETCH_WORDS);
    if (!within(i.address, ahead, memory_words)) return ErrorCode::ADDRESS_RANGE;
route_tokens:
    for (int n = 0; n < s.count; ++n) {
        if (!s.touched[n]) {  // the gateware passes it once more over the router vectors, as x + 0
            probe(s, ProbeKind::RESIDUAL, n, s.residual[n], s.geometry.hidden());
            s.touched[n] = true;
        }
        const bool attention = s.forced[n] ? (UInt<64>(s.forced_attention[n] >> i.layer) & 1) != 0 : !reduce_skip(s, n, 0);
        const bool mlp = s.forced[n] ? (UInt<64>(s.forced_mlp[n] >> i.layer) & 1) != 0 : !reduce_skip(s, n, 1);
        s.attention[n] = attention;
        s.mlp[n] = mlp;
        s.attention_map[n] = s.attention_map[n] | UInt<64>(UInt<64>(attention) << i.layer);
        s.mlp_map[n] = s.mlp_map[n] | UInt<64>(UInt<64>(mlp) << i.layer);
        count_event(status, attention ? Counter::attention_executed : Counter::attention_skipped, 1);
        count_event(status, mlp ? Counter::mlp_executed : Counter::mlp_skipped, 1);
    }
    return ErrorCode::NONE;
}

}  // namespace skipstone
