/*
 * Products on CPUs with AVX-512 but without its bfloat16 instructions: weights, keys and values are bfloat16 in memory
 * and float32 in registers, activations are float32. A bfloat16 is the upper half of a float32: of a register with
 * pairs of weights, a mask leaves the odd ones and a shift the even ones.
 */
typedef float act;
typedef float packed;
enum { PACK = 1, ROW_PADDING = 16 }; /* rows 4,096 bytes apart drive each other out of the first cache */
enum { AHEAD = 512 }; /* weights that are fetched before they are needed: 1 KB, each tile's stream by itself */

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

static inline __m512 even(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
static inline __m512 odd(__m512i pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int32_t)0xffff0000)));
}

#define FLOAT_TILE(ROWS, TILES)                                                                                       \
    static __attribute__((noinline)) void float_##ROWS##_##TILES(                                                     \
        const float *x, int64_t stride, const bf16 *w, int64_t K, __m512 *sums                                        \
    ) {                                                                                                               \
        __m512 sum[ROWS][TILES];                                                                                      \
        UNROLLED for (int i = 0; i < ROWS * TILES; i++) sum[i / TILES][i % TILES] = _mm512_setzero_ps();              \
        for (int64_t k = 0; k < K; k += 2) {                                                                          \
            __m512i pairs[TILES];                                                                                     \
            UNROLLED for (int t = 0; t < TILES; t++) {                                                                \
                pairs[t] = _mm512_loadu_si512(w + t * K * LANES + k * LANES);                                         \
                _mm_prefetch(w + t * K * LANES + k * LANES + AHEAD, _MM_HINT_T0);                                     \
            }                                                                                                         \
            UNROLLED for (int m = 0; m < ROWS; m++) {                                                                 \
                __m512 value = _mm512_set1_ps(x[m * stride + k]);                                                     \
                UNROLLED for (int t = 0; t < TILES; t++)                                                              \
                    sum[m][t] = _mm512_fmadd_ps(even(pairs[t]), value, sum[m][t]);                                    \
            }                                                                                                         \
            UNROLLED for (int m = 0; m < ROWS; m++) {                                                                 \
                __m512 value = _mm512_set1_ps(x[m * stride + k + 1]);                                                 \
                UNROLLED for (int t = 0; t < TILES; t++)                                                              \
                    sum[m][t] = _mm512_fmadd_ps(odd(pairs[t]), value, sum[m][t]);                                     \
            }                                                                                                         \
        }                                                                                                             \
        UNROLLED for (int i = 0; i < ROWS * TILES; i++) sums[i] = sum[i / TILES][i % TILES];                          \
    }
EVERY_TILE(FLOAT_TILE)

typedef void (*FloatKernel)(const float *, int64_t, const bf16 *, int64_t, __m512 *);
#define FLOAT_ENTRY(ROWS, TILES) [ROWS][TILES] = float_##ROWS##_##TILES,
static const FloatKernel FLOAT[13][5] = {EVERY_TILE(FLOAT_ENTRY)};

/* A pass takes up to 12 rows, so that widening the weights, again for each pass, costs a twelfth of the products. */
static inline int tiles_each(int64_t M) { return M <= 4 ? 4 : M <= 6 ? 3 : 2; }

static inline __attribute__((always_inline)) void columns(
    int64_t M, int64_t K, const act *x, const Weight *w, int64_t column, int here, enum epilogue how, void *out,
    int64_t stride
) {
    const bf16 *block = (const bf16 *)w->data + column * K;
    const int64_t x_stride = K + ROW_PADDING, passes = (M + 11) / 12, pass = passes ? (M + passes - 1) / passes : 1;
    for (int64_t row = 0; row < M; row += pass) {
        int rows = (int)(M - row < pass ? M - row : pass);
        __m512 sums[SUMS];
        FLOAT[rows][here](x + row * x_stride, x_stride, block, K, sums);
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

/* s [KEYS][registers] = KEYS keys times the packed queries. */
static inline __attribute__((always_inline)) void score_keys(
    const int registers, const packed *queries, const bf16 **key, int64_t D, float *room, __m512 s[KEYS][3]
) {
    const int lanes = registers * LANES;
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
