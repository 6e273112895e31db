// What happens to an output of LINEAR in binary32: scaling, RoPE, SwiGLU, and where it goes.
#pragma once

#include "embed.hpp"
#include "kv.hpp"
#include "probe.hpp"
#include "tables.hpp"

namespace skipstone {

// An accumulator under its exponent, times the token's 1 / rms.
SKIPSTONE_ELEMENT Float scaled(Accumulator sum, int exponent, Float scale) {
#pragma HLS inline
    return mul(from_int(Int<64>(sum), exponent), scale);
}

// Rotate a pair by an angle.
SKIPSTONE_ELEMENT void rotate(Float a, Float b, Float cosine, Float sine, Float& first, Float& second) {
#pragma HLS inline
    first = add(mul(a, cosine), negate(mul(b, sine)));
    second = add(mul(a, sine), mul(b, cosine));
}

SKIPSTONE_ELEMENT Float swiglu(Float t, Float u) {
#pragma HLS inline
    return mul(mul(t, u), sigmoid2(t));
}

// The tokens that an instruction is for; returns how many.
inline int select_tokens(const State& s, Select select, UInt<32> mode, int* tokens) {
    int count = 0;
select_tokens:
    for (int n = 0; n < s.count; ++n) {
#pragma HLS pipeline II=1
        const bool output = (mode & MODE_NO_OUTPUT) == 0 && ((mode & MODE_ALL_LOGITS) != 0 || n + 1 == s.count);
        const bool chosen = select == Select::ALL || (select == Select::ATTENTION && s.attention[n]) ||
                            (select == Select::MLP && s.mlp[n]) || (select == Select::OUTPUT && output);
        if (chosen) tokens[count++] = n;
    }
    return count;
}

// Columns that an epilogue keeps: no buffer holds more.
inline int kept_columns(const State& s, const Instruction& i) {
    const int columns = i.blocks * COLUMNS;
    int most = columns;
    if (i.epilogue == Epilogue::RESIDUAL) most = s.geometry.hidden();
    if (i.epilogue == Epilogue::QUERY) most = s.geometry.query();
    if (i.epilogue == Epilogue::KEY || i.epilogue == Epilogue::VALUE) most = s.geometry.kv_heads * s.geometry.head_dim;
    if (i.epilogue == Epilogue::SWIGLU) most = 2 * MAX_ACTIVATION;
    return columns < most ? columns : most;
}

// A buffer of a chunk's vectors is written: the vectors of other tokens are zero.
template <class V> inline void clear_others(V& vectors, int count, const int* tokens, int selected, int length) {
    int next = 0;
clear_tokens:
    for (int n = 0; n < count; ++n) {
        if (next < selected && tokens[next] == n) {
            ++next;
            continue;
        }
        for (int k = 0; k < length; ++k) vectors.mantissa[n][k] = 0;
        for (int g = 0; g < int(sizeof vectors.exponent[n] / sizeof vectors.exponent[n][0]); ++g)
            vectors.exponent[n][g] = EXPONENT_MIN;
    }
}

// a < b
inline bool less(Float a, Float b) {
    const UInt<32> x = to_bits(a), y = to_bits(b);
    const bool below = soft::negative(x), other = soft::negative(y);
    if (below != other) return below;
    return below ? x > y : x < y;
}

// What an instruction needs to be in range before it computes.
inline ErrorCode check_linear(const State& s, const Instruction& i, UInt<32> mode, UInt<32> memory_words, const int* tokens, int selected) {
    const Geometry& g = s.geometry;
    if (i.source == int(Source::ACTIVATION) && !s.has_activation) return ErrorCode::BAD_OPCODE;
    if (!within(i.address, Address(i.blocks) * matrix_block_words(i.groups), memory_words)) return ErrorCode::ADDRESS_RANGE;
    if (i.epilogue == Epilogue::KEY || i.epilogue == Epilogue::VALUE) {
        const int end = rank_of(s, i.layer, tokens[0]) + selected;
        if (i.epilogue == Epilogue::KEY && UInt<32>(end) > i.a) return ErrorCode::KV_OVERFLOW;
        if (!rank_within(g, s.store[i.layer], end - 1, memory_words)) return ErrorCode::ADDRESS_RANGE;
    }
    if (i.epilogue == Epilogue::LOGITS && (mode & (MODE_LOGITS | MODE_ALL_LOGITS)) != 0) {
        const int rows = (mode & MODE_ALL_LOGITS) != 0 ? tokens[selected - 1] + 1 : 1;
        if (!within(i.b, Address(rows) * logits_stride(i), memory_words)) return ErrorCode::ADDRESS_RANGE;
    }
    return ErrorCode::NONE;
}

// What is true once all selected tokens are through.
inline void finish_linear(State& s, const Instruction& i, const int* tokens, int selected) {
    if (i.epilogue == Epilogue::QUERY) {
        clear_others(s.query, s.count, tokens, selected, s.geometry.query());
        s.has_query = true;
    }
    if (i.epilogue == Epilogue::SWIGLU) {
        clear_others(s.activation, s.count, tokens, selected, MAX_ACTIVATION);
        s.has_activation = true;
    }
    if (i.epilogue == Epilogue::VALUE)
        for (int n = 0; n < selected; ++n) {
            const int at = int(s.position) + tokens[n];
            s.versions[at] = s.versions[at] | UInt<64>(UInt<64>(1) << i.layer);
        }
    if (i.epilogue == Epilogue::LOGITS) {
        int next = 0;
        for (int n = 0; n < s.count; ++n) {
            if (next < selected && tokens[next] == n) ++next;
            else s.argmax[n] = 0;
        }
        s.has_logits = true;
    }
}

}  // namespace skipstone
