// LINEAR: load -> multiply -> epilogue, then pack. Up to LANES tokens share each weight, one word per
// cycle, in the order in which the matrix lies in memory. For more tokens it is cut into tiles, blocks
// of columns: the first lane group's pass keeps a tile's words on chip, the other groups' passes
// replay them, so that each weight is read once however many tokens are selected.
#pragma once

#include "epilogue.hpp"

namespace skipstone {

constexpr int LANE_GROUPS = (MAX_CHUNK + LANES - 1) / LANES;
constexpr int MAX_OPERAND = MAX_HIDDEN > MAX_ACTIVATION ? MAX_HIDDEN : MAX_ACTIVATION;
constexpr int OPERAND_STEPS = MAX_OPERAND / ROWS, OPERAND_GROUPS = MAX_OPERAND / GROUP;
// Outputs that a buffer of the core holds, two for each element of SwiGLU; only LOGITS has more.
constexpr int MAX_OUTPUT_BLOCKS = (2 * MAX_OPERAND + COLUMNS - 1) / COLUMNS;
constexpr int PASS_BLOCKS = MAX_OUTPUT_BLOCKS > TILE_BLOCKS ? MAX_OUTPUT_BLOCKS : TILE_BLOCKS;
constexpr int BUFFERED_WORDS = LANE_GROUPS > 1 ? TILE_WORDS : 1;

// The input vectors of all selected tokens; token n of them is in lane n % LANES of group n / LANES.
struct Operand {
    Mantissa mantissa[LANE_GROUPS][LANES][MAX_OPERAND];
    Int<16> gap[LANE_GROUPS][LANES][OPERAND_GROUPS];  // largest exponent - the group's
    int exponent[LANE_GROUPS][LANES];                      // of the sums
    Float scale[LANE_GROUPS][LANES];
};

// A pass of one lane group over some blocks of the matrix.
struct Pass {
    Address address;  // first word
    int first_block, blocks, block_words;
    int lane_group, lanes;
    bool kept, replayed;

    int words() const { return blocks * block_words; }
};

struct Sums {
    Accumulator value[LANES][COLUMNS];
};

struct Outputs {
    Float value[LANES][PASS_BLOCKS * COLUMNS];  // of a pass
    Float best[LANE_GROUPS][LANES];             // of all passes so far
    UInt<32> argmax[LANE_GROUPS][LANES];
};

template <class V> inline void gather(const V& v, const Instruction& i, int token, int n, Operand& out) {
    const int lane_group = n / LANES, lane = n % LANES;
    const int largest = largest_exponent(v.exponent[token], i.groups);
gather_mantissas:
    for (int k = 0; k < i.groups * GROUP; k += ROWS) {
#pragma HLS pipeline II=1
#pragma HLS loop_tripcount max=OPERAND_STEPS
        for (int r = 0; r < ROWS; ++r) {
#pragma HLS unroll
            out.mantissa[lane_group][lane][k + r] = v.mantissa[token][k + r];
        }
    }
gather_gaps:
    for (int g = 0; g < i.groups; ++g) {
#pragma HLS pipeline II=1
#pragma HLS loop_tripcount max=OPERAND_GROUPS
        out.gap[lane_group][lane][g] = largest - int(v.exponent[token][g]);
    }
    out.exponent[lane_group][lane] = largest + i.exponent - LINEAR_GUARD_BITS;
}

// The words of a pass: from memory, where they are kept if other lane groups come after; or kept ones.
inline void load_tile(SKIPSTONE_MEMORY_PARAMETERS, const Pass& pass, hls::stream<Word>& out) {
    static Word tile[BUFFERED_WORDS];
    SKIPSTONE_PRAGMA(HLS bind_storage variable=tile type=ram_2p impl=SKIPSTONE_TILE_STORAGE)
#pragma HLS aggregate variable=tile
    if (pass.replayed) {
    replay_words:
        for (int n = 0; n < pass.words(); ++n) {
#pragma HLS pipeline II=1
#pragma HLS loop_tripcount max=BUFFERED_WORDS
            out.write(tile[n]);
        }
    } else {
    load_words:
        for (int n = 0; n < pass.words(); ++n) {
#pragma HLS pipeline II=1
#pragma HLS loop_tripcount max=BUFFERED_WORDS
            const Word word = read_word(SKIPSTONE_MEMORY, pass.address + n);
            if (pass.kept) tile[n] = word;
            out.write(word);
        }
    }
}

// One word per cycle: of each run of groups first the scales, then each group's weights.
inline void multiply(hls::stream<Word>& words, const Operand& x, const Instruction& i, const Pass& pass, hls::stream<Sums>& out) {
    Sums sums;
#pragma HLS array_partition variable=sums.value type=complete dim=0
    GroupDot dot[LANES][COLUMNS];
#pragma HLS array_partition variable=dot type=complete dim=0
    Word scales;
    int group = 0, step = 0;
    bool expects_scales = true;
multiply_words:
    for (int n = 0; n < pass.words(); ++n) {
#pragma HLS pipeline II=1
#pragma HLS loop_tripcount max=BUFFERED_WORDS
        const Word word = words.read();
        if (expects_scales) {
            scales = word;
            expects_scales = false;
            continue;
        }
        const bool begins = step == 0, ends = step + 1 == STEPS_PER_GROUP;
        const int in_run = group % GROUPS_PER_SCALE_WORD;
    multiply_columns:
        for (int c = 0; c < COLUMNS; ++c) {
#pragma HLS unroll
            const int raw = int(field<16>(scales, in_run * COLUMNS + c));
            const int biased = raw >> 10 & 0x1F;
            const Int<64> scale = (raw & 0x3FF) | (biased ? 1 << 10 : 0);
            const int exponent = (biased ? biased : 1) - 25;
            Weight weight[ROWS];
#pragma HLS array_partition variable=weight type=complete
            for (int r = 0; r < ROWS; ++r) {
#pragma HLS unroll
                const int nibble = int(field<4>(word, c * ROWS + r));
                weight[r] = nibble < 8 ? nibble : nibble - 16;
            }
        multiply_lanes:
            for (int t = 0; t < LANES; ++t) {
#pragma HLS unroll
                if (t >= pass.lanes) continue;
                GroupDot sum = begins ? GroupDot(0) : dot[t][c];
                for (int r = 0; r < ROWS; ++r) {
#pragma HLS unroll
                    sum = sum + weight[r] * x.mantissa[pass.lane_group][t][group * GROUP + step * ROWS + r];
                }
                dot[t][c] = sum;
                if (!ends) continue;
                const int shift = int(x.gap[pass.lane_group][t][group]) + i.exponent - exponent;
                const Int<64> raised = Int<64>(Int<64>(sum) * scale) << LINEAR_GUARD_BITS;
                const Accumulator so_far = group == 0 ? Accumulator(0) : sums.value[t][c];
                sums.value[t][c] = so_far + shift_right(raised, shift < 0 ? 0 : shift);
            }
        }
        step = ends ? 0 : step + 1;
        if (!ends) continue;
        ++group;
        if (group == i.groups) {
            out.write(sums);
            group = 0;
        }
        expects_scales = group % GROUPS_PER_SCALE_WORD == 0;
    }
}

// Scaled outputs, pair by pair; SwiGLU halves their number.
inline void epilogue(hls::stream<Sums>& in, const State& s, const Instruction& i, const Operand& x, const int* tokens,
                     const Pass& pass, Outputs& out) {
    const int half = s.geometry.head_dim / 2;
    const bool rotates = i.epilogue == Epilogue::QUERY || i.epilogue == Epilogue::KEY;
epilogue_blocks:
    for (int block = 0; block < pass.blocks; ++block) {
#pragma HLS loop_tripcount max=TILE_BLOCKS
        const Sums sums = in.read();
    epilogue_lanes:
        for (int t = 0; t < pass.lanes; ++t) {
#pragma HLS loop_tripcount max=LANES
        epilogue_pairs:
            for (int c = 0; c < COLUMNS; c += 2) {
#pragma HLS pipeline II=1
                const int at = block * COLUMNS + c, column = pass.first_block * COLUMNS + at;
                const int exponent = x.exponent[pass.lane_group][t];
                const Float scale = x.scale[pass.lane_group][t];
                Float a = scaled(sums.value[t][c], exponent, scale);
                Float b = scaled(sums.value[t][c + 1], exponent, scale);
                if (rotates) {
                    const int pair = (column / 2) % half;
                    rotate(a, b, s.angles[tokens[t]][2 * pair], s.angles[tokens[t]][2 * pair + 1], a, b);
                }
                if (i.epilogue == Epilogue::LOGITS) {
                    for (int k = 0; k < 2; ++k) {
#pragma HLS unroll
                        const Float y = k ? b : a;
                        const bool first = column + k == 0;
                        if (UInt<32>(column + k) < i.a && (first || less(out.best[pass.lane_group][t], y))) {
                            out.best[pass.lane_group][t] = y;
                            out.argmax[pass.lane_group][t] = column + k;
                        }
                    }
                }
                if (i.epilogue == Epilogue::SWIGLU) {
                    out.value[t][at / 2] = swiglu(a, b);
                } else {
                    out.value[t][at] = a;
                    out.value[t][at + 1] = b;
                }
            }
        }
    }
}

// The outputs of a pass to where they belong: whole groups of each kind.
inline void pack(SKIPSTONE_MEMORY_PARAMETERS, State& s, const Instruction& i, const int* tokens, const int* ranks, UInt<32> mode,
                 const Pass& pass, const Outputs& y) {
    const Geometry& g = s.geometry;
    const int first = pass.first_block * COLUMNS, rest = kept_columns(s, i) - first;
    const int kept = rest < pass.blocks * COLUMNS ? rest : pass.blocks * COLUMNS;
pack_lanes:
    for (int t = 0; t < pass.lanes; ++t) {
#pragma HLS loop_tripcount max=LANES
        const int token = tokens[t];
        const Float* value = y.value[t];
        switch (i.epilogue) {
            case Epilogue::RESIDUAL:
            add_residual:
                for (int k = 0; k < kept; ++k) {
#pragma HLS pipeline II=1
#pragma HLS loop_tripcount max=MAX_HIDDEN
                    s.residual[token][first + k] = add(s.residual[token][first + k], value[k]);
                }
                break;
            case Epilogue::QUERY:
                quantize<ACTIVATION_BITS>(value, kept, g.head_dim, s.query.mantissa[token] + first, s.query.exponent[token] + first / g.head_dim);
                break;
            case Epilogue::KEY:
            case Epilogue::VALUE:
            pack_heads:
                for (int k = 0; k < kept; k += g.head_dim)
                    store_kv(SKIPSTONE_MEMORY, g, s.store[i.layer], ranks[t], (first + k) / g.head_dim, i.epilogue == Epilogue::VALUE, value + k);
                break;
            case Epilogue::SWIGLU:
                quantize<ACTIVATION_BITS>(value, kept / 2, GROUP, s.activation.mantissa[token] + first / 2, s.activation.exponent[token] + first / 2 / GROUP);
                break;
            case Epilogue::LOGITS:
                s.argmax[token] = y.argmax[pass.lane_group][t];
                if ((mode & (MODE_LOGITS | MODE_ALL_LOGITS)) == 0) break;
            pack_logits:
                for (int block = 0; block < pass.blocks; ++block) {
#pragma HLS loop_tripcount max=PASS_BLOCKS
                    Byte bytes[4 * COLUMNS];
                    for (int c = 0; c < COLUMNS; ++c) {
#pragma HLS pipeline II=1
                        set_number<32>(bytes + 4 * c, to_bits(value[block * COLUMNS + c]));
                    }
                    const Address row = Address(i.b) + Address((mode & MODE_ALL_LOGITS) != 0 ? token : 0) * logits_stride(i);
                    write_bytes(SKIPSTONE_MEMORY, row * WORD_BYTES + 4 * (first + block * COLUMNS), 4 * COLUMNS, bytes);
                }
                break;
        }
    }
}

inline void linear_pass(SKIPSTONE_MEMORY_PARAMETERS, const State& s, const Instruction& i, const Operand& x, const int* tokens,
                        const Pass& pass, Outputs& y) {
#pragma HLS dataflow
    hls::stream<Word> words("words");
#pragma HLS stream variable=words depth=FIFO_WORDS
    hls::stream<Sums> sums("sums");
#pragma HLS stream variable=sums depth=2
    load_tile(SKIPSTONE_MEMORY, pass, words);
    multiply(words, x, i, pass, sums);
    epilogue(sums, s, i, x, tokens, pass, y);
}

inline ErrorCode linear(SKIPSTONE_MEMORY_PARAMETERS, State& s, const Instruction& i, UInt<32> mode, UInt<32> memory_words, Status& status) {
    int tokens[MAX_CHUNK], ranks[MAX_CHUNK];
    const int selected = select_tokens(s, i.select, mode, tokens);
    if (selected == 0) {
        count_event(status, Counter::instructions_skipped, 1);
        return ErrorCode::NONE;
    }
    const ErrorCode error = check_linear(s, i, mode, memory_words, tokens, selected);
    if (error != ErrorCode::NONE) return error;
    static Operand x;
#pragma HLS array_partition variable=x.mantissa type=complete dim=2
#pragma HLS array_partition variable=x.mantissa type=cyclic factor=ROWS dim=3
#pragma HLS array_partition variable=x.gap type=complete dim=2
    static Outputs y;
    const int first_rank = rank_of(s, i.layer, tokens[0]);
linear_operands:
    for (int n = 0; n < selected; ++n) {
#pragma HLS loop_tripcount max=MAX_CHUNK
        const int token = tokens[n];
        if (i.source == int(Source::RESIDUAL)) gather(s.x, i, token, n, x);
        else gather(s.activation, i, token, n, x);
        x.scale[n / LANES][n % LANES] = (i.flags & FLAG_NORM) != 0 ? reduce_norm(s, token) : from_bits(0x3F800000u);
        y.argmax[n / LANES][n % LANES] = 0;
        ranks[n] = first_rank + n;
    }
    const bool tiled = selected > LANES;
    const int block_words = matrix_block_words(i.groups), most = tiled ? TILE_BLOCKS : PASS_BLOCKS;
linear_tiles:
    for (int block = 0; block < i.blocks; block += most) {
        const int blocks = i.blocks - block < most ? i.blocks - block : most;
        const Address address = Address(i.address) + Address(block) * block_words;
        count_event(status, Counter::words_weights, UInt<64>(blocks) * block_words);
    linear_lane_groups:
        for (int first = 0; first < selected; first += LANES) {
#pragma HLS loop_tripcount max=LANE_GROUPS
            const int lanes = selected - first < LANES ? selected - first : LANES;
            const Pass pass{address, block, blocks, block_words, first / LANES, lanes, tiled && first == 0, first > 0};
            linear_pass(SKIPSTONE_MEMORY, s, i, x, tokens + first, pass, y);
            pack(SKIPSTONE_MEMORY, s, i, tokens + first, ranks + first, mode, pass, y);
        }
    }
    if (i.epilogue == Epilogue::RESIDUAL)
        for (int n = 0; n < selected; ++n) residual_written(s, tokens[n]);
    finish_linear(s, i, tokens, selected);
    return ErrorCode::NONE;
}

}  // namespace skipstone
