// The inner products of LINEAR, for this machine's processor: strips of STRIP columns against the
// vectors of several tokens.
//
// A group's dot product is exact in 32 bits. Its term, floor(dot * scale * 2^k), is one fused
// multiply-add: the sum is a double in [2^52, 2^53), where the unit in the last place is 1, and the
// rounding is downwards. So sums are exact integers and equal the specification's shift-and-add.
//
// Mantissas are split into a signed high byte and an unsigned low nibble, since machines multiply
// bytes: m = 16 * high + low. Elements of a group lie in the order of the weights' nibbles: of each
// step first the even rows, then the odd ones.
#pragma once

#include <cstdlib>
#include <memory>

#include "../skipstone/epilogue.hpp"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VNNI__) && defined(__F16C__)
#define SKIPSTONE_AVX512 1
#include <immintrin.h>
#endif
#if defined(SKIPSTONE_AVX512) && defined(__AMX_INT8__) && defined(__AMX_TILE__) && defined(__linux__)
#define SKIPSTONE_AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace skipstone {

constexpr int STRIP = 16;
constexpr double ROUNDER = 0x1.8p52;  // sums start here
constexpr int MAX_GROUPS = (MAX_HIDDEN > MAX_ACTIVATION ? MAX_HIDDEN : MAX_ACTIVATION) / GROUP;
constexpr int MAX_LENGTH = MAX_GROUPS * GROUP;
constexpr int TILE_TOKENS = 16;
constexpr int CHUNK = 32;  // elements of a tile: 32 high bytes and 32 low ones

// The input vectors of an instruction, prepared.
struct alignas(64) Operands {
    std::int8_t high[MAX_CHUNK][MAX_LENGTH], low[MAX_CHUNK][MAX_LENGTH];
    std::int32_t bias[MAX_GROUPS][MAX_CHUNK];  // -8 times the sum of a group's mantissas
    double factor[MAX_GROUPS][MAX_CHUNK];      // 2^(guard - matrix' exponent - gap)
    double power[MAX_CHUNK];                   // of the sums
    Float scale[MAX_CHUNK];
    // [block of 16 tokens][chunk][token][high 32, low 32]
    alignas(64) std::int8_t tiles[(MAX_CHUNK + TILE_TOKENS - 1) / TILE_TOKENS][MAX_LENGTH / CHUNK][TILE_TOKENS][2 * CHUNK];
};

// Of a tile's chunk, where in the group its four elements `quad` begin: four of lower nibbles, then four of
// the upper nibbles of the same bytes.
constexpr int tile_quad(int chunk, int quad) {
    const int byte = chunk * (CHUNK / 2) + quad % 4 * 4, step = byte / (ROWS / 2);
    return step * ROWS + quad / 4 * (ROWS / 2) + byte % (ROWS / 2);
}

template <class V> inline void prepare(Operands& x, const V& v, const Instruction& i, int token, int n, bool tiled) {
    const int largest = largest_exponent(v.exponent[token], i.groups);
    x.power[n] = power_of_two(largest + i.exponent - LINEAR_GUARD_BITS);
    for (int g = 0; g < i.groups; ++g) {
        const Mantissa* m = v.mantissa[token] + g * GROUP;
        std::int8_t *high = x.high[n] + g * GROUP, *low = x.low[n] + g * GROUP;
        int sum = 0;
        for (int k = 0; k < GROUP; ++k) sum += m[k];
        for (int step = 0; step < STEPS_PER_GROUP; ++step)
            for (int parity = 0; parity < 2; ++parity)
                for (int j = 0; j < ROWS / 2; ++j) {
                    const int value = m[step * ROWS + 2 * j + parity], at = step * ROWS + parity * (ROWS / 2) + j;
                    high[at] = std::int8_t(value >> 4);
                    low[at] = std::int8_t(value & 15);
                }
        x.bias[g][n] = -8 * sum;
        x.factor[g][n] = power_of_two(LINEAR_GUARD_BITS - i.exponent - (largest - v.exponent[token][g]));
        if (tiled)
            for (int c = 0; c < GROUP / CHUNK; ++c) {
                std::int8_t* tile = x.tiles[n / TILE_TOKENS][g * (GROUP / CHUNK) + c][n % TILE_TOKENS];
                for (int q = 0; q < 8; ++q) {
                    const int from = tile_quad(c, q);
                    std::memcpy(tile + 4 * q, high + from, 4);
                    std::memcpy(tile + CHUNK + 4 * q, low + from, 4);
                }
            }
    }
}

struct Matrix {
    const std::uint8_t* data;
    int groups, blocks;

    int block_words() const { return matrix_block_words(groups); }
    const std::uint8_t* block(int b) const { return data + std::size_t(b) * block_words() * WORD_BYTES; }
    int strips() const { return ceil_div(blocks * COLUMNS, STRIP); }
    // First scale word of the run of group g, and first weight word of g, in a block.
    static std::size_t scales_at(int g) {
        return std::size_t(g / GROUPS_PER_SCALE_WORD) * (1 + GROUPS_PER_SCALE_WORD * STEPS_PER_GROUP) * WORD_BYTES;
    }
    static std::size_t weights_at(int g) {
        return scales_at(g) + std::size_t(1 + g % GROUPS_PER_SCALE_WORD * STEPS_PER_GROUP) * WORD_BYTES;
    }
};

// sums[n][c]: accumulators of token n and column c of the strip, as exact doubles.
using StripSums = double[MAX_CHUNK][STRIP];

// Any processor.
inline void multiply_plain(const Matrix& m, const Operands& x, int strip, int tokens, StripSums& sums) {
    for (int c = 0; c < STRIP; ++c) {
        const int column = strip * STRIP + c, in_block = column % COLUMNS;
        const bool real = column < m.blocks * COLUMNS;
        const std::uint8_t* block = real ? m.block(column / COLUMNS) : nullptr;
        std::int64_t total[MAX_CHUNK] = {};
        for (int g = 0; real && g < m.groups; ++g) {
            std::int8_t weight[GROUP];
            const std::uint8_t* words = block + Matrix::weights_at(g);
            for (int step = 0; step < STEPS_PER_GROUP; ++step)
                for (int j = 0; j < ROWS / 2; ++j) {
                    const std::uint8_t byte = words[step * WORD_BYTES + in_block * (ROWS / 2) + j];
                    weight[step * ROWS + j] = std::int8_t((byte & 15) ^ 8) - 8;
                    weight[step * ROWS + ROWS / 2 + j] = std::int8_t((byte >> 4) ^ 8) - 8;
                }
            std::uint16_t raw;
            std::memcpy(&raw, block + Matrix::scales_at(g) + 2 * (g % GROUPS_PER_SCALE_WORD * COLUMNS + in_block), 2);
            const int biased = raw >> 10 & 0x1F;
            const double scale = ((raw & 0x3FF) | (biased ? 1 << 10 : 0)) * power_of_two((biased ? biased : 1) - 25);
            for (int n = 0; n < tokens; ++n) {
                const std::int8_t *high = x.high[n] + g * GROUP, *low = x.low[n] + g * GROUP;
                int dot = 0;
                for (int k = 0; k < GROUP; ++k) dot += weight[k] * (16 * high[k] + low[k]);
                total[n] += std::int64_t(__builtin_floor(dot * (scale * x.factor[g][n])));
            }
        }
        for (int n = 0; n < tokens; ++n) sums[n][c] = double(total[n]);
    }
}

#ifdef SKIPSTONE_AVX512

// Vectors of 64 bytes that a word's strip takes; a column has this many 32-bit partial sums in each.
constexpr int VECTORS = ROWS / 8;
constexpr bool VECTORS_FIT = COLUMNS >= 8 && VECTORS >= 2 && VECTORS <= 16;

constexpr int PREFETCH_BYTES = 4096;

// The blocks that a strip's vectors and scales come from.
struct StripSource {
    const std::uint8_t* block[2];
    int offset, scale_offset;  // bytes inside a word

    StripSource(const Matrix& m, int strip) {
        const int column = strip * STRIP, b = column / COLUMNS;
        block[0] = m.block(b);
        block[1] = COLUMNS < STRIP && b + 1 < m.blocks ? m.block(b + 1) : block[0];
        offset = column % COLUMNS * (ROWS / 2);
        scale_offset = column % COLUMNS * 2;
    }
    const std::uint8_t* place(std::size_t word, int v) const {
        constexpr int PER_BLOCK = COLUMNS < STRIP ? VECTORS * COLUMNS / STRIP : VECTORS;
        return block[v / PER_BLOCK] + word + offset + 64 * (v % PER_BLOCK);
    }
    __m512i load(std::size_t word, int v) const { return _mm512_loadu_si512(place(word, v)); }
    // Far enough ahead to cross pages, where the processor's own prefetching stops.
    void prefetch(std::size_t word, int v) const { _mm_prefetch((const char*)place(word, v) + PREFETCH_BYTES, _MM_HINT_T0); }
    __m512 scales(int g) const {
        const std::size_t at = Matrix::scales_at(g) + 2 * (g % GROUPS_PER_SCALE_WORD) * COLUMNS;
        if (COLUMNS >= STRIP) return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(block[0] + at + scale_offset)));
        const __m128i a = _mm_loadu_si128((const __m128i*)(block[0] + at)), b = _mm_loadu_si128((const __m128i*)(block[1] + at));
        return _mm512_cvtph_ps(_mm256_set_m128i(b, a));
    }
};

// Column at each place of a vector of sums.
inline int strip_column(int place) {
    const int i = place / 4, j = place % 4;
    return VECTORS == 2 ? (j < 2 ? 2 * i + j : 8 + 2 * i + j - 2) : 4 * j + i;
}
inline __m512i strip_order() {
    alignas(64) int order[16];
    for (int n = 0; n < 16; ++n) order[n] = strip_column(n);
    return _mm512_load_si512(order);
}

inline __m512i shuffle(__m512i a, __m512i b, const int which) {
    return which ? _mm512_castps_si512(_mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), 0xDD))
                 : _mm512_castps_si512(_mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), 0x88));
}
inline __m512i pairs(__m512i a, __m512i b) { return _mm512_add_epi32(shuffle(a, b, 0), shuffle(a, b, 1)); }
inline __m512i halves(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD));
}
// Sums of the columns, at their places, from the partial sums in all vectors.
inline __m512i reduce(const __m512i* v) {
    if constexpr (VECTORS == 2) return pairs(v[0], v[1]);
    else if constexpr (VECTORS == 4) return pairs(pairs(v[0], v[1]), pairs(v[2], v[3]));
    else {  // first to four sums of each column in a vector
        __m512i half[VECTORS / 2];
        for (int n = 0; n < VECTORS / 2; ++n) half[n] = halves(v[2 * n], v[2 * n + 1]);
        if constexpr (VECTORS == 8) return pairs(pairs(half[0], half[1]), pairs(half[2], half[3]));
        else {
            __m512i quarter[4];
            for (int n = 0; n < 4; ++n) quarter[n] = halves(half[2 * n], half[2 * n + 1]);
            return pairs(pairs(quarter[0], quarter[1]), pairs(quarter[2], quarter[3]));
        }
    }
}

// ROWS / 2 bytes, for every column of a vector.
inline __m512i repeat(const std::int8_t* bytes) {
    if constexpr (ROWS == 16) {
        long long value;
        std::memcpy(&value, bytes, 8);
        return _mm512_set1_epi64(value);
    } else if constexpr (ROWS == 32) {
        return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)bytes));
    } else if constexpr (ROWS == 64) {
        return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i*)bytes));
    } else {
        return _mm512_loadu_si512(bytes);
    }
}

inline __m512d fused_floor(__m512d dot, __m512d scale, __m512d sum) {
    return _mm512_fmadd_round_pd(dot, scale, sum, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

inline void store_sums(const __m512d low, const __m512d high, double* sums) {
    alignas(64) double placed[16];
    const __m512d zero = _mm512_set1_pd(ROUNDER);
    _mm512_store_pd(placed, _mm512_sub_pd(low, zero));
    _mm512_store_pd(placed + 8, _mm512_sub_pd(high, zero));
    for (int n = 0; n < 16; ++n) sums[strip_column(n)] = placed[n];
}

// TOKENS tokens from `first` on, with byte dot products (VNNI): weights as w + 8, unsigned.
template <int TOKENS>
inline void multiply_vectors(const Matrix& m, const Operands& x, int strip, int first, StripSums& sums) {
    const StripSource source{m, strip};
    const __m512i order = strip_order(), nibble = _mm512_set1_epi8(0x0F), flip = _mm512_set1_epi8(8);
    __m512d low[TOKENS], high[TOKENS];
    for (int t = 0; t < TOKENS; ++t) low[t] = high[t] = _mm512_set1_pd(ROUNDER);
    for (int g = 0; g < m.groups; ++g) {
        __m512i dots[TOKENS][VECTORS];
        const std::size_t words = Matrix::weights_at(g);
        for (int v = 0; v < VECTORS; ++v) {
            __m512i coarse[TOKENS], fine[TOKENS];
            for (int t = 0; t < TOKENS; ++t) coarse[t] = fine[t] = _mm512_setzero_si512();
            for (int step = 0; step < STEPS_PER_GROUP; ++step) {
                const __m512i packed = source.load(words + std::size_t(step) * WORD_BYTES, v);
                source.prefetch(words + std::size_t(step) * WORD_BYTES, v);
                const __m512i even = _mm512_ternarylogic_epi32(packed, nibble, flip, 0x6A);
                const __m512i odd = _mm512_ternarylogic_epi32(_mm512_srli_epi16(packed, 4), nibble, flip, 0x6A);
                for (int t = 0; t < TOKENS; ++t) {
                    const std::int8_t* h = x.high[first + t] + g * GROUP + step * ROWS;
                    const std::int8_t* l = x.low[first + t] + g * GROUP + step * ROWS;
                    coarse[t] = _mm512_dpbusd_epi32(coarse[t], even, repeat(h));
                    fine[t] = _mm512_dpbusd_epi32(fine[t], even, repeat(l));
                    coarse[t] = _mm512_dpbusd_epi32(coarse[t], odd, repeat(h + ROWS / 2));
                    fine[t] = _mm512_dpbusd_epi32(fine[t], odd, repeat(l + ROWS / 2));
                }
            }
            for (int t = 0; t < TOKENS; ++t) dots[t][v] = _mm512_add_epi32(_mm512_slli_epi32(coarse[t], 4), fine[t]);
        }
        const __m512 scales = _mm512_permutexvar_ps(order, source.scales(g));
        const __m512d scale_low = _mm512_cvtps_pd(_mm512_castps512_ps256(scales));
        const __m512d scale_high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(scales, 1));
        for (int t = 0; t < TOKENS; ++t) {
            const __m512i dot = _mm512_add_epi32(reduce(dots[t]), _mm512_set1_epi32(x.bias[g][first + t]));
            const __m512d factor = _mm512_set1_pd(x.factor[g][first + t]);
            low[t] = fused_floor(_mm512_cvtepi32_pd(_mm512_castsi512_si256(dot)), _mm512_mul_pd(scale_low, factor), low[t]);
            high[t] = fused_floor(_mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(dot, 1)), _mm512_mul_pd(scale_high, factor), high[t]);
        }
    }
    for (int t = 0; t < TOKENS; ++t) store_sums(low[t], high[t], sums[first + t]);
}

#endif
#ifdef SKIPSTONE_AMX

constexpr bool TILES_FIT = VECTORS_FIT;
constexpr int TILES_AHEAD = 2;  // weights made before they are needed

struct TileShape {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {};
    std::uint8_t rows[16] = {};
};

// The kernel grants tiles per process.
inline bool tiles_allowed() {
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
}

// Once per thread and instruction; tiles 0-3 sums, 4 vectors, 5 weights, all of 16 rows.
inline void begin_tiles() {
    TileShape shape;
    for (int t = 0; t < 8; ++t) {
        shape.bytes[t] = 64;
        shape.rows[t] = 16;
    }
    _tile_loadconfig(&shape);
}

// Four rows of a tile's weights, still two to a byte: four bytes of each of 16 columns. From the vectors
// of the word that holds them (two words, if their columns are shorter), from byte 4 * first of a column on.
inline void transpose(const __m512i* v, int first, __m512i* rows) {
    if constexpr (VECTORS == 2) {
        for (int step = 0; step < 2; ++step)
            for (int q = 0; q < 2; ++q) rows[2 * step + q] = shuffle(v[2 * step], v[2 * step + 1], q);
    } else {
        __m512i four[4];  // of each column these four
        for (int w = 0; w < 4; ++w) {
            if constexpr (VECTORS == 4) {
                four[w] = v[w];
            } else if constexpr (VECTORS == 8) {
                four[w] = first == 0 ? _mm512_shuffle_i32x4(v[2 * w], v[2 * w + 1], 0x88) : _mm512_shuffle_i32x4(v[2 * w], v[2 * w + 1], 0xDD);
            } else {
                const __m512i *x = v + 4 * w;
                const auto both = [&](__m512i a, __m512i b) { return first < 8 ? _mm512_shuffle_i32x4(a, b, 0x44) : _mm512_shuffle_i32x4(a, b, 0xEE); };
                const __m512i a = both(x[0], x[1]), b = both(x[2], x[3]);
                four[w] = first % 8 == 0 ? _mm512_shuffle_i32x4(a, b, 0x88) : _mm512_shuffle_i32x4(a, b, 0xDD);
            }
        }
        const __m512i a = shuffle(four[0], four[1], 0), b = shuffle(four[0], four[1], 1);
        const __m512i c = shuffle(four[2], four[3], 0), d = shuffle(four[2], four[3], 1);
        rows[0] = shuffle(a, c, 0);
        rows[1] = shuffle(b, d, 0);
        rows[2] = shuffle(a, c, 1);
        rows[3] = shuffle(b, d, 1);
    }
}

// A strip's weights of one chunk as a tile: eight rows of 16 w for the high bytes, eight of w for
// the low ones; four elements of each column to a row, first those in the lower nibbles.
inline void weight_tile(const StripSource& source, std::size_t group_words, int chunk, std::int8_t (*tile)[64]) {
    alignas(64) static const std::int8_t SIGNED[16] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
    const __m512i table = _mm512_broadcast_i32x4(_mm_load_si128((const __m128i*)SIGNED));
    const __m512i nibble = _mm512_set1_epi8(0x0F), upper = _mm512_set1_epi8(char(0xF0));
    constexpr int WORDS = ROWS < CHUNK ? CHUNK / ROWS : 1;  // of a chunk
    __m512i packed[WORDS * VECTORS], rows[4];
    for (int word = 0; word < WORDS; ++word) {
        const std::size_t at = group_words + std::size_t(chunk * CHUNK / ROWS + word) * WORD_BYTES;
        for (int v = 0; v < VECTORS; ++v) {
            packed[word * VECTORS + v] = source.load(at, v);
            source.prefetch(at, v);
        }
    }
    transpose(packed, chunk * 4 % (ROWS / 8), rows);
    for (int r = 0; r < 4; ++r) {
        _mm512_store_si512(tile[r], _mm512_and_si512(_mm512_slli_epi16(rows[r], 4), upper));
        _mm512_store_si512(tile[4 + r], _mm512_and_si512(rows[r], upper));
        _mm512_store_si512(tile[8 + r], _mm512_shuffle_epi8(table, _mm512_and_si512(rows[r], nibble)));
        _mm512_store_si512(tile[12 + r], _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(rows[r], 4), nibble)));
    }
}

// Sums of a strip's group and all tokens, before they are scaled and added.
struct alignas(64) Dots {
    std::int32_t value[(MAX_CHUNK + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS][16];
    __m512d scale[2];
    int group;
};

// Add the terms of the tokens [from, to).
inline void settle(const Operands& x, const Dots& dots, int from, int to, StripSums& total) {
    for (int n = from; n < to; ++n) {
        const __m512d factor = _mm512_set1_pd(x.factor[dots.group][n]);
        const __m512d low = _mm512_cvtepi32_pd(_mm256_load_si256((const __m256i*)dots.value[n]));
        const __m512d high = _mm512_cvtepi32_pd(_mm256_load_si256((const __m256i*)(dots.value[n] + 8)));
        _mm512_store_pd(total[n], fused_floor(low, _mm512_mul_pd(dots.scale[0], factor), _mm512_load_pd(total[n])));
        _mm512_store_pd(total[n] + 8, fused_floor(high, _mm512_mul_pd(dots.scale[1], factor), _mm512_load_pd(total[n] + 8)));
    }
}

// While the tile unit works on a chunk, the vector units make the weights of one to come and settle
// the group before.
inline void multiply_tiles(const Matrix& m, const Operands& x, int strip, int tokens, StripSums& total) {
    constexpr int CHUNKS = GROUP / CHUNK, KEPT = TILES_AHEAD + 1;
    const StripSource source{m, strip};
    const __m512i order = strip_order();
    const int blocks = ceil_div(tokens, TILE_TOKENS), chunks = m.groups * CHUNKS;
    alignas(64) std::int8_t weights[KEPT][16][64];
    Dots dots[2];
    const auto make_weights = [&](int chunk) {
        if (chunk < chunks) weight_tile(source, Matrix::weights_at(chunk / CHUNKS), chunk % CHUNKS, weights[chunk % KEPT]);
    };
    for (int n = 0; n < tokens; ++n)
        for (int c = 0; c < STRIP; ++c) total[n][c] = ROUNDER;
    for (int c = 0; c < TILES_AHEAD; ++c) make_weights(c);
    for (int g = 0; g < m.groups; ++g) {
        Dots &now = dots[g % 2], &before = dots[1 - g % 2];
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int c = 0; c < CHUNKS; ++c) {
            const int chunk = g * CHUNKS + c;
            _tile_loadd(5, weights[chunk % KEPT], 64);
            _tile_loadd(4, x.tiles[0][chunk], 64);
            _tile_dpbssd(0, 4, 5);
            if (blocks > 1) {
                _tile_loadd(6, x.tiles[1][chunk], 64);
                _tile_dpbssd(1, 6, 5);
            }
            if (blocks > 2) {
                _tile_loadd(7, x.tiles[2][chunk], 64);
                _tile_dpbssd(2, 7, 5);
            }
            if (blocks > 3) {
                _tile_loadd(4, x.tiles[3][chunk], 64);
                _tile_dpbssd(3, 4, 5);
            }
            make_weights(chunk + TILES_AHEAD);
            if (g > 0) settle(x, before, c * tokens / CHUNKS, (c + 1) * tokens / CHUNKS, total);
        }
        _tile_stored(0, now.value[0], 64);
        if (blocks > 1) _tile_stored(1, now.value[TILE_TOKENS], 64);
        if (blocks > 2) _tile_stored(2, now.value[2 * TILE_TOKENS], 64);
        if (blocks > 3) _tile_stored(3, now.value[3 * TILE_TOKENS], 64);
        const __m512 scales = _mm512_permutexvar_ps(order, source.scales(g));
        now.scale[0] = _mm512_cvtps_pd(_mm512_castps512_ps256(scales));
        now.scale[1] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(scales, 1));
        now.group = g;
    }
    settle(x, dots[1 - m.groups % 2], 0, tokens, total);
    for (int n = 0; n < tokens; ++n) store_sums(_mm512_load_pd(total[n]), _mm512_load_pd(total[n] + 8), total[n]);
}

#endif

// Which way an instruction's products are computed; all give the same sums.
enum class Products { PLAIN, VECTORS, TILES };

inline Products best_products(int tokens, Products most) {
#ifdef SKIPSTONE_AMX
    if (TILES_FIT && most == Products::TILES && tokens >= 8) return Products::TILES;
#endif
#ifdef SKIPSTONE_AVX512
    if (VECTORS_FIT && most != Products::PLAIN) return Products::VECTORS;
#endif
    return Products::PLAIN;
}

inline Products available_products() {
#ifdef SKIPSTONE_AMX
    if (TILES_FIT && tiles_allowed()) return Products::TILES;
#endif
#ifdef SKIPSTONE_AVX512
    if (VECTORS_FIT) return Products::VECTORS;
#endif
    return Products::PLAIN;
}

inline void multiply(Products how, const Matrix& m, const Operands& x, int strip, int tokens, StripSums& sums) {
#ifdef SKIPSTONE_AMX
    if constexpr (TILES_FIT)
        if (how == Products::TILES) return multiply_tiles(m, x, strip, tokens, sums);
#endif
#ifdef SKIPSTONE_AVX512
    if constexpr (VECTORS_FIT)
        if (how == Products::VECTORS) {
            int first = 0;
            for (; first + 4 <= tokens; first += 4) multiply_vectors<4>(m, x, strip, first, sums);
            for (; first + 2 <= tokens; first += 2) multiply_vectors<2>(m, x, strip, first, sums);
            for (; first < tokens; ++first) multiply_vectors<1>(m, x, strip, first, sums);
            return;
        }
#endif
    multiply_plain(m, x, strip, tokens, sums);
}

}  // namespace skipstone
