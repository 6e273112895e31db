// What is on chip: the chunk of tokens being processed, the router vectors of a layer, and which
// layers stored K and V of which position.
#pragma once

#include "bfp.hpp"
#include "program.hpp"

namespace skipstone {

// Block floating point vectors of a chunk.
template <int LENGTH, int SMALLEST_GROUP> struct Vectors {
    Mantissa mantissa[MAX_CHUNK][LENGTH];
    Exponent exponent[MAX_CHUNK][LENGTH / SMALLEST_GROUP];
};

struct Router {
    RouterMantissa mantissa[2][MAX_HIDDEN];  // attention, MLP
    Exponent exponent[2][MAX_HIDDEN / GROUP];
    int largest[2];
    Float bias[2];
};

struct Registers {
    UInt<32> program_address, program_length, position, chunk_tokens, steps, eos_token, mode;
    UInt<32> memory_words;
};

struct Status {
    ErrorCode error;
    UInt<32> pc, tokens_done, next_token;
    UInt<64> counters[COUNTERS];
};

struct State {
    Byte program[MAX_PROGRAM * INSTRUCTION_BYTES];
    Geometry geometry;
    TableMap tables;
    Router router;

    UInt<32> position;
    int count;
    UInt<32> token[MAX_CHUNK];
    bool forced[MAX_CHUNK];
    Map forced_attention[MAX_CHUNK], forced_mlp[MAX_CHUNK];
    bool attention[MAX_CHUNK], mlp[MAX_CHUNK];  // decisions of the current layer: execute?
    Map attention_map[MAX_CHUNK], mlp_map[MAX_CHUNK];

    Float residual[MAX_CHUNK][MAX_HIDDEN];
    Vectors<MAX_HIDDEN, GROUP> x;
    bool reduced[MAX_CHUNK];  // `norm` is that of x
    Float norm[MAX_CHUNK];
    bool touched[MAX_CHUNK];  // x was written since the router was loaded
    Float angles[MAX_CHUNK][MAX_HEAD_DIM];  // cos, sin of each pair

    bool has_query, has_activation, has_logits;
    Vectors<MAX_QUERY, MIN_HEAD_DIM> query;
    Vectors<MAX_ACTIVATION, GROUP> activation;
    UInt<32> argmax[MAX_CHUNK];

    Map versions[MAX_CONTEXT];  // bit l: layer l stored K and V of the position
    UInt<32> store[MAX_LAYERS];  // first word of each layer's KV store
    UInt<16> stored[MAX_LAYERS];  // positions before the chunk that layer l stored
#ifndef SKIPSTONE_AP_INT
    struct Probe* probe = nullptr;
#endif
#ifdef SKIPSTONE_FAST
    struct Workshop* workshop = nullptr;
#endif
};

inline void count_event(Status& status, Counter which, UInt<64> by) {
    status.counters[int(which)] = status.counters[int(which)] + by;
}

}  // namespace skipstone
