// LINEAR on this machine: tasks of whole output groups, so that each finishes its own outputs.
#pragma once

#include "workshop.hpp"

namespace skipstone {

// Columns that a task takes: whole strips, blocks, and groups of outputs.
inline int unit_columns(const State& s, Epilogue epilogue) {
    int unit = STRIP > COLUMNS ? STRIP : COLUMNS;
    const auto at_least = [&](int columns) { unit = unit < columns ? columns : unit; };
    if (epilogue == Epilogue::RESIDUAL) at_least(GROUP);
    if (epilogue == Epilogue::SWIGLU) at_least(2 * GROUP);
    if (epilogue == Epilogue::LOGITS) at_least(128);
    if (epilogue == Epilogue::QUERY || epilogue == Epilogue::KEY || epilogue == Epilogue::VALUE) at_least(s.geometry.head_dim);
    return unit;
}

// Outputs of a task's columns, from `first` on, of all tokens: bench.y.
inline void scaled_outputs(const State& s, const Instruction& i, const Matrix& m, int first, int columns, int tokens, Bench& bench) {
    const Workshop& w = *s.workshop;
    const Products how = best_products(tokens, w.products);
#ifdef SKIPSTONE_AMX
    if (how == Products::TILES) begin_tiles();
#endif
    for (int strip = 0; strip * STRIP < columns; ++strip) {
        multiply(how, m, w.x, first / STRIP + strip, tokens, bench.sums);
        for (int n = 0; n < tokens; ++n) {
            const double power = w.x.power[n];
            const Float scale = w.x.scale[n];
            for (int c = 0; c < STRIP; ++c)
                bench.y[n][strip * STRIP + c] = mul(from_exact(bench.sums[n][c], power), scale);
        }
    }
#ifdef SKIPSTONE_AMX
    if (how == Products::TILES) _tile_release();
#endif
}

inline void rotate_all(const State& s, int token, int columns, Float* y) {
    const int half = s.geometry.head_dim / 2;
    const Float* angles = s.angles[token];
    for (int head = 0; head < columns / (2 * half); ++head)
        for (int k = 0; k < half; ++k) {
            Float* pair = y + head * 2 * half + 2 * k;
            rotate(pair[0], pair[1], angles[2 * k], angles[2 * k + 1], pair[0], pair[1]);
        }
}

struct Logits {
    UInt<32> vocabulary;
    bool written, all;
    Address base;
    int stride;
};

// The outputs of one token, `columns` of them from `first` on, to where they belong.
inline void finish_outputs(const Memory& memory, State& s, const Instruction& i, int token, int rank, int first, int columns,
                           const Logits& logits, Float* y, Bench& bench, Float& best, UInt<32>& argmax) {
    const Geometry& g = s.geometry;
    switch (i.epilogue) {
        case Epilogue::RESIDUAL: {
            Float* x = s.residual[token] + first;
            for (int k = 0; k < columns; ++k) x[k] = add(x[k], y[k]);
            quantize<ACTIVATION_BITS>(x, columns, GROUP, s.x.mantissa[token] + first, s.x.exponent[token] + first / GROUP);
            break;
        }
        case Epilogue::QUERY:
            rotate_all(s, token, columns, y);
            quantize<ACTIVATION_BITS>(y, columns, g.head_dim, s.query.mantissa[token] + first, s.query.exponent[token] + first / g.head_dim);
            break;
        case Epilogue::KEY:
        case Epilogue::VALUE:
            if (i.epilogue == Epilogue::KEY) rotate_all(s, token, columns, y);
            for (int k = 0; k + g.head_dim <= columns; k += g.head_dim)
                store_kv(memory, g, s.store[i.layer], rank, (first + k) / g.head_dim, i.epilogue == Epilogue::VALUE, y + k);
            break;
        case Epilogue::SWIGLU: {
            for (int k = 0; k < columns / 2; ++k) bench.h[k] = swiglu(y[2 * k], y[2 * k + 1]);
            const int at = first / 2;
            quantize<ACTIVATION_BITS>(bench.h, columns / 2, GROUP, s.activation.mantissa[token] + at, s.activation.exponent[token] + at / GROUP);
            break;
        }
        case Epilogue::LOGITS:
            best = y[0];
            argmax = first;
            for (int k = 0; k < columns; ++k)
                if (UInt<32>(first + k) < logits.vocabulary && y[k] > best) {
                    best = y[k];
                    argmax = first + k;
                }
            if (logits.written) {
                const Address row = logits.base + Address(logits.all ? token : 0) * logits.stride;
                write_bytes(memory, row * WORD_BYTES + 4 * first, 4 * columns, reinterpret_cast<const Byte*>(y));
            }
            break;
    }
}

inline ErrorCode linear(const Memory& memory, State& s, const Instruction& i, UInt<32> mode, UInt<32> memory_words, Status& status) {
    int tokens[MAX_CHUNK];
    const int selected = select_tokens(s, i.select, mode, tokens);
    if (selected == 0) {
        count_event(status, Counter::instructions_skipped, 1);
        return ErrorCode::NONE;
    }
    const ErrorCode error = check_linear(s, i, mode, memory_words, tokens, selected);
    if (error != ErrorCode::NONE) return error;
    Workshop& w = *s.workshop;
    Matrix m{nullptr, i.groups, i.blocks};
    const Address words = Address(i.blocks) * m.block_words();
    m.data = memory.view(Address(i.address) * WORD_BYTES, words * WORD_BYTES, w.spill);
    count_event(status, Counter::words_weights, words);

    const bool tiled = best_products(selected, w.products) == Products::TILES;
    w.each(selected, double(selected) * i.groups * GROUP * 16, [&](int n, int) {
        if (i.source == int(Source::RESIDUAL)) prepare(w.x, s.x, i, tokens[n], n, tiled);
        else prepare(w.x, s.activation, i, tokens[n], n, tiled);
        w.x.scale[n] = (i.flags & FLAG_NORM) != 0 ? reduce_norm(s, tokens[n]) : 1.0f;
    });

    const int rank = rank_of(s, i.layer, tokens[0]), unit = unit_columns(s, i.epilogue);
    const bool is_logits = i.epilogue == Epilogue::LOGITS;
    const int columns = is_logits ? i.blocks * COLUMNS : kept_columns(s, i), tasks = ceil_div(columns, unit);
    const Logits logits{i.a, (mode & (MODE_LOGITS | MODE_ALL_LOGITS)) != 0, (mode & MODE_ALL_LOGITS) != 0, i.b,
                        logits_stride(i)};
    w.best.resize(std::size_t(tasks) * selected);
    w.argmax.resize(std::size_t(tasks) * selected);
    const bool probing = s.probe != nullptr && s.probe->on;
    std::vector<Float> seen(probing ? std::size_t(selected) * tasks * unit : 0);
    w.each(tasks, double(selected) * i.groups * GROUP * columns, [&](int task, int thread) {
        Bench& bench = w.benches[thread];
        const int first = task * unit, mine = columns - first < unit ? columns - first : unit;
        scaled_outputs(s, i, m, first, mine, selected, bench);
        for (int n = 0; n < selected; ++n) {
            const std::size_t at = std::size_t(task) * selected + n;
            Float* y = bench.y[n];
            finish_outputs(memory, s, i, tokens[n], rank + n, first, mine, logits, y, bench, w.best[at], w.argmax[at]);
            if (!probing) continue;
            Float* out = seen.data() + std::size_t(n) * tasks * unit + first;
            if (i.epilogue == Epilogue::RESIDUAL) y = s.residual[tokens[n]] + first;
            if (i.epilogue == Epilogue::SWIGLU) std::memcpy(out - first / 2, bench.h, 2 * mine);
            else std::memcpy(out, y, 4 * mine);
        }
    });
    for (int n = 0; n < selected; ++n) {
        const int token = tokens[n];
        if (i.epilogue == Epilogue::RESIDUAL) {
            s.reduced[token] = false;
            s.touched[token] = true;
        }
        if (is_logits) {
            std::size_t best = n;
            for (int task = 1; task < tasks; ++task) {
                const std::size_t at = std::size_t(task) * selected + n;
                if (UInt<32>(task) * unit < logits.vocabulary && w.best[at] > w.best[best]) best = at;
            }
            s.argmax[token] = w.argmax[best];
        }
        if (probing)
            probe(s, ProbeKind(unsigned(i.epilogue)), token, seen.data() + std::size_t(n) * tasks * unit,
                  i.epilogue == Epilogue::SWIGLU ? columns / 2 : columns);
    }
    finish_linear(s, i, tokens, selected);
    return ErrorCode::NONE;
}

}  // namespace skipstone
