// ATTEND on this machine: a task for each token and KV head; keys and values are read where they
// lie. Of the history buffer there is only the index, which the counters are made of.
#pragma once

#include "../skipstone/softmax.hpp"
#include "workshop.hpp"

namespace skipstone {

struct History {
    HistoryIndex index;

    void begin() { index.begin(); }
};

// Attention of the query heads of one KV head over the positions up to `last`.
inline void attend_head(const std::uint8_t* kv, const State& s, int token, int head, int last, Bench& b, Float* y) {
    const Geometry& g = s.geometry;
    const Workshop& w = *s.workshop;
    const int per = g.heads_per_word(), hd = g.head_dim, count = last + 1;
    const std::int8_t* group = (const std::int8_t*)kv + Address(head / per) * g.group_words() * WORD_BYTES;
    const std::int8_t *keys = group + head % per * hd, *values = keys + Address(KV_BLOCK_TOKENS) * WORD_BYTES;
    const std::int8_t *key_exponents = group + head % per, *value_exponents = key_exponents + per;
    int reference = EXPONENT_MIN;
    for (int p = 0; p < count; ++p) {
        const int e = value_exponents[w.exponent_at[p]];
        reference = e > reference ? e : reference;
    }
    Float inverse[LANES];
    for (int r = 0; r < g.ratio; ++r) {
        const int q = head * g.ratio + r;
        const Mantissa* query = s.query.mantissa[token] + q * hd;
        const int query_exponent = s.query.exponent[token][q];
        Score best = Score(-0x7FFFFFFF - 1);
        for (int p = 0; p < count; ++p) {
            const std::int8_t* key = keys + w.row_at[p];
            int dot = 0;
            for (int k = 0; k < hd; ++k) dot += int(query[k]) * int(key[k]);
            b.dots[p] = dot;
        }
        for (int p = 0; p < count; ++p) b.exponents[p] = query_exponent + key_exponents[w.exponent_at[p]];
        for (int p = 0; p < count; ++p) {
            b.scores[p] = score_of(b.dots[p], b.exponents[p]);
            best = b.scores[p] > best ? b.scores[p] : best;
        }
        Int<64> total = 0;
        for (int p = 0; p < count; ++p) {
            const Probability weight = probability(Int<64>(b.scores[p]) - Int<64>(best));
            total += weight;
            b.aligned[p] = weight;
        }
        for (int p = 0; p < count; ++p) {
            // Two halves of 11 bits: products and short sums of them are exact in binary32.
            const Int<64> aligned = shift_right(b.aligned[p], reference - value_exponents[w.exponent_at[p]]);
            b.coarse[r][p] = float(aligned >> 11);
            b.fine[r][p] = float(aligned & 0x7FF);
        }
        inverse[r] = reciprocal(from_int(total, 0));
    }
    constexpr int RUN = 32;  // 32 products of 12 + 7 bits stay below 2^24
    double mixed[LANES][MAX_HEAD_DIM] = {};
    for (int first = 0; first < count; first += RUN) {
        const int end = count < first + RUN ? count : first + RUN;
        float coarse[LANES][MAX_HEAD_DIM] = {}, fine[LANES][MAX_HEAD_DIM] = {};
        for (int p = first; p < end; ++p) {
            const std::int8_t* value = values + w.row_at[p];
            for (int k = 0; k < hd; ++k) b.value[k] = value[k];
            for (int r = 0; r < g.ratio; ++r) {
                const float c = b.coarse[r][p], f = b.fine[r][p];
                for (int k = 0; k < hd; ++k) {
                    coarse[r][k] += c * b.value[k];
                    fine[r][k] += f * b.value[k];
                }
            }
        }
        for (int r = 0; r < g.ratio; ++r)
            for (int k = 0; k < hd; ++k) mixed[r][k] += 2048.0 * double(coarse[r][k]) + double(fine[r][k]);
    }
    const double power = power_of_two(reference);
    for (int r = 0; r < g.ratio; ++r)
        for (int k = 0; k < hd; ++k) y[(head * g.ratio + r) * hd + k] = mul(from_exact(mixed[r][k], power), inverse[r]);
}

inline ErrorCode attend(const Memory& memory, State& s, History& history, const Instruction& i, UInt<32> memory_words, Status& status) {
    int tokens[MAX_CHUNK];
    const int selected = select_tokens(s, i.select, 0, tokens);
    if (selected == 0) {
        count_event(status, Counter::instructions_skipped, 1);
        return ErrorCode::NONE;
    }
    const Geometry& g = s.geometry;
    if (!s.has_query) return ErrorCode::BAD_OPCODE;
    Workshop& w = *s.workshop;
    const int total = int(s.position) + tokens[selected - 1] + 1;
    const int per_word = g.tokens_per_exponent_word();
    if (!versions_within(s, i.layer, total - 1, memory_words)) return ErrorCode::ADDRESS_RANGE;
    Address first = memory_words, end = 0;  // words between which they lie
    RankWalk walk;
    walk.begin();
    for (int p = 0; p < total; ++p) {
        const Version version = walk.step(s.versions[p], i.layer);
        const KvPlaces places(g, s.store[version.layer], version.rank, 0);
        w.version[p] = version.layer;
        w.row_at[p] = places.key * WORD_BYTES;
        w.exponent_at[p] = places.exponents * WORD_BYTES + version.rank % per_word * 2 * g.heads_per_word();
        first = std::min(first, places.key);
        end = std::max(end, places.exponents + (g.head_groups() - 1) * g.group_words() + 1);
    }
    for (int p = 0; p < total; ++p) {
        w.row_at[p] -= first * WORD_BYTES;
        w.exponent_at[p] -= first * WORD_BYTES;
    }
    const int room = HistoryIndex::room(g);
    history.index.count();
    for (int n = 0; n < selected; ++n)
        for (int p = 0; p <= int(s.position) + tokens[n]; ++p) history.index.cover(p, w.version[p], i.layer, room);
    history.index.report(g, status);
    const std::uint8_t* kv = memory.view(first * WORD_BYTES, (end - first) * WORD_BYTES, w.spill);
    const double work = double(selected) * g.query() * total * 8;
    w.each(selected * g.kv_heads, work, [&](int task, int thread) {
        const int n = task / g.kv_heads, token = tokens[n];
        attend_head(kv, s, token, task % g.kv_heads, int(s.position) + token, w.benches[thread], &w.attention[std::size_t(n) * MAX_QUERY]);
    });
    for (int n = 0; n < selected; ++n) {
        const Float* y = &w.attention[std::size_t(n) * MAX_QUERY];
        quantize<ACTIVATION_BITS>(y, g.query(), GROUP, s.activation.mantissa[tokens[n]], s.activation.exponent[tokens[n]]);
        probe(s, ProbeKind::ATTENTION, tokens[n], y, g.query());
    }
    clear_others(s.activation, s.count, tokens, selected, g.query());
    s.has_activation = true;
    return ErrorCode::NONE;
}

}  // namespace skipstone
