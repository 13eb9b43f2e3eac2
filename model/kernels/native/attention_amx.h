/* What attention multiplies, by AMX (tiles.h): 16 positions' keys at a time, and all weights of a span. */
enum { KEYS = LANES };

/* s [KEYS][registers] = KEYS keys times the packed queries. apart: from one key to the next one; 0: they lie anywhere. */
static inline __attribute__((always_inline)) void score_keys(
    const int registers, const packed *queries, const bf16 **key, int64_t apart, int64_t D, float *room,
    __m512 s[KEYS][3]
) {
    const int64_t lanes = registers * LANES;
    const bf16 *from = key[0];
    if (!apart) {
        for (int i = 0; i < KEYS; i++) memcpy((bf16 *)room + i * D, key[i], D * sizeof(bf16));
        from = (const bf16 *)room, apart = D;
    }
    TILE_ZERO(0); TILE_ZERO(1); TILE_ZERO(2);
    for (int64_t d = 0; d < D; d += 32) {
        const packed *query = queries + d / 2 * lanes;
        TILE_LOAD(4, from + d, apart * sizeof(bf16)); TILE_LOAD(5, query, lanes * 4); TILE_BF16(0, 4, 5);
        if (registers > 1) { TILE_LOAD(6, query + LANES, lanes * 4); TILE_BF16(1, 4, 6); }
        if (registers > 2) { TILE_LOAD(7, query + 2 * LANES, lanes * 4); TILE_BF16(2, 4, 7); }
    }
    TILE_STORE(0, &s[0][0], sizeof s[0]);
    if (registers > 1) TILE_STORE(1, &s[0][1], sizeof s[0]);
    if (registers > 2) TILE_STORE(2, &s[0][2], sizeof s[0]);
}

/* to [16][16] = from [16][16] of which `rows` are there and the others zeros, across the diagonal; strides in values. */
static inline void transpose(const int32_t *from, int64_t from_stride, int rows, int32_t *to, int64_t to_stride) {
    __m512i a[16], b[16];
    UNROLLED for (int i = 0; i < 16; i++)
        a[i] = i < rows ? _mm512_loadu_si512(from + i * from_stride) : _mm512_setzero_si512();
    UNROLLED for (int i = 0; i < 16; i += 2)
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    UNROLLED for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]), a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]), a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    UNROLLED for (int i = 0; i < 4; i++) { /* lanes of 128 bits: 0 and 2, then 1 and 3, of rows 0-7, then 8-15 */
        b[i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88), b[4 + i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
        b[8 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
        b[12 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
    }
    UNROLLED for (int i = 0; i < 4; i++) {
        _mm512_storeu_si512(to + i * to_stride, _mm512_shuffle_i32x4(b[i], b[8 + i], 0x88));
        _mm512_storeu_si512(to + (4 + i) * to_stride, _mm512_shuffle_i32x4(b[4 + i], b[12 + i], 0x88));
        _mm512_storeu_si512(to + (8 + i) * to_stride, _mm512_shuffle_i32x4(b[i], b[8 + i], 0xdd));
        _mm512_storeu_si512(to + (12 + i) * to_stride, _mm512_shuffle_i32x4(b[4 + i], b[12 + i], 0xdd));
    }
}

/* sum [count][D] = keep * sum + weights times values [span], in the order of `interleave`. */
static inline __attribute__((always_inline)) void mix_values(
    const float *weights, int lanes, const bf16 **value, int span, int count, int64_t D, const float *keep, float *sum
) {
    enum { PAIRS = SPAN / 2 };
    const int pairs = (span + 1) / 2, steps = (pairs + LANES - 1) / LANES;
    packed weight[3 * LANES * PAIRS] __attribute__((aligned(64)));    /* [lanes][PAIRS] */
    __m512i both[D / 64][PAIRS][4];                                   /* 64 values of two positions */
    __m512 mixed[LANES][4];
    for (int64_t i = 0; i < D / 64; i++) {
        for (int p = 0; p < pairs; p++) interleave(value[2 * p] + 64 * i, value[2 * p + 1] + 64 * i, both[i][p]);
        memset(both[i][pairs], 0, (steps * LANES - pairs) * sizeof both[i][0]);
    }
    for (int h = 0; h < lanes; h += LANES)
        for (int p = 0; p < pairs; p += LANES)
            transpose((const int32_t *)weights + p * lanes + h, lanes, pairs - p, weight + h * PAIRS + p, PAIRS);
    for (int64_t d = 0; d < D; d += 64)
        for (int h = 0; h < count; h += LANES) {
            const __m512i(*pair)[4] = both[d / 64];
            TILE_ZERO(0); TILE_ZERO(1); TILE_ZERO(2); TILE_ZERO(3);
            for (int p = 0; p < steps * LANES; p += LANES) {
                TILE_LOAD(4, weight + h * PAIRS + p, PAIRS * sizeof(packed));
                TILE_LOAD(5, &pair[p][0], sizeof pair[0]); TILE_BF16(0, 4, 5);
                TILE_LOAD(6, &pair[p][1], sizeof pair[0]); TILE_BF16(1, 4, 6);
                TILE_LOAD(7, &pair[p][2], sizeof pair[0]); TILE_BF16(2, 4, 7);
                TILE_LOAD(5, &pair[p][3], sizeof pair[0]); TILE_BF16(3, 4, 5);
            }
            TILE_STORE(0, &mixed[0][0], sizeof mixed[0]); TILE_STORE(1, &mixed[0][1], sizeof mixed[0]);
            TILE_STORE(2, &mixed[0][2], sizeof mixed[0]); TILE_STORE(3, &mixed[0][3], sizeof mixed[0]);
            for (int g = h; g < count && g < h + LANES; g++)
                UNROLLED for (int i = 0; i < 4; i++) {
                    float *kept = sum + g * D + d + LANES * i;
                    __m512 before = _mm512_mul_ps(_mm512_loadu_ps(kept), _mm512_set1_ps(keep[g]));
                    _mm512_storeu_ps(kept, _mm512_add_ps(before, mixed[g - h][i]));
                }
        }
}
