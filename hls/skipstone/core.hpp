// The sequencer: fetches the program, and executes it instruction by instruction, predicated on the
// routers' decisions. Every instruction is one function, in the header of its name.
#pragma once

#include "report.hpp"
#include "route.hpp"

#ifdef SKIPSTONE_FAST
#include "../fast/attend.hpp"
#include "../fast/linear.hpp"
#else
#include "attend.hpp"
#include "linear.hpp"
#endif

namespace skipstone {

#ifdef SKIPSTONE_FAST
inline bool stopped(const State& s) { return s.workshop->stop; }
#else
inline bool stopped(const State&) { return false; }
#endif

inline void set_geometry(State& s, const Instruction& i) {
    Geometry& g = s.geometry;
    g.groups = i.groups;
    g.layers = i.blocks;
    g.head_dim = 1 << i.exponent;
    g.ratio = i.source;
    g.kv_heads = int(i.a & 0xFFFFu);
    g.longest = int(UInt<32>(i.a >> 16));
    g.inverse_hidden = from_bits(i.b);
    g.epsilon = from_bits(i.c);
}

inline void set_tables(State& s, const Instruction& i) {
    s.tables = TableMap{i.address, i.a, i.b, i.c, i.groups, i.blocks};
}

inline void run(SKIPSTONE_MEMORY_PARAMETERS, const Registers& r, State& s, History& history, Status& status) {
    status.error = ErrorCode::NONE;
    status.pc = status.tokens_done = status.next_token = 0;
    const UInt<64> errors = status.counters[int(Counter::errors)];
    for (int n = 0; n < COUNTERS; ++n) status.counters[n] = 0;
    status.counters[int(Counter::errors)] = errors;

    const UInt<32> length = r.program_length;
    if (length < 1 || length > UInt<32>(MAX_PROGRAM)) {
        status.error = ErrorCode::BAD_OPCODE;
    } else if (!within(r.program_address, ceil_div(int(length) * INSTRUCTION_BYTES, WORD_BYTES), r.memory_words)) {
        status.error = ErrorCode::ADDRESS_RANGE;
    } else {
        read_bytes(SKIPSTONE_MEMORY, Address(r.program_address) * WORD_BYTES, int(length) * INSTRUCTION_BYTES, s.program);
    }

    UInt<32> pc = 0, position = r.position, count = r.chunk_tokens, steps = r.steps;
    bool fed_back = false, halted = false;
    unsigned met = 0;
instructions:
    while (status.error == ErrorCode::NONE && !halted && !stopped(s)) {
        status.pc = pc;
        if (pc >= length) {
            status.error = ErrorCode::BAD_OPCODE;
            break;
        }
        Instruction i;
        status.error = decode(s.program + int(pc) * INSTRUCTION_BYTES, i);
        if (status.error != ErrorCode::NONE) break;
        if (refused(i, s.geometry, met, length)) {
            status.error = ErrorCode::BAD_OPCODE;
            break;
        }
        met |= 1u << int(i.opcode);
        count_event(status, Counter::instructions, 1);
        pc = pc + 1;
        switch (i.opcode) {
            case Opcode::HALT: halted = true; break;
            case Opcode::GEOMETRY: set_geometry(s, i); break;
            case Opcode::TABLES: set_tables(s, i); break;
            case Opcode::ROUTER: status.error = load_router(SKIPSTONE_MEMORY, s, i, r.memory_words); break;
            case Opcode::EMBED:
                history.begin();
                status.error = embed(SKIPSTONE_MEMORY, s, i, position, count, fed_back, status.next_token, r.memory_words);
                break;
            case Opcode::ROUTE: status.error = route(s, i, r.memory_words, status); break;
            case Opcode::LINEAR: status.error = linear(SKIPSTONE_MEMORY, s, i, r.mode, r.memory_words, status); break;
            case Opcode::ATTEND: status.error = attend(SKIPSTONE_MEMORY, s, history, i, r.memory_words, status); break;
            case Opcode::NEXT:
                status.error = report(SKIPSTONE_MEMORY, s, r.memory_words);
                if (status.error != ErrorCode::NONE) break;
                status.tokens_done = status.tokens_done + s.count;
                if (s.has_logits) status.next_token = s.argmax[s.count - 1];
                if (steps != 0 && status.next_token != r.eos_token) {
                    position = position + count;
                    count = 1;
                    steps = steps - 1;
                    fed_back = true;
                    pc = i.a;
                }
                break;
        }
    }
    if (status.error != ErrorCode::NONE)
        status.counters[int(Counter::errors)] = status.counters[int(Counter::errors)] + 1;
}

}  // namespace skipstone
