// C simulation and co-simulation in Vitis: runs the program of vectors.bin, compares memory.
// vectors.bin: u64 words, 8 u32 registers, 7 u32 of status, memory before, memory after.
#include <cstdio>
#include <vector>

#include "skipstone/kernel.hpp"

extern "C" void skipstone_csim(unsigned char*, unsigned long long, const unsigned*, unsigned*, unsigned long long*);

int main(int argc, char** argv) {
    FILE* file = std::fopen(argc > 1 ? argv[1] : "vectors.bin", "rb");
    if (file == nullptr) return std::puts("vectors.bin is missing"), 2;
    unsigned long long words = 0, counters[skipstone::COUNTERS];
    unsigned values[8], expected_status[7], status[skipstone::STATUS_REGISTERS];
    bool whole = std::fread(&words, 8, 1, file) == 1 && std::fread(values, 4, 8, file) == 8;
    whole = whole && std::fread(expected_status, 4, 7, file) == 7;
    const size_t bytes = words * skipstone::WORD_BYTES;
    std::vector<unsigned char> memory(bytes), expected(bytes);
    whole = whole && std::fread(memory.data(), 1, bytes, file) == bytes;
    whole = whole && std::fread(expected.data(), 1, bytes, file) == bytes;
    std::fclose(file);
    if (!whole) return std::puts("vectors.bin is too short"), 2;
    skipstone_csim(memory.data(), words, values, status, counters);
    size_t differing = 0;
    for (size_t n = 0; n < bytes; ++n) differing += memory[n] != expected[n];
    for (int n = 0; n < 7; ++n) differing += status[n] != expected_status[n];
    std::printf("%zu bytes of %zu differ\n", differing, bytes);
    return differing != 0;
}
