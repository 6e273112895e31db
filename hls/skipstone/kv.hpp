// The packed KV stores (skipstone.spec.layout.KvLayout): where K, V and exponents of a position lie,
// and appending to them. A position's version in layer m is that of the last layer up to m that stored
// it; its rank there is how many earlier positions that layer stored.
#pragma once

#include "state.hpp"

namespace skipstone {

struct Version {
    int layer, rank;
};

// Ranks by layer while walking the positions in order.
struct RankWalk {
    UInt<16> rank[MAX_LAYERS];

    void begin() {
        for (int l = 0; l < MAX_LAYERS; ++l) rank[l] = 0;
    }
    Version step(Map versions, int layer) {
        Version v{layer, 0};
        bool found = false;
    find_version:
        for (int l = MAX_LAYERS - 1; l >= 0; --l) {
#pragma HLS unroll
            if (l <= layer && !found && (UInt<64>(versions >> l) & 1) != 0) {
                found = true;
                v.layer = l;
            }
        }
        v.rank = int(rank[v.layer]);
    count_versions:
        for (int l = 0; l < MAX_LAYERS; ++l) {
#pragma HLS unroll
            if (l <= layer) rank[l] = rank[l] + UInt<16>(UInt<64>(versions >> l) & 1);
        }
        return v;
    }
};

// How many positions before `token` of the chunk layer l stored.
inline int rank_of(const State& s, int layer, int token) {
    int rank = int(s.stored[layer]);
count_before:
    for (int n = 0; n < token; ++n) {
#pragma HLS pipeline II=1
#pragma HLS loop_tripcount max=MAX_CHUNK
        rank += int(UInt<64>(s.versions[int(s.position) + n] >> layer) & 1);
    }
    return rank;
}

// Words of K, V and exponents at a rank of the store that begins at `store`.
struct KvPlaces {
    Address key, value, exponents;

    KvPlaces(const Geometry& g, UInt<32> store, int rank, int head_group) {
        const int block = rank / KV_BLOCK_TOKENS, at = rank % KV_BLOCK_TOKENS;
        key = Address(store) + Address(block) * g.block_words() + head_group * g.group_words() + at;
        value = key + KV_BLOCK_TOKENS;
        exponents = key - at + 2 * KV_BLOCK_TOKENS + at / g.tokens_per_exponent_word();
    }
};

// Whether all that is stored at a rank lies in memory; lower ranks then do as well.
inline bool rank_within(const Geometry& g, UInt<32> store, int rank, UInt<32> memory_words) {
    return within(KvPlaces(g, store, rank, g.head_groups() - 1).exponents, 1, memory_words);
}

// Whether all versions that attention of position `last` in `layer` sees lie in memory.
inline bool versions_within(const State& s, int layer, int last, UInt<32> memory_words) {
    bool inside = true;
    RankWalk walk;
    walk.begin();
check_positions:
    for (int p = 0; p <= last; ++p) {
#pragma HLS pipeline II=1
#pragma HLS loop_tripcount max=MAX_CONTEXT
        const Version version = walk.step(s.versions[p], layer);
        inside = inside && rank_within(s.geometry, s.store[version.layer], version.rank, memory_words);
    }
    return inside;
}

// Append K or V of one head of a token, `rank` in the store: BFP(8, head_dim) of `y`.
inline void store_kv(SKIPSTONE_MEMORY_PARAMETERS, const Geometry& g, UInt<32> store, int rank, int head, bool is_value, const Float* y) {
    KvMantissa mantissa[MAX_HEAD_DIM];
    Exponent exponent[1];
    quantize<KV_BITS>(y, g.head_dim, g.head_dim, mantissa, exponent);
    const int per = g.heads_per_word(), per_word = g.tokens_per_exponent_word(), lane = head % per;
    const KvPlaces places(g, store, rank, head / per);
    Byte bytes[MAX_HEAD_DIM], shared[1];
store_elements:
    for (int n = 0; n < g.head_dim; ++n) {
#pragma HLS pipeline II=1
        bytes[n] = Byte(mantissa[n]);
    }
    shared[0] = Byte(exponent[0]);
    const Address row = is_value ? places.value : places.key;
    write_bytes(SKIPSTONE_MEMORY, row * WORD_BYTES + lane * g.head_dim, g.head_dim, bytes);
    write_bytes(SKIPSTONE_MEMORY, places.exponents * WORD_BYTES + (rank % per_word) * 2 * per + (is_value ? per : 0) + lane, 1, shared);
}

// Which version of each position the KV history buffer holds: that of the last ATTEND in this chunk
// that covered the position. Another ATTEND that needs the same version need not read it, whatever
// was skipped in between.
struct HistoryIndex {
    Int<8> held[MAX_CONTEXT];  // the layer that stored it, or -1
    int hits, fresh, gaps;     // positions counted since `count`

    // A new chunk.
    void begin() {
    forget_positions:
        for (int p = 0; p < MAX_CONTEXT; ++p) {
#pragma HLS pipeline II=1
            held[p] = -1;
        }
    }
    // Positions that fit: each takes as many words as the model has head groups, or the next power of two.
    static int room(const Geometry& g) {
        int words = 1;
        while (words < g.head_groups()) words *= 2;
        return HISTORY_WORDS / words;
    }
    bool has(int position, int version) const { return int(held[position]) == version; }
    void count() { hits = fresh = gaps = 0; }
    // A token that attends in `layer` has used this version of the position.
    void cover(int position, int version, int layer, int room) {
        if (has(position, version)) ++hits;
        else if (version == layer) ++fresh;
        else ++gaps;
        if (position < room) held[position] = version;
    }
    void report(const Geometry& g, Status& status) const {
        const int words = 2 * g.head_groups();
        count_event(status, Counter::history_hits, UInt<64>(words) * hits);
        count_event(status, Counter::history_fresh, UInt<64>(words) * fresh);
        count_event(status, Counter::history_gaps, UInt<64>(words) * gaps);
    }
};

}  // namespace skipstone
