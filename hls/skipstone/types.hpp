// The types of every datum, behind one switch: AMD's ap_int and hls::stream with
// SKIPSTONE_AP_INT, the machine's own integers without it. Native integers may be wider than asked
// for, so no code relies on wrapping at W bits.
#pragma once

#include <config.hpp>

#include "spec.hpp"

#ifdef SKIPSTONE_AP_INT

#include <ap_int.h>
#include <hls_stream.h>

namespace skipstone {

template <int W> using Int = ap_int<W>;
template <int W> using UInt = ap_uint<W>;
template <int W> using Bits = ap_uint<W>;  // memory words and beats

template <int N, int W> inline UInt<N> field(const Bits<W>& bits, int index) {
    return bits.range(N * index + N - 1, N * index);
}
template <int N, int W> inline void set_field(Bits<W>& bits, int index, UInt<N> value) {
    bits.range(N * index + N - 1, N * index) = value;
}
inline int leading_zeros(UInt<64> x) { return x.countLeadingZeros(); }

}  // namespace skipstone

#else

#include <cstdint>
#include <cstring>
#include <deque>
#include <type_traits>

namespace skipstone {

template <int W>
using Int = std::conditional_t<
    W <= 8, std::int8_t,
    std::conditional_t<W <= 16, std::int16_t,
                       std::conditional_t<W <= 32, std::int32_t, std::int64_t>>>;
template <int W> using UInt = std::make_unsigned_t<Int<W>>;
template <int W> struct Bits {
    std::uint8_t bytes[W / 8];
};

template <int N, int W> inline UInt<N> field(const Bits<W>& bits, int index) {
    static_assert(N == 4 || N % 8 == 0, "a nibble or whole bytes");
    if constexpr (N == 4) return bits.bytes[index / 2] >> (4 * (index % 2)) & 0xF;
    UInt<N> value;
    std::memcpy(&value, bits.bytes + index * (N / 8), sizeof value);
    return value;
}
template <int N, int W> inline void set_field(Bits<W>& bits, int index, UInt<N> value) {
    std::memcpy(bits.bytes + index * (N / 8), &value, sizeof value);
}
inline int leading_zeros(UInt<64> x) { return x ? __builtin_clzll(x) : 64; }

}  // namespace skipstone

namespace hls {
// What the kernel needs of hls::stream, unbounded.
template <class T> class stream {
    std::deque<T> queue;

  public:
    explicit stream(const char* = "") {}
    void write(const T& value) { queue.push_back(value); }
    T read() {
        T value = queue.front();
        queue.pop_front();
        return value;
    }
    bool empty() const { return queue.empty(); }
};
}  // namespace hls

#endif

// A pragma with macros in it.
#define SKIPSTONE_PRAGMA_TEXT(text) _Pragma(#text)
#define SKIPSTONE_PRAGMA(text) SKIPSTONE_PRAGMA_TEXT(text)

// Natively, loops over elements vectorise only if what they call is inlined.
#ifdef SKIPSTONE_AP_INT
#define SKIPSTONE_ELEMENT inline
#else
#define SKIPSTONE_ELEMENT inline __attribute__((always_inline))
#endif

namespace skipstone {

using Byte = UInt<8>;
using Address = UInt<64>;  // in words; wide enough for any sum of 32-bit fields
using Map = UInt<64>;      // bit l: layer l
using Mantissa = Int<ACTIVATION_BITS>;
using KvMantissa = Int<KV_BITS>;
using RouterMantissa = Int<ROUTER_BITS>;
using Weight = Int<4>;
using Exponent = Int<8>;
using GroupDot = Int<24>;      // 12 b x 4 b, 128 of them
using Accumulator = Int<48>;   // a scaled, aligned sum of group dots
using Score = Int<32>;         // base 2, SCORE_FRACTION_BITS
using Probability = UInt<24>;  // PROBABILITY_FRACTION_BITS, at most 1
using Mixture = Int<48>;       // probabilities times values

using Beat = Bits<PORT_BITS>;
struct Word {
    Beat port[PORTS];
};

// N-bit field of a word, little endian across the ports.
template <int N> inline UInt<N> field(const Word& word, int index) {
    constexpr int per_port = PORT_BITS / N;
    return field<N, PORT_BITS>(word.port[index / per_port], index % per_port);
}
template <int N> inline void set_field(Word& word, int index, UInt<N> value) {
    constexpr int per_port = PORT_BITS / N;
    set_field<N, PORT_BITS>(word.port[index / per_port], index % per_port, value);
}

// x >> by, and x << by, for any amount a shifter of the datapath meets.
template <class T> SKIPSTONE_ELEMENT T shift_right(T x, int by) { return x >> (by > 63 ? 63 : by); }

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

constexpr int MAX_HEAD_DIM = 1 << HEAD_DIM_LOG2_MAX;

}  // namespace skipstone
