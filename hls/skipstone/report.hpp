// NEXT: the output record of each token of the chunk.
#pragma once

#include "state.hpp"

namespace skipstone {

inline ErrorCode report(SKIPSTONE_MEMORY_PARAMETERS, const State& s, UInt<32> memory_words) {
    const Address first = Address(s.tables.records) * WORD_BYTES + Address(s.position) * RECORD_BYTES;
    if (first + s.count * RECORD_BYTES > Address(memory_words) * WORD_BYTES) return ErrorCode::ADDRESS_RANGE;
report_tokens:
    for (int n = 0; n < s.count; ++n) {
        Byte record[RECORD_BYTES];
        for (int k = 0; k < RECORD_BYTES; ++k) {
#pragma HLS unroll
            record[k] = 0;
        }
        set_number<32>(record + OUTPUT_TOKEN, s.token[n]);
        set_number<32>(record + OUTPUT_NEXT_TOKEN, s.has_logits ? s.argmax[n] : UInt<32>(0));
        set_number<64>(record + OUTPUT_ATTENTION, s.attention_map[n]);
        set_number<64>(record + OUTPUT_MLP, s.mlp_map[n]);
        set_number<32>(record + OUTPUT_POSITION, UInt<64>(s.position) + n);
        write_bytes(SKIPSTONE_MEMORY, first + n * RECORD_BYTES, RECORD_BYTES, record);
    }
    return ErrorCode::NONE;
}

}  // namespace skipstone
