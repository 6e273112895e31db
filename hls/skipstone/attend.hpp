// ATTEND: for each selected token and head group: load K -> score; load V -> mix. Keys and values
// come from the history buffer if it holds the version that is needed, else from memory.
//
// The history buffer holds the K and V words of positions, with their exponents, in the version that
// its index names; no bit of any result depends on it.
#pragma once

#include "epilogue.hpp"
#include "softmax.hpp"

namespace skipstone {

constexpr int MAX_HEADS_PER_WORD = WORD_BYTES / MIN_HEAD_DIM;
constexpr int MAX_SCORE_LANES = MAX_QUERY / MIN_HEAD_DIM;

// K or V of one position: the heads of a head group.
struct KvItem {
    Word data;
    Exponent exponent[MAX_HEADS_PER_WORD];
};

struct History {
    KvItem keys[HISTORY_WORDS > 0 ? HISTORY_WORDS : 1], values[HISTORY_WORDS > 0 ? HISTORY_WORDS : 1];
    HistoryIndex index;

    void begin() { index.begin(); }
    // After the last walk of a token at `last` in `layer`.
    void covered(const State& s, int last, int layer, Status& status) {
        const int room = HistoryIndex::room(s.geometry);
        RankWalk walk;
        walk.begin();
        index.count();
    history_cover:
        for (int p = 0; p <= last; ++p) {
#pragma HLS loop_tripcount max=MAX_CONTEXT
#pragma HLS pipeline II=1
            index.cover(p, walk.step(s.versions[p], layer).layer, layer, room);
        }
        index.report(s.geometry, status);
    }
};

// K (or V) of the positions up to `last`, in order.
inline void load_kv(SKIPSTONE_MEMORY_PARAMETERS, const State& s, History& history, int layer, int head_group, int last,
                    bool is_value, hls::stream<KvItem>& out) {
    const Geometry& g = s.geometry;
    const int per = g.heads_per_word(), per_word = g.tokens_per_exponent_word();
    const int room = HistoryIndex::room(g);
    RankWalk walk;
    walk.begin();
load_positions:
    for (int p = 0; p <= last; ++p) {
#pragma HLS pipeline II=1
#pragma HLS loop_tripcount max=MAX_CONTEXT
        const Version version = walk.step(s.versions[p], layer);
        const int slot = p * g.head_groups() + head_group;
        KvItem item;
        if (history.index.has(p, version.layer)) {
            item = is_value ? history.values[slot] : history.keys[slot];
        } else {
            const KvPlaces places(g, s.store[version.layer], version.rank, head_group);
            item.data = read_word(SKIPSTONE_MEMORY, is_value ? places.value : places.key);
            const Word exponents = read_word(SKIPSTONE_MEMORY, places.exponents);
        take_exponents:
            for (int h = 0; h < MAX_HEADS_PER_WORD; ++h) {
#pragma HLS unroll
                if (h >= per) continue;
                const int place = (version.rank % per_word) * 2 * per + (is_value ? per : 0) + h;
                item.exponent[h] = Exponent(field<8>(exponents, place));
            }
            if (p < room) {
                if (is_value) history.values[slot] = item;
                else history.keys[slot] = item;
            }
        }
        out.write(item);
    }
}

struct Scores {
    Score value[MAX_SCORE_LANES][MAX_CONTEXT];
    Score best[MAX_SCORE_LANES];
};

inline void score(hls::stream<KvItem>& keys, const State& s, int token, int head_group, int heads, int last, Scores& out) {
    const Geometry& g = s.geometry;
    for (int lane = 0; lane < MAX_SCORE_LANES; ++lane) out.best[lane] = Score(-0x7FFFFFFF - 1);
score_positions:
    for (int p = 0; p <= last; ++p) {
#pragma HLS loop_tripcount max=MAX_CONTEXT
        const KvItem key = keys.read();
    score_lanes:
        for (int lane = 0; lane < heads * g.ratio; ++lane) {
#pragma HLS loop_tripcount max=MAX_SCORE_LANES
            const int h = lane / g.ratio, head = head_group * g.heads_per_word() * g.ratio + lane;
            Int<32> dot = 0;
        score_elements:
            for (int k = 0; k < g.head_dim; ++k) {
#pragma HLS unroll factor=MIN_HEAD_DIM
                const KvMantissa element = KvMantissa(field<8>(key.data, h * g.head_dim + k));
                dot = dot + s.query.mantissa[token][head * g.head_dim + k] * element;
            }
            const Score value = score_of(dot, int(s.query.exponent[token][head]) + int(key.exponent[h]));
            out.value[lane][p] = value;
            if (value > out.best[lane]) out.best[lane] = value;
        }
    }
}

inline void mix(hls::stream<KvItem>& values, const State& s, int head_group, int heads, int last, const Scores& scores,
                const int* reference, Float* y) {
    const Geometry& g = s.geometry;
    static Mixture mixed[MAX_SCORE_LANES][MAX_HEAD_DIM];
    Int<64> total[MAX_SCORE_LANES];
clear_mixed:
    for (int lane = 0; lane < MAX_SCORE_LANES; ++lane) {
#pragma HLS pipeline II=1
        total[lane] = 0;
        for (int k = 0; k < MAX_HEAD_DIM; ++k) mixed[lane][k] = 0;
    }
mix_positions:
    for (int p = 0; p <= last; ++p) {
#pragma HLS loop_tripcount max=MAX_CONTEXT
        const KvItem value = values.read();
    mix_lanes:
        for (int lane = 0; lane < heads * g.ratio; ++lane) {
#pragma HLS loop_tripcount max=MAX_SCORE_LANES
            const int h = lane / g.ratio;
            const Probability weight = probability(Int<64>(scores.value[lane][p]) - Int<64>(scores.best[lane]));
            total[lane] = total[lane] + weight;
            const Int<64> aligned = shift_right(Int<64>(weight), reference[h] - int(value.exponent[h]));
        mix_elements:
            for (int k = 0; k < g.head_dim; ++k) {
#pragma HLS unroll factor=MIN_HEAD_DIM
                const KvMantissa element = KvMantissa(field<8>(value.data, h * g.head_dim + k));
                mixed[lane][k] = mixed[lane][k] + aligned * element;
            }
        }
    }
mix_out:
    for (int lane = 0; lane < heads * g.ratio; ++lane) {
#pragma HLS loop_tripcount max=MAX_SCORE_LANES
        const Float inverse = reciprocal(from_int(total[lane], 0));
        const int head = head_group * g.heads_per_word() * g.ratio + lane;
        for (int k = 0; k < g.head_dim; ++k) {
#pragma HLS pipeline II=1
            y[head * g.head_dim + k] = mul(from_int(Int<64>(mixed[lane][k]), reference[lane / g.ratio]), inverse);
        }
    }
}

// Largest V exponent of each head over the visible positions: fixes the alignment before V streams.
inline void value_reference(SKIPSTONE_MEMORY_PARAMETERS, const State& s, int layer, int head_group, int heads, int last, int* reference) {
    const Geometry& g = s.geometry;
    const int per = g.heads_per_word(), per_word = g.tokens_per_exponent_word();
    for (int h = 0; h < MAX_HEADS_PER_WORD; ++h) reference[h] = EXPONENT_MIN;
    RankWalk walk;
    walk.begin();
reference_positions:
    for (int p = 0; p <= last; ++p) {
#pragma HLS pipeline II=1
#pragma HLS loop_tripcount max=MAX_CONTEXT
        const Version version = walk.step(s.versions[p], layer);
        const KvPlaces places(g, s.store[version.layer], version.rank, head_group);
        const Word exponents = read_word(SKIPSTONE_MEMORY, places.exponents);
    largest_exponents:
        for (int h = 0; h < MAX_HEADS_PER_WORD; ++h) {
#pragma HLS unroll
            if (h >= heads) continue;
            const int e = int(Exponent(field<8>(exponents, (version.rank % per_word) * 2 * per + per + h)));
            reference[h] = e > reference[h] ? e : reference[h];
        }
    }
}

inline void score_pass(SKIPSTONE_MEMORY_PARAMETERS, const State& s, History& history, int layer, int token, int head_group, int heads, int last, Scores& scores) {
#pragma HLS dataflow
    hls::stream<KvItem> keys("keys");
#pragma HLS stream variable=keys depth=FIFO_WORDS
    load_kv(SKIPSTONE_MEMORY, s, history, layer, head_group, last, false, keys);
    score(keys, s, token, head_group, heads, last, scores);
}

inline void mix_pass(SKIPSTONE_MEMORY_PARAMETERS, const State& s, History& history, int layer, int head_group, int heads, int last,
                     const Scores& scores, const int* reference, Float* y) {
#pragma HLS dataflow
    hls::stream<KvItem> values("values");
#pragma HLS stream variable=values depth=FIFO_WORDS
    load_kv(SKIPSTONE_MEMORY, s, history, layer, head_group, last, true, values);
    mix(values, s, head_group, heads, last, scores, reference, y);
}

inline ErrorCode attend(SKIPSTONE_MEMORY_PARAMETERS, State& s, History& history, const Instruction& i, UInt<32> memory_words, Status& status) {
    int tokens[MAX_CHUNK];
    const int selected = select_tokens(s, i.select, 0, tokens);
    if (selected == 0) {
        count_event(status, Counter::instructions_skipped, 1);
        return ErrorCode::NONE;
    }
    const Geometry& g = s.geometry;
    if (!s.has_query) return ErrorCode::BAD_OPCODE;
    if (!versions_within(s, i.layer, int(s.position) + tokens[selected - 1], memory_words)) return ErrorCode::ADDRESS_RANGE;
attend_tokens:
    for (int n = 0; n < selected; ++n) {
#pragma HLS loop_tripcount max=MAX_CHUNK
        const int token = tokens[n], last = int(s.position) + token;
        static Float y[MAX_QUERY];
        static Scores scores;
    attend_head_groups:
        for (int w = 0; w < g.head_groups(); ++w) {
            const int first = w * g.heads_per_word();
            const int heads = g.kv_heads - first < g.heads_per_word() ? g.kv_heads - first : g.heads_per_word();
            int reference[MAX_HEADS_PER_WORD];
            score_pass(SKIPSTONE_MEMORY, s, history, i.layer, token, w, heads, last, scores);
            value_reference(SKIPSTONE_MEMORY, s, i.layer, w, heads, last, reference);
            mix_pass(SKIPSTONE_MEMORY, s, history, i.layer, w, heads, last, scores, reference, y);
        }
        history.covered(s, last, i.layer, status);
        quantize<ACTIVATION_BITS>(y, g.query(), GROUP, s.activation.mantissa[token], s.activation.exponent[token]);
    }
    clear_others(s.activation, s.count, tokens, selected, g.query());
    s.has_activation = true;
    return ErrorCode::NONE;
}

}  // namespace skipstone
