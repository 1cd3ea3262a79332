/* CRC-64/NVME by carry-less multiplication, as in Gopal et al., "Fast CRC Computation for Generic Polynomials Using
 * PCLMULQDQ Instruction" (Intel, 2009). A polynomial is reflected: the highest bit is the coefficient of x^0. */
#include "crc64nvme.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define POLYNOMIAL UINT64_C(0x9a6c9329ac4bc9b5)
#define ONE (UINT64_C(1) << 63)
#define LANES 4
#define FOLDED_AT_ONCE (LANES * 16)

static uint64_t table[8][256];
static uint64_t fold_one[2], fold_all[2];
static int can_multiply;

static uint64_t times_x(uint64_t value)
{
    return value >> 1 ^ (value & 1 ? POLYNOMIAL : 0);
}

static uint64_t product(uint64_t a, uint64_t b)
{
    uint64_t result = 0;
    for (; a; a <<= 1) {
        if (a & ONE)
            result ^= b;
        b = times_x(b);
    }
    return result;
}

static uint64_t power_of_x(uint64_t exponent)
{
    uint64_t result = ONE, square = ONE >> 1;
    for (; exponent; exponent >>= 1) {
        if (exponent & 1)
            result = product(result, square);
        square = product(square, square);
    }
    return result;
}

void crc64nvme_init(void)
{
    for (int byte = 0; byte < 256; byte++) {
        uint64_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = times_x(value);
        table[0][byte] = value;
    }
    for (int slice = 1; slice < 8; slice++)
        for (int byte = 0; byte < 256; byte++)
            table[slice][byte] = table[slice - 1][byte] >> 8 ^ table[0][table[slice - 1][byte] & 255];
    /* The instruction yields the product times x, so each factor has an exponent that is one less. */
    fold_one[0] = power_of_x(128 + 63), fold_one[1] = power_of_x(127);
    fold_all[0] = power_of_x(LANES * 128 + 63), fold_all[1] = power_of_x(LANES * 128 - 1);
#if defined(__x86_64__)
    can_multiply = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
#endif
}

static uint64_t by_table(uint64_t state, const unsigned char *bytes, size_t length)
{
    for (; length >= 8; bytes += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        state ^= word;
        uint64_t next = 0;
        for (int slice = 0; slice < 8; slice++)
            next ^= table[7 - slice][state >> 8 * slice & 255];
        state = next;
    }
    for (; length; bytes++, length--)
        state = state >> 8 ^ table[0][(state ^ *bytes) & 255];
    return state;
}

#if defined(__x86_64__)
__attribute__((target("pclmul,sse4.1"))) static __m128i fold(__m128i state, __m128i by, __m128i next)
{
    __m128i low = _mm_clmulepi64_si128(state, by, 0x00), high = _mm_clmulepi64_si128(state, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

__attribute__((target("pclmul,sse4.1"))) static uint64_t by_folding(
    uint64_t state, const unsigned char *bytes, size_t length)
{
    const __m128i all = _mm_set_epi64x((long long)fold_all[1], (long long)fold_all[0]);
    const __m128i one = _mm_set_epi64x((long long)fold_one[1], (long long)fold_one[0]);
    const __m128i *block = (const __m128i *)bytes;
    __m128i lanes[LANES];
    for (int lane = 0; lane < LANES; lane++)
        lanes[lane] = _mm_loadu_si128(block + lane);
    lanes[0] = _mm_xor_si128(lanes[0], _mm_set_epi64x(0, (long long)state));
    size_t left = length / FOLDED_AT_ONCE - 1;
    for (block += LANES; left; left--, block += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] = fold(lanes[lane], all, _mm_loadu_si128(block + lane));
    for (int lane = 1; lane < LANES; lane++)
        lanes[lane] = fold(lanes[lane - 1], one, lanes[lane]);
    unsigned char last[16];
    _mm_storeu_si128((__m128i *)last, lanes[LANES - 1]);
    return by_table(0, last, sizeof last);
}
#endif

uint64_t crc64nvme(uint64_t crc, const void *bytes, size_t length)
{
    const unsigned char *at = bytes;
    uint64_t state = ~crc;
#if defined(__x86_64__)
    if (can_multiply && length >= FOLDED_AT_ONCE) {
        size_t folded = length / FOLDED_AT_ONCE * FOLDED_AT_ONCE;
        state = by_folding(state, at, folded);
        at += folded, length -= folded;
    }
#endif
    return ~by_table(state, at, length);
}

uint64_t crc64nvme_combine(uint64_t first, uint64_t second, uint64_t length)
{
    return product(power_of_x(length * 8), first) ^ second;
}
