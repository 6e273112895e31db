// C simulation: the kernel behind a C interface, with a flat memory dealt out to its ports.
#include <vector>

#include "skipstone/kernel.hpp"

using namespace skipstone;

namespace {

struct Memory {
    std::vector<Beat> port[PORTS];

    Memory(const unsigned char* flat, size_t words) {
        for (int p = 0; p < PORTS; ++p) port[p].resize(words);
        each(words, [&](Beat& beat, size_t byte) {
            for (int n = 0; n < PORT_BYTES; ++n) set_field<8, PORT_BITS>(beat, n, UInt<8>(flat[byte + n]));
        });
    }
    void store(unsigned char* flat, size_t words) {
        each(words, [&](Beat& beat, size_t byte) {
            for (int n = 0; n < PORT_BYTES; ++n) flat[byte + n] = (unsigned char)(unsigned)field<8, PORT_BITS>(beat, n);
        });
    }

  private:
    template <class F> void each(size_t words, F f) {
        for (size_t w = 0; w < words; ++w)
            for (int p = 0; p < PORTS; ++p) f(port[p][w], w * WORD_BYTES + p * PORT_BYTES);
    }
};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// `values`: the eight registers from PROGRAM_ADDRESS on; `status`: those from ERROR_CODE on.
void skipstone_csim(unsigned char* flat, unsigned long long words, const unsigned* values, unsigned* status,
                    unsigned long long* counters) {
    Memory memory(flat, words);
    UInt<32> reported[STATUS_REGISTERS];
    UInt<64> counted[COUNTERS];
#define SKIPSTONE_PORT_DATA(p) memory.port[p].data(),
    skipstone_core(SKIPSTONE_FOR_PORTS(SKIPSTONE_PORT_DATA) values[0], values[1], values[2], values[3], values[4], values[5],
                   values[6], values[7], reported, counted);
    memory.store(flat, words);
    for (int n = 0; n < STATUS_REGISTERS; ++n) status[n] = (unsigned)reported[n];
    for (int n = 0; n < COUNTERS; ++n) counters[n] = (unsigned long long)counted[n];
}

// Elementwise operations, for tests: out[n] = op(a[n], b[n]) on bit patterns or integers.
void skipstone_operation(int op, const long long* a, const long long* b, long long* out, int count) {
    for (int n = 0; n < count; ++n) {
        const Float x = from_bits(UInt<32>(a[n])), y = from_bits(UInt<32>(b[n]));
        const UInt<32> s = UInt<32>(a[n]), t = UInt<32>(b[n]);
        UInt<64> result = 0;
        Int<32> fixed = 0;
        switch (op) {
            case 0: result = to_bits(mul(x, y)); break;
            case 1: result = to_bits(add(x, y)); break;
            case 2: result = to_bits(from_int(Int<64>(a[n]), int(b[n]))); break;
            case 3: result = to_bits(reciprocal(x)); break;
            case 4: result = to_bits(rsqrt(x)); break;
            case 5: result = to_bits(sigmoid2(x)); break;
            case 6: result = to_bits(swiglu(x, y)); break;
            case 7: result = to_bits(exp2_fixed(Int<32>(a[n]))); break;
            case 8: result = soft::mul(s, t); break;
            case 9: result = soft::add(s, t); break;
            case 10: result = soft::from_int(Int<64>(a[n]), int(b[n])); break;
            case 11:
                fixed = to_fixed(x);
                out[n] = (long long)fixed;
                continue;
            case 12:
                fixed = soft::to_fixed(s);
                out[n] = (long long)fixed;
                continue;
            case 13:
                fixed = score_of(Int<32>(a[n]), int(b[n]));
                out[n] = (long long)fixed;
                continue;
            case 14: result = probability(Int<64>(a[n])); break;
            case 15: result = to_bits(from_fp16(UInt<16>(a[n]))); break;
        }
        out[n] = (long long)(unsigned long long)result;
    }
}

// BFP(bits, group) of `count` binary32 values.
void skipstone_quantize(int bits, int group, const unsigned* raw, int count, int* mantissa, int* exponent) {
    std::vector<Float> x(count);
    std::vector<Int<16>> m(count);
    std::vector<Exponent> e(count / group);
    for (int n = 0; n < count; ++n) x[n] = from_bits(UInt<32>(raw[n]));
    if (bits == ACTIVATION_BITS) quantize<ACTIVATION_BITS>(x.data(), count, group, m.data(), e.data());
    if (bits == KV_BITS) quantize<KV_BITS>(x.data(), count, group, m.data(), e.data());
    for (int n = 0; n < count; ++n) mantissa[n] = int(m[n]);
    for (int n = 0; n < count / group; ++n) exponent[n] = int(e[n]);
}

}  // extern "C"
#pragma GCC visibility pop
