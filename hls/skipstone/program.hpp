// Instructions (skipstone.spec.isa): fetch, check word, decode, and which ones a core refuses
// (skipstone.spec.legality).
#pragma once

#include "fp32.hpp"
#include "memory.hpp"

namespace skipstone {

struct Instruction {
    Opcode opcode;
    Epilogue epilogue;
    Select select;
    int flags, layer;
    UInt<32> address;
    int groups, blocks, exponent, source;
    UInt<32> a, b, c;
};

// Words of a block of COLUMNS columns: weights, and a word of scales before each run of groups.
inline int matrix_block_words(int groups) { return groups * STEPS_PER_GROUP + ceil_div(groups, GROUPS_PER_SCALE_WORD); }
// Words of a token's logits in memory.
inline int logits_stride(const Instruction& i) { return ceil_div(4 * i.blocks * COLUMNS, WORD_BYTES); }

// CRC-32 of zlib: reflected, polynomial 0xEDB88320.
inline UInt<32> crc32(const Byte* bytes, int count) {
    UInt<32> crc = 0xFFFFFFFFu;
crc_bytes:
    for (int n = 0; n < count; ++n) {
#pragma HLS pipeline II=1
        crc = crc ^ UInt<32>(bytes[n]);
        for (int bit = 0; bit < 8; ++bit) {
#pragma HLS unroll
            const UInt<32> half = crc >> 1;
            crc = (crc & 1) != 0 ? UInt<32>(half ^ 0xEDB88320u) : half;
        }
    }
    return ~crc;
}

inline ErrorCode decode(const Byte* raw, Instruction& i) {
    if (number<32>(raw + 28) != crc32(raw, 28)) return ErrorCode::PROGRAM_CRC;
    const int opcode = int(raw[0]), epilogue = int(raw[1]) & 0xF, select = int(raw[1]) >> 4;
    if (opcode > int(Opcode::NEXT) || epilogue > int(Epilogue::LOGITS) || select > int(Select::OUTPUT))
        return ErrorCode::BAD_OPCODE;
    i.opcode = Opcode(opcode);
    i.epilogue = Epilogue(epilogue);
    i.select = Select(select);
    i.flags = int(raw[2]);
    i.layer = int(raw[3]);
    i.address = number<32>(raw + 4);
    i.groups = int(number<16>(raw + 8));
    i.blocks = int(number<16>(raw + 10));
    i.exponent = int(Exponent(raw[12]));
    i.source = int(raw[13]);
    i.a = number<32>(raw + 16);
    i.b = number<32>(raw + 20);
    i.c = number<32>(raw + 24);
    return ErrorCode::NONE;
}

// What GEOMETRY and TABLES fix.
struct Geometry {
    int groups, layers, head_dim, ratio, kv_heads;
    int longest;  // sequence, in tokens
    Float inverse_hidden, epsilon;

    int hidden() const { return groups * GROUP; }
    int query() const { return kv_heads * ratio * head_dim; }
    int heads_per_word() const { return WORD_BYTES / head_dim; }
    int head_groups() const { return ceil_div(kv_heads, heads_per_word()); }
    int tokens_per_exponent_word() const { return head_dim / 2; }
    int group_words() const { return 2 * KV_BLOCK_TOKENS + KV_BLOCK_TOKENS / tokens_per_exponent_word(); }
    int block_words() const { return head_groups() * group_words(); }
};

struct TableMap {
    UInt<32> embedding, rope, records, vocabulary;
    int row_words, angle_words;
};

// Whether the core refuses `i`; `met` has bit o for each opcode executed so far.
inline bool refused(const Instruction& i, const Geometry& g, unsigned met, UInt<32> program_length) {
    const unsigned needs = NEEDS[int(i.opcode)];
    if ((met & needs) != needs) return true;
    if (i.opcode == Opcode::GEOMETRY) {
        const int kv_heads = int(i.a & 0xFFFFu);
        if (i.exponent < HEAD_DIM_LOG2_MIN || i.exponent > HEAD_DIM_LOG2_MAX || 1 << i.exponent > WORD_BYTES)
            return true;
        const Int<64> query = Int<64>(kv_heads * i.source) << i.exponent;
        if (i.source < 1 || i.source > LANES) return true;
        if (query < 1 || query > MAX_QUERY || query % GROUP != 0) return true;
        if (i.groups < 1 || i.groups > MAX_HIDDEN / GROUP) return true;
        if (i.blocks < 1 || i.blocks > MAX_LAYERS) return true;
    } else if (i.opcode == Opcode::TABLES) {
        if (i.groups != ceil_div(2 * g.hidden(), WORD_BYTES) || i.blocks != ceil_div(4 * g.head_dim, WORD_BYTES))
            return true;
    } else if (i.opcode == Opcode::LINEAR) {
        const bool residual = i.source == int(Source::RESIDUAL);
        const int most = residual ? g.groups : MAX_ACTIVATION / GROUP;
        if (i.source > int(Source::ACTIVATION) || i.groups < 1 || i.groups > most || i.blocks == 0) return true;
    } else if (i.opcode == Opcode::NEXT) {
        if (i.a >= program_length) return true;
    }
    return i.layer >= MAX_LAYERS;
}

}  // namespace skipstone
