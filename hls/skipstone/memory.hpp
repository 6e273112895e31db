// Memory, in words striped over the ports: port p holds beat p of every word. The fast engine has
// segments of the machine's own memory instead, in which a word's beats are neighbours.
//
// Callers check ranges first (`within`); nothing here can leave the memory it was given.
#pragma once

#include "types.hpp"

#ifdef SKIPSTONE_FAST
#define SKIPSTONE_MEMORY memory
#define SKIPSTONE_MEMORY_PARAMETERS const Memory& memory
#include "../fast/segments.hpp"
#else
#define SKIPSTONE_MEMORY SKIPSTONE_PORTS
#define SKIPSTONE_MEMORY_PARAMETERS SKIPSTONE_PORT_PARAMETERS
#endif

namespace skipstone {

inline bool within(Address first, Address words, Address memory_words) {
    return first + words <= memory_words;
}

#ifndef SKIPSTONE_FAST

inline Word read_word(SKIPSTONE_MEMORY_PARAMETERS, Address word) {
#pragma HLS inline
    Word value;
#define SKIPSTONE_READ(p) value.port[p] = port_##p[word];
    SKIPSTONE_FOR_PORTS(SKIPSTONE_READ)
#undef SKIPSTONE_READ
    return value;
}

inline void write_word(SKIPSTONE_MEMORY_PARAMETERS, Address word, const Word& value) {
#pragma HLS inline
#define SKIPSTONE_WRITE(p) port_##p[word] = value.port[p];
    SKIPSTONE_FOR_PORTS(SKIPSTONE_WRITE)
#undef SKIPSTONE_WRITE
}

// `count` bytes from byte `byte` on; a burst of words.
inline void read_bytes(SKIPSTONE_MEMORY_PARAMETERS, Address byte, int count, Byte* out) {
    Word word;
read_bytes:
    for (int n = 0; n < count; ++n) {
#pragma HLS pipeline II=1
        const int place = int((byte + n) % WORD_BYTES);
        if (n == 0 || place == 0) word = read_word(SKIPSTONE_MEMORY, (byte + n) / WORD_BYTES);
        out[n] = field<8>(word, place);
    }
}

// The other bytes of the first and last word are kept.
inline void write_bytes(SKIPSTONE_MEMORY_PARAMETERS, Address byte, int count, const Byte* data) {
    Word word;
write_bytes:
    for (int n = 0; n < count; ++n) {
#pragma HLS pipeline
        const int place = int((byte + n) % WORD_BYTES);
        if (n == 0 || place == 0) word = read_word(SKIPSTONE_MEMORY, (byte + n) / WORD_BYTES);
        set_field<8>(word, place, data[n]);
        if (n + 1 == count || place + 1 == WORD_BYTES)
            write_word(SKIPSTONE_MEMORY, (byte + n) / WORD_BYTES, word);
    }
}

#endif

// A little-endian number of N bits in bytes.
template <int N> inline UInt<N> number(const Byte* bytes) {
#pragma HLS inline
    UInt<N> value = 0;
    for (int n = N / 8 - 1; n >= 0; --n) {
#pragma HLS unroll
        value = UInt<N>(UInt<64>(value) << 8 | UInt<64>(bytes[n]));
    }
    return value;
}
template <int N> inline void set_number(Byte* bytes, UInt<64> value) {
#pragma HLS inline
    for (int n = 0; n < N / 8; ++n) {
#pragma HLS unroll
        bytes[n] = Byte(UInt<64>(value >> (8 * n)) & 0xFFu);
    }
}

}  // namespace skipstone
