/*
 * Products on CPUs with AVX512-VNNI, where AVX512-BF16 is missing or slow: VPDPWSSD multiplies pairs of 16-bit
 * integers, twice as many a cycle as there are multiplications in float32. Both sides are in blocks of BLOCK values
 * along K that share a scale (block floating point; Drumond et al., arXiv:1804.01526): inputs of up to 8191, weights of
 * up to 4095, so that a block's products add up in 32 bits, 64 * 8191 * 4095 < 2^31. A weight of at least an eighth of
 * its block's largest is exact, and what a block loses altogether is about half of what rounding its largest input to
 * bfloat16 would.
 *
 * Activations are float32 between products, keys and values bfloat16, and attention multiplies in float32.
 */
typedef float act;
typedef float packed;
enum { PACK = 1, PREPARED = 1, WIDTH_STEP = LANES, KEYS = 8, ROW_PADDING = 32 }; /* rows 4,096 bytes apart drive each other out of the first cache */
enum { AHEAD = 512 }; /* weights that are fetched before they are needed: 1 KB, each tile's stream by itself */
static const float LARGEST = 8191.0f, MOST = 4095.0f; /* of inputs, and of weights */

/* Rounded to the nearest, halves to even, as VCVTNEPS2BF16 does (a NaN stays one). */
static inline void narrow(bf16 *p, __m512 v) {
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
static inline __m512 get(const act *p) { return _mm512_loadu_ps(p); }
static inline void put(act *p, __m512 v) { _mm512_storeu_ps(p, v); }

/* The larger magnitudes. Compared as integers, so that a NaN is larger than everything and is not lost. */
static inline __m512i larger(__m512i top, __m512 v) {
    return _mm512_max_epi32(top, _mm512_castps_si512(_mm512_abs_ps(v)));
}
static inline float largest_of(__m512i top) {
    int32_t bits = _mm512_reduce_max_epi32(top);
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* x [K] in blocks: `values` and, one a block, `scales`. K is a multiple of 16. What is not finite makes a scale NaN. */
static void to_blocks(const float *x, int16_t *values, float *scales, int64_t K) {
    for (int64_t k = 0; k < K; k += BLOCK) {
        const int64_t parts = K - k < BLOCK ? (K - k) / LANES : BLOCK / LANES;
        __m512i top = _mm512_setzero_si512();
        for (int64_t i = 0; i < parts; i++) top = larger(top, _mm512_loadu_ps(x + k + i * LANES));
        float largest = largest_of(top);
        __m512 factor = _mm512_set1_ps(largest > 0 ? LARGEST / largest : 0.0f);
        for (int64_t i = 0; i < parts; i++) {
            __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + k + i * LANES), factor));
            _mm256_storeu_si256((__m256i *)(values + k + i * LANES), _mm512_cvtepi32_epi16(value));
        }
        scales[k / BLOCK] = largest / LARGEST + 0.0f * largest;
    }
}

/*
 * Weights [N, K] in bfloat16, N a multiple of 16, become blocks in place: int16 in the layout of a weight, and
 * `exponents` [N/16][K/BLOCK][16], 127 added. A block counts in the least power of two of which MOST hold its largest.
 */
void starcoder_to_blocks(bf16 *weights, uint8_t *exponents, int64_t N, int64_t K, int threads) {
    const int64_t blocks = (K + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t tile = 0; tile < N / LANES; tile++) {
        bf16 rows[LANES][BLOCK];
        int32_t *out = (int32_t *)(weights + tile * LANES * K);
        bf16 *copy = malloc(LANES * K * sizeof(bf16));
        if (!copy) abort();
        memcpy(copy, out, LANES * K * sizeof(bf16));
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t count = K - b * BLOCK < BLOCK ? K - b * BLOCK : BLOCK;
            for (int n = 0; n < LANES; n++) {
                memset(rows[n], 0, sizeof rows[n]);
                memcpy(rows[n], copy + n * K + b * BLOCK, count * sizeof(bf16));
                __m512i top = _mm512_setzero_si512();
                for (int i = 0; i < BLOCK; i += LANES) top = larger(top, widen(rows[n] + i));
                float unit = largest_of(top) / MOST;
                int32_t bits, biased;
                memcpy(&bits, &unit, 4);
                biased = (bits >> 23) + 1; /* the power of two above `unit` */
                if (biased > 255) biased = 255; /* not finite: zeros times infinity, which is NaN */
                exponents[(tile * blocks + b) * LANES + n] = (uint8_t)biased;
                bits = biased == 255 ? 0 : (254 - biased) << 23;
                memcpy(&unit, &bits, 4);
                for (int i = 0; i < BLOCK; i += LANES) {
                    __m512 scaled = _mm512_mul_ps(widen(rows[n] + i), _mm512_set1_ps(unit));
                    __m256i value = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(scaled));
                    _mm256_storeu_si256((__m256i *)(rows[n] + i), value);
                }
            }
            for (int64_t j = 0; j < count / 2; j++)
                for (int n = 0; n < LANES; n++) memcpy(out + (b * BLOCK / 2 + j) * LANES + n, rows[n] + 2 * j, 4);
        }
        free(copy);
    }
}

/* As DPBUSD: not by the intrinsic. */
#define DPWSSD(sum, a, b) __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b))

/* Pairs k and k + 1 of every row times those of every tile. */
#define INT16_STEP(ROWS, TILES, k, MULTIPLY)                                                                          \
    {                                                                                                                 \
        __m512i weight[TILES];                                                                                        \
        UNROLLED for (int t = 0; t < TILES; t++) {                                                                    \
            weight[t] = _mm512_loadu_si512(w + t * K * LANES + (k) * LANES);                                          \
            _mm_prefetch(w + t * K * LANES + (k) * LANES + AHEAD, _MM_HINT_T0);                                       \
        }                                                                                                             \
        UNROLLED for (int m = 0; m < ROWS; m++) {                                                                     \
            int32_t pair;                                                                                             \
            memcpy(&pair, x + m * stride + (k), 4);                                                                   \
            __m512i both = _mm512_set1_epi32(pair);                                                                   \
            UNROLLED for (int t = 0; t < TILES; t++) MULTIPLY;                                                        \
        }                                                                                                             \
    }

#define INT16_TILE(ROWS, TILES)                                                                                       \
    static __attribute__((noinline)) void int16_##ROWS##_##TILES(                                                     \
        const int16_t *x, int64_t stride, const float *scales, int64_t scales_stride, const int16_t *w,               \
        const uint8_t *exponents, int64_t K, __m512 *sums                                                             \
    ) {                                                                                                               \
        const int64_t blocks = (K + BLOCK - 1) / BLOCK;                                                               \
        for (int i = 0; i < ROWS * TILES; i++) sums[i] = _mm512_setzero_ps();                                         \
        for (int64_t b = 0; b < blocks; b++) {                                                                        \
            const int64_t end = K < (b + 1) * BLOCK ? K : (b + 1) * BLOCK;                                            \
            __m512i sum[ROWS][TILES];                                                                                 \
            INT16_STEP(ROWS, TILES, b * BLOCK, sum[m][t] = _mm512_madd_epi16(weight[t], both))                        \
            _Pragma("GCC unroll 5") for (int64_t k = b * BLOCK + 2; k < end; k += 2)                                  \
                INT16_STEP(ROWS, TILES, k, DPWSSD(sum[m][t], weight[t], both))                                        \
            __m512 scale[TILES];                                                                                      \
            UNROLLED for (int t = 0; t < TILES; t++) {                                                                \
                __m128i power = _mm_loadu_si128((const __m128i *)(exponents + (t * blocks + b) * LANES));             \
                scale[t] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(power), 23));                   \
            }                                                                                                         \
            UNROLLED for (int m = 0; m < ROWS; m++) {                                                                 \
                __m512 own = _mm512_set1_ps(scales[m * scales_stride + b]);                                           \
                UNROLLED for (int t = 0; t < TILES; t++) {                                                            \
                    __m512 exact = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[m][t]), scale[t]);                            \
                    sums[m * TILES + t] = _mm512_fmadd_ps(exact, own, sums[m * TILES + t]);                           \
                }                                                                                                     \
            }                                                                                                         \
        }                                                                                                             \
    }
EVERY_TILE(INT16_TILE)

typedef void (*Int16Kernel)(
    const int16_t *, int64_t, const float *, int64_t, const int16_t *, const uint8_t *, int64_t, __m512 *);
#define INT16_ENTRY(ROWS, TILES) [ROWS][TILES] = int16_##ROWS##_##TILES,
static const Int16Kernel INT16[13][5] = {EVERY_TILE(INT16_ENTRY)};

static inline void in_blocks(const Rows *x, int64_t r, const act *values, int64_t K) {
    to_blocks(values, (int16_t *)x->q + r * (K + ROW_PADDING), x->q_scale + r * ((K + BLOCK - 1) / BLOCK), K);
}

static inline int tiles_each(int64_t M) { return M <= 6 ? 4 : M <= 8 ? 3 : 2; }

static inline __attribute__((always_inline)) void columns(
    int64_t from, int64_t to, int64_t K, const Rows *x, const Weight *w, int64_t column, int here, enum epilogue how,
    void *out, int64_t stride
) {
    const int64_t M = to - from, blocks = (K + BLOCK - 1) / BLOCK, x_stride = K + ROW_PADDING;
    const int64_t passes = (M + 11) / 12, pass = passes ? (M + passes - 1) / passes : 1;
    const int16_t *block = (const int16_t *)w->data + column * K;
    for (int64_t row = from; row < to; row += pass) {
        int rows = (int)(to - row < pass ? to - row : pass);
        __m512 sums[SUMS];
        INT16[rows][here](
            (const int16_t *)x->q + row * x_stride, x_stride, x->q_scale + row * blocks, blocks, block,
            w->exponents + column * blocks, K, sums);
        finish(how, out, stride, row, column, rows, here, sums, w->bias);
    }
}

static inline void pack_query(packed *to, int lanes, const bf16 *query, int64_t D) {
    for (int64_t j = 0; j < D; j += LANES) {
        float values[LANES];
        _mm512_storeu_ps(values, widen(query + j));
        for (int i = 0; i < LANES; i++) to[(j + i) * lanes] = values[i];
    }
}

/* s [KEYS][registers] = KEYS keys times the packed queries. apart: from one key to the next one; 0: they lie anywhere. */
static inline __attribute__((always_inline)) void score_keys(
    const int registers, const packed *queries, const bf16 **key, int64_t apart, int64_t D, float *room,
    __m512 s[KEYS][3]
) {
    const int lanes = registers * LANES;
    (void)apart;
    for (int i = 0; i < KEYS; i++)
        for (int64_t j = 0; j < D; j += LANES) _mm512_store_ps(room + i * D + j, widen(key[i] + j));
    UNROLLED for (int i = 0; i < KEYS * registers; i++) s[i / registers][i % registers] = _mm512_setzero_ps();
    for (int64_t j = 0; j < D; j++) {
        __m512 q[3];
        UNROLLED for (int r = 0; r < registers; r++) q[r] = _mm512_load_ps(queries + j * lanes + r * LANES);
        UNROLLED for (int i = 0; i < KEYS; i++) {
            __m512 value = _mm512_set1_ps(room[i * D + j]);
            UNROLLED for (int r = 0; r < registers; r++) s[i][r] = _mm512_fmadd_ps(q[r], value, s[i][r]);
        }
    }
}

/* The weights of two positions, for 16 queries, in the place of their scores. */
static inline void put_weights(float *score, int p, int lanes, int r, __m512 a, __m512 b) {
    _mm512_store_ps(score + p * lanes + r * LANES, a);
    _mm512_store_ps(score + (p + 1) * lanes + r * LANES, b);
}

/* sum [count][D] = keep * sum + weights times values [span]. */
static inline __attribute__((always_inline)) void mix_values(
    const float *weights, int lanes, const bf16 **value, int span, int count, int64_t D, const float *keep, float *sum
) {
    float wide[SPAN][64] __attribute__((aligned(64)));
    for (int64_t d = 0; d < D; d += 64) {
        for (int p = 0; p < span; p++)
            UNROLLED for (int i = 0; i < 64; i += LANES) _mm512_store_ps(&wide[p][i], widen(value[p] + d + i));
        for (int h = 0; h < count; h += GROUP) {
            int group = count - h < GROUP ? count - h : GROUP;
            __m512 acc[GROUP][4];
            UNROLLED for (int i = 0; i < GROUP * 4; i++) acc[i / 4][i % 4] = _mm512_setzero_ps();
            for (int p = 0; p < span; p++) {
                __m512 v[4];
                UNROLLED for (int i = 0; i < 4; i++) v[i] = _mm512_load_ps(&wide[p][LANES * i]);
                UNROLLED for (int g = 0; g < GROUP; g++) {
                    /* what lies beyond the last query is no weight, and its sums are not kept */
                    __m512 w = _mm512_set1_ps(weights[p * lanes + h + g]);
                    UNROLLED for (int i = 0; i < 4; i++) acc[g][i] = _mm512_fmadd_ps(v[i], w, acc[g][i]);
                }
            }
            for (int g = 0; g < group; g++)
                for (int i = 0; i < 4; i++) {
                    float *kept = sum + (h + g) * D + d + LANES * i;
                    __m512 before = _mm512_mul_ps(_mm512_loadu_ps(kept), _mm512_set1_ps(keep[h + g]));
                    _mm512_storeu_ps(kept, _mm512_add_ps(before, acc[g][i]));
                }
        }
    }
}

static inline void in_order(__m512 *low, __m512 *high) { (void)low, (void)high; }
