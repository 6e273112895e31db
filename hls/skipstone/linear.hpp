// LINEAR: load -> multiply -> epilogue -> pack. Up to LANES tokens share each weight; a pass reads
// the whole matrix once, one word per cycle, in the order in which it lies in memory.
#pragma once

#include "epilogue.hpp"

namespace skipstone {

constexpr int MAX_OPERAND = MAX_HIDDEN > MAX_ACTIVATION ? MAX_HIDDEN : MAX_ACTIVATION;
constexpr int MAX_OUTPUT = 2 * MAX_OPERAND > MAX_QUERY ? 2 * MAX_OPERAND : MAX_QUERY;

// The input vectors of a pass.
struct Operand {
    Mantissa mantissa[LANES][MAX_OPERAND];
    Int<16> gap[LANES][MAX_OPERAND / GROUP];  // largest exponent - the group's
    int exponent[LANES];                      // of the sums
    Float scale[LANES];
};

struct Sums {
    Accumulator value[LANES][COLUMNS];
};

struct Outputs {
    Float value[LANES][MAX_OUTPUT];
    Float best[LANES];
    UInt<32> argmax[LANES];
};

template <class V> inline void gather_lane(const V& v, const Instruction& i, int token, int lane, Operand& out) {
    const int largest = largest_exponent(v.exponent[token], i.groups);
gather_mantissas:
    for (int k = 0; k < i.groups * GROUP; ++k) {
#pragma HLS pipeline II=1
        out.mantissa[lane][k] = v.mantissa[token][k];
    }
    for (int g = 0; g < i.groups; ++g) out.gap[lane][g] = largest - int(v.exponent[token][g]);
    out.exponent[lane] = largest + i.exponent - LINEAR_GUARD_BITS;
}

inline void load_matrix(SKIPSTONE_MEMORY_PARAMETERS, Address address, int words, hls::stream<Word>& out) {
load_matrix:
    for (int n = 0; n < words; ++n) {
#pragma HLS pipeline II=1
        out.write(read_word(SKIPSTONE_MEMORY, address + n));
    }
}

inline void multiply(hls::stream<Word>& words, const Operand& x, const Instruction& i, int lanes, hls::stream<Sums>& out) {
#pragma HLS array_partition variable=x.mantissa dim=1 complete
#pragma HLS array_partition variable=x.mantissa dim=2 cyclic factor=ROWS
multiply_blocks:
    for (int block = 0; block < i.blocks; ++block) {
        Sums sums;
#pragma HLS array_partition variable=sums.value dim=0 complete
        for (int t = 0; t < LANES; ++t)
            for (int c = 0; c < COLUMNS; ++c) sums.value[t][c] = 0;
        Word scales;
    multiply_groups:
        for (int g = 0; g < i.groups; ++g) {
            const int in_run = g % GROUPS_PER_SCALE_WORD;
            if (in_run == 0) scales = words.read();
            GroupDot dot[LANES][COLUMNS];
#pragma HLS array_partition variable=dot dim=0 complete
            for (int t = 0; t < LANES; ++t)
                for (int c = 0; c < COLUMNS; ++c) dot[t][c] = 0;
        multiply_steps:
            for (int step = 0; step < STEPS_PER_GROUP; ++step) {
#pragma HLS pipeline II=1
                const Word word = words.read();
                for (int c = 0; c < COLUMNS; ++c) {
#pragma HLS unroll
                    for (int r = 0; r < ROWS; ++r) {
#pragma HLS unroll
                        const int nibble = int(field<4>(word, c * ROWS + r));
                        const Weight weight = nibble < 8 ? nibble : nibble - 16;
                        for (int t = 0; t < lanes; ++t) {
#pragma HLS loop_tripcount max=LANES
#pragma HLS unroll
                            dot[t][c] = dot[t][c] + weight * x.mantissa[t][g * GROUP + step * ROWS + r];
                        }
                    }
                }
            }
        scale_columns:
            for (int c = 0; c < COLUMNS; ++c) {
#pragma HLS unroll
                const int raw = int(field<16>(scales, in_run * COLUMNS + c));
                const int biased = raw >> 10 & 0x1F;
                const Int<64> scale = (raw & 0x3FF) | (biased ? 1 << 10 : 0);
                const int exponent = (biased ? biased : 1) - 25;
                for (int t = 0; t < lanes; ++t) {
#pragma HLS loop_tripcount max=LANES
#pragma HLS unroll
                    const int shift = int(x.gap[t][g]) + i.exponent - exponent;
                    const Int<64> raised = Int<64>(Int<64>(dot[t][c]) * scale) << LINEAR_GUARD_BITS;
                    sums.value[t][c] = sums.value[t][c] + shift_right(raised, shift < 0 ? 0 : shift);
                }
            }
        }
        out.write(sums);
    }
}

// Scaled outputs, pair by pair; SwiGLU halves their number. Logits leave for memory as they come.
inline void epilogue(SKIPSTONE_MEMORY_PARAMETERS, hls::stream<Sums>& in, const State& s, const Instruction& i, const Operand& x,
                     const int* tokens, int lanes, UInt<32> mode, Outputs& out) {
    const int kept = kept_columns(s, i), half = s.geometry.head_dim / 2;
    const bool rotates = i.epilogue == Epilogue::QUERY || i.epilogue == Epilogue::KEY;
    const bool writes = (mode & (MODE_LOGITS | MODE_ALL_LOGITS)) != 0;
    const int stride = ceil_div(4 * i.blocks * COLUMNS, WORD_BYTES);
epilogue_blocks:
    for (int block = 0; block < i.blocks; ++block) {
        const Sums sums = in.read();
    epilogue_lanes:
        for (int t = 0; t < lanes; ++t) {
            Byte logits[4 * COLUMNS];
        epilogue_pairs:
            for (int c = 0; c < COLUMNS; c += 2) {
#pragma HLS pipeline II=1
                const int column = block * COLUMNS + c;
                Float a = scaled(sums.value[t][c], x.exponent[t], x.scale[t]);
                Float b = scaled(sums.value[t][c + 1], x.exponent[t], x.scale[t]);
                if (rotates) {
                    const int pair = (column / 2) % half;
                    rotate(a, b, s.angles[tokens[t]][2 * pair], s.angles[tokens[t]][2 * pair + 1], a, b);
                }
                if (i.epilogue == Epilogue::LOGITS) {
                    set_number<32>(logits + 4 * c, to_bits(a));
                    set_number<32>(logits + 4 * c + 4, to_bits(b));
                    for (int k = 0; k < 2; ++k) {
                        const Float y = k ? b : a;
                        const bool first = column + k == 0;
                        if (UInt<32>(column + k) < i.a && (first || less(out.best[t], y))) {
                            out.best[t] = y;
                            out.argmax[t] = column + k;
                        }
                    }
                } else if (column < kept) {
                    if (i.epilogue == Epilogue::SWIGLU) {
                        out.value[t][column / 2] = swiglu(a, b);
                    } else {
                        out.value[t][column] = a;
                        out.value[t][column + 1] = b;
                    }
                }
            }
            if (i.epilogue == Epilogue::LOGITS && writes) {
                const int row = (mode & MODE_ALL_LOGITS) != 0 ? tokens[t] : 0;
                write_bytes(SKIPSTONE_MEMORY, (Address(i.b) + Address(row) * stride) * WORD_BYTES + 4 * block * COLUMNS, 4 * COLUMNS, logits);
            }
        }
    }
}

// Whole vectors to where they belong.
inline void pack(SKIPSTONE_MEMORY_PARAMETERS, State& s, const Instruction& i, const int* tokens, int lanes, const int* ranks, Outputs& y) {
    const Geometry& g = s.geometry;
    const int kept = kept_columns(s, i);
pack_lanes:
    for (int t = 0; t < lanes; ++t) {
        const int token = tokens[t];
        const Float* value = y.value[t];
        switch (i.epilogue) {
            case Epilogue::RESIDUAL:
            add_residual:
                for (int k = 0; k < kept; ++k) {
#pragma HLS pipeline II=1
                    s.residual[token][k] = add(s.residual[token][k], value[k]);
                }
                residual_written(s, token);
                break;
            case Epilogue::QUERY:
                quantize<ACTIVATION_BITS>(value, kept, g.head_dim, s.query.mantissa[token], s.query.exponent[token]);
                break;
            case Epilogue::KEY:
            case Epilogue::VALUE:
                for (int head = 0; head < g.kv_heads; ++head)
                    store_kv(SKIPSTONE_MEMORY, g, s.store[i.layer], ranks[t], head, i.epilogue == Epilogue::VALUE, value + head * g.head_dim);
                break;
            case Epilogue::SWIGLU:
                quantize<ACTIVATION_BITS>(value, kept / 2, GROUP, s.activation.mantissa[token], s.activation.exponent[token]);
                break;
            case Epilogue::LOGITS: s.argmax[token] = y.argmax[t]; break;
        }
    }
}

inline void linear_pass(SKIPSTONE_MEMORY_PARAMETERS, const State& s, const Instruction& i, const Operand& x, const int* tokens,
                        int lanes, UInt<32> mode, Outputs& y) {
#pragma HLS dataflow
    hls::stream<Word> words("words");
#pragma HLS stream variable=words depth=FIFO_WORDS
    hls::stream<Sums> sums("sums");
#pragma HLS stream variable=sums depth=2
    const int block_words = i.groups * STEPS_PER_GROUP + ceil_div(i.groups, GROUPS_PER_SCALE_WORD);
    load_matrix(SKIPSTONE_MEMORY, i.address, i.blocks * block_words, words);
    multiply(words, x, i, lanes, sums);
    epilogue(SKIPSTONE_MEMORY, sums, s, i, x, tokens, lanes, mode, y);
}

inline ErrorCode linear(SKIPSTONE_MEMORY_PARAMETERS, State& s, const Instruction& i, UInt<32> mode, UInt<32> memory_words, Status& status) {
    int tokens[MAX_CHUNK];
    const int selected = select_tokens(s, i.select, mode, tokens);
    if (selected == 0) {
        count_event(status, Counter::instructions_skipped, 1);
        return ErrorCode::NONE;
    }
    const ErrorCode error = check_linear(s, i, mode, memory_words, tokens, selected);
    if (error != ErrorCode::NONE) return error;
    const int block_words = i.groups * STEPS_PER_GROUP + ceil_div(i.groups, GROUPS_PER_SCALE_WORD);
    count_event(status, Counter::words_weights, UInt<64>(i.blocks) * block_words);
    const int first_rank = rank_of(s, i.layer, tokens[0]);
linear_passes:
    for (int first = 0; first < selected; first += LANES) {
        const int lanes = selected - first < LANES ? selected - first : LANES;
        static Operand x;
        static Outputs y;
        int ranks[LANES];
        for (int t = 0; t < lanes; ++t) {
            const int token = tokens[first + t];
            if (i.source == int(Source::RESIDUAL)) gather_lane(s.x, i, token, t, x);
            else gather_lane(s.activation, i, token, t, x);
            x.scale[t] = (i.flags & FLAG_NORM) != 0 ? reduce_norm(s, token) : from_bits(0x3F800000u);
            ranks[t] = first_rank + first + t;
            y.argmax[t] = 0;
        }
        linear_pass(SKIPSTONE_MEMORY, s, i, x, tokens + first, lanes, mode, y);
        pack(SKIPSTONE_MEMORY, s, i, tokens + first, lanes, ranks, y);
    }
    finish_linear(s, i, tokens, selected);
    return ErrorCode::NONE;
}

}  // namespace skipstone
