/* What lies between products where these multiply bfloat16: activations, queries and softmax's weights in it too. */
typedef bf16 act;
typedef int32_t packed;  /* a query's values 2j and 2j + 1, or its weights of positions 2p and 2p + 1 */
enum { PACK = 2, PREPARED = 0 /* products take activations as they are */ };

static inline void narrow(bf16 *p, __m512 v) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v)); }
static inline __m512 get(const act *p) { return widen(p); }
static inline void put(act *p, __m512 v) { narrow(p, v); }

static inline void in_blocks(const Rows *x, int64_t r, const act *values, int64_t K) {
    (void)x, (void)r, (void)values, (void)K;
}

static inline void pack_query(packed *to, int lanes, const bf16 *query, int64_t D) {
    for (int64_t j = 0; j < D / 2; j++) memcpy(&to[j * lanes], query + 2 * j, 4);
}

/* The weights of two positions, for 16 queries; they take the place of the scores of the first half. */
static inline void put_weights(float *score, int p, int lanes, int r, __m512 a, __m512 b) {
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(a));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(b));
    _mm512_store_si512(score + p / 2 * lanes + r * LANES, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

/*
 * 64 values of two positions in pairs, interleaved within lanes of 128 bits: register 2i holds elements 0-3, 8-11, ...
 * of its 32, register 2i + 1 the others.
 */
static inline void interleave(const bf16 *first, const bf16 *second, __m512i pairs[4]) {
    __m512i a0 = _mm512_loadu_si512(first), a1 = _mm512_loadu_si512(first + 32);
    __m512i b0 = _mm512_loadu_si512(second), b1 = _mm512_loadu_si512(second + 32);
    pairs[0] = _mm512_unpacklo_epi16(a0, b0), pairs[1] = _mm512_unpackhi_epi16(a0, b0);
    pairs[2] = _mm512_unpacklo_epi16(a1, b1), pairs[3] = _mm512_unpackhi_epi16(a1, b1);
}

/* 32 sums in the order of their elements, from that of `interleave`. */
static inline void in_order(__m512 *low, __m512 *high) {
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    __m512 a = *low, b = *high;
    *low = _mm512_permutex2var_ps(a, first, b);
    *high = _mm512_permutex2var_ps(a, second, b);
}
