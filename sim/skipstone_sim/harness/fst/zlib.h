// In place of zlib, so that traces need no library: valid zlib streams of stored blocks.
// Reference: RFC 1950 (zlib), RFC 1951 (deflate), section 3.2.4.
#pragma once

#include <cstdint>
#include <cstring>

using Bytef = unsigned char;
using uLong = unsigned long;
using uLongf = uLong;
constexpr int Z_OK = 0;
constexpr int Z_BUF_ERROR = -5;

inline uLong compressBound(uLong size) { return size + 5 * (size / 65535 + 1) + 6; }

inline int compress2(Bytef *target, uLongf *capacity, const Bytef *source, uLong size, int) {
    if (*capacity < compressBound(size)) return Z_BUF_ERROR;
    Bytef *out = target;
    *out++ = 0x78;
    *out++ = 0x01;
    uint32_t a = 1, b = 0;
    for (uLong i = 0; i < size; ++i) {
        a = (a + source[i]) % 65521;
        b = (b + a) % 65521;
    }
    do {
        const uLong length = size < 65535 ? size : 65535;
        size -= length;
        *out++ = size == 0;
        *out++ = Bytef(length);
        *out++ = Bytef(length >> 8);
        *out++ = Bytef(~length);
        *out++ = Bytef(~length >> 8);
        std::memcpy(out, source, length);
        out += length;
        source += length;
    } while (size);
    for (uint32_t half : {b, a}) {
        *out++ = Bytef(half >> 8);
        *out++ = Bytef(half);
    }
    *capacity = uLong(out - target);
    return Z_OK;
}
