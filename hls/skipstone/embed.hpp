// EMBED: token records -> FP16 embedding rows -> residual stream; RoPE rows of the positions.
#pragma once

#include "probe.hpp"
#include "state.hpp"

namespace skipstone {

inline Float from_fp16(UInt<16> raw) {
    const int field = int(UInt<16>(raw >> 10)) & 0x1F;
    const Int<64> mantissa = (int(raw) & 0x3FF) | (field ? 1 << 10 : 0);
    return from_int(int(raw) >> 15 ? Int<64>(-mantissa) : mantissa, (field ? field : 1) - 25);
}

// A token's residual stream was written: its block floating point form follows.
inline void residual_written(State& s, int token) {
    quantize<ACTIVATION_BITS>(s.residual[token], s.geometry.hidden(), GROUP, s.x.mantissa[token], s.x.exponent[token]);
    s.reduced[token] = false;
    s.touched[token] = true;
}

// Forget what lies at or behind `position`, and count what lies before it.
inline void rewind(State& s, UInt<32> position) {
    for (int l = 0; l < MAX_LAYERS; ++l) s.stored[l] = 0;
rewind_positions:
    for (int p = 0; p < MAX_CONTEXT; ++p) {
        const bool kept = UInt<32>(p) < position;
        if (!kept) s.versions[p] = 0;
    count_layers:
        for (int l = 0; l < MAX_LAYERS; ++l) {
#pragma HLS unroll
            s.stored[l] = s.stored[l] + UInt<16>(UInt<64>(s.versions[p] >> l) & 1);
        }
    }
}

inline ErrorCode embed(SKIPSTONE_MEMORY_PARAMETERS, State& s, const Instruction& i, UInt<32> position,
                       UInt<32> count, bool fed_back, UInt<32> next_token, UInt<32> memory_words) {
    const Geometry& g = s.geometry;
    const int context = g.longest < MAX_CONTEXT ? g.longest : MAX_CONTEXT;
    if (count < 1 || count > UInt<32>(MAX_CHUNK) || UInt<64>(position) + UInt<64>(count) > UInt<64>(context))
        return ErrorCode::KV_OVERFLOW;
    const int tokens = int(count);
    if (!within(i.address, ceil_div(tokens * RECORD_BYTES, WORD_BYTES), memory_words))
        return ErrorCode::ADDRESS_RANGE;
read_records:
    for (int n = 0; n < tokens; ++n) {
        Byte record[RECORD_BYTES];
        read_bytes(SKIPSTONE_MEMORY, Address(i.address) * WORD_BYTES + n * RECORD_BYTES, RECORD_BYTES, record);
        s.token[n] = fed_back ? next_token : number<32>(record + INPUT_TOKEN);
        s.forced[n] = !fed_back && (number<32>(record + INPUT_FLAGS) & RECORD_FORCE) != 0;
        s.forced_attention[n] = number<64>(record + INPUT_ATTENTION);
        s.forced_mlp[n] = number<64>(record + INPUT_MLP);
    }
    for (int n = 0; n < tokens; ++n)
        if (s.token[n] >= s.tables.vocabulary) return ErrorCode::TOKEN_RANGE;
    for (int n = 0; n < tokens; ++n) {
        const Address row = Address(s.tables.embedding) + Address(s.token[n]) * s.tables.row_words;
        if (!within(row, s.tables.row_words, memory_words)) return ErrorCode::ADDRESS_RANGE;
    }
    const Address angles = Address(s.tables.rope) + Address(position) * s.tables.angle_words;
    if (!within(angles, Address(tokens) * s.tables.angle_words, memory_words)) return ErrorCode::ADDRESS_RANGE;

    s.position = position;
    s.count = tokens;
    s.has_query = s.has_activation = s.has_logits = false;
    rewind(s, position);
embed_tokens:
    for (int n = 0; n < tokens; ++n) {
        Byte raw[2 * MAX_HIDDEN];
        const Address row = Address(s.tables.embedding) + Address(s.token[n]) * s.tables.row_words;
        read_bytes(SKIPSTONE_MEMORY, row * WORD_BYTES, 2 * g.hidden(), raw);
    convert_row:
        for (int k = 0; k < g.hidden(); ++k) {
#pragma HLS pipeline II=1
            s.residual[n][k] = from_fp16(number<16>(raw + 2 * k));
        }
        residual_written(s, n);
        Byte rope[4 * MAX_HEAD_DIM];
        read_bytes(SKIPSTONE_MEMORY, (angles + Address(n) * s.tables.angle_words) * WORD_BYTES, 4 * g.head_dim, rope);
    read_angles:
        for (int k = 0; k < g.head_dim; ++k) {
#pragma HLS pipeline II=1
            s.angles[n][k] = from_bits(number<32>(rope + 4 * k));
        }
        s.attention[n] = s.mlp[n] = true;
        s.attention_map[n] = s.mlp_map[n] = 0;
        probe(s, ProbeKind::EMBED, n, s.residual[n], g.hidden());
    }
    return ErrorCode::NONE;
}

}  // namespace skipstone
