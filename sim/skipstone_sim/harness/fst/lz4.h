// In place of LZ4, so that traces need no library: valid LZ4 blocks that hold literals only.
// Reference: LZ4 Block Format Description, lz4/doc/lz4_Block_format.md.
#pragma once

#include <cstring>

inline int LZ4_compressBound(int size) { return size + size / 255 + 16; }

inline int LZ4_compress_default(const char *source, char *target, int size, int capacity) {
    if (capacity < LZ4_compressBound(size)) return 0;
    char *out = target;
    if (size < 15) {
        *out++ = char(size << 4);
    } else {
        *out++ = char(0xF0);
        int rest = size - 15;
        for (; rest >= 255; rest -= 255) *out++ = char(255);
        *out++ = char(rest);
    }
    std::memcpy(out, source, size);
    return int(out - target) + size;
}
