/*
 * Products on CPUs with a fast AVX512-BF16, AMD's: VDPBF16PS multiplies pairs of bfloat16 and adds both products to a
 * float32.
 */
#include "activations_bf16.h"

enum { ROW_PADDING = 0, WIDTH_STEP = LANES, KEYS = 8 };

static inline __m512bh twice(const void *pair) {
    int32_t both;
    memcpy(&both, pair, 4);
    return (__m512bh)_mm512_set1_epi32(both);
}

#define BF16_TILE(ROWS, TILES)                                                                                        \
    static __attribute__((noinline)) void bf16_##ROWS##_##TILES(                                                      \
        const bf16 *x, int64_t stride, const bf16 *w, int64_t K, __m512 *sums                                         \
    ) {                                                                                                               \
        __m512 sum[ROWS][TILES];                                                                                      \
        UNROLLED for (int i = 0; i < ROWS * TILES; i++) sum[i / TILES][i % TILES] = _mm512_setzero_ps();              \
        for (int64_t k = 0; k < K; k += 2) {                                                                          \
            __m512bh weight[TILES];                                                                                   \
            UNROLLED for (int t = 0; t < TILES; t++)                                                                  \
                weight[t] = (__m512bh)_mm512_loadu_si512(w + t * K * LANES + k * LANES);                              \
            UNROLLED for (int m = 0; m < ROWS; m++) {                                                                 \
                __m512bh both = twice(x + m * stride + k);                                                            \
                UNROLLED for (int t = 0; t < TILES; t++) sum[m][t] = _mm512_dpbf16_ps(sum[m][t], weight[t], both);    \
            }                                                                                                         \
        }                                                                                                             \
        UNROLLED for (int i = 0; i < ROWS * TILES; i++) sums[i] = sum[i / TILES][i % TILES];                          \
    }
EVERY_TILE(BF16_TILE)

typedef void (*Bf16Kernel)(const bf16 *, int64_t, const bf16 *, int64_t, __m512 *);
#define BF16_ENTRY(ROWS, TILES) [ROWS][TILES] = bf16_##ROWS##_##TILES,
static const Bf16Kernel BF16[13][5] = {EVERY_TILE(BF16_ENTRY)};

static inline int tiles_each(int64_t M) { return tiles_of_few_or_many(M); }

static inline __attribute__((always_inline)) void columns(
    int64_t from, int64_t to, int64_t K, const Rows *rows_in, const Weight *w, int64_t column, int here,
    enum epilogue how, void *out, int64_t stride
) {
    const int64_t M = to - from;
    const bf16 *x = rows_in->x;
    const bf16 *block = (const bf16 *)w->data + column * K;
    for (int64_t row = from, pass = M <= 12 ? M : 6; row < to; row += pass) {
        int rows = (int)(to - row < pass ? to - row : pass);
        __m512 sums[SUMS];
        BF16[rows][here](x + row * K, K, block, K, sums);
        finish(how, out, stride, row, column, rows, here, sums, w->bias);
    }
}

/* s [KEYS][registers] = KEYS keys times the packed queries. apart: from one key to the next one; 0: they lie anywhere. */
static inline __attribute__((always_inline)) void score_keys(
    const int registers, const packed *queries, const bf16 **key, int64_t apart, int64_t D, float *room,
    __m512 s[KEYS][3]
) {
    const int lanes = registers * LANES;
    (void)apart, (void)room;
    UNROLLED for (int i = 0; i < KEYS * registers; i++) s[i / registers][i % registers] = _mm512_setzero_ps();
    for (int64_t j = 0; j < D / 2; j++) {
        __m512bh q[3];
        UNROLLED for (int r = 0; r < registers; r++)
            q[r] = (__m512bh)_mm512_load_si512(queries + j * lanes + r * LANES);
        UNROLLED for (int i = 0; i < KEYS; i++) {
            __m512bh both = twice(key[i] + 2 * j);
            UNROLLED for (int r = 0; r < registers; r++) s[i][r] = _mm512_dpbf16_ps(s[i][r], q[r], both);
        }
    }
}

/* sum [count][D] = keep * sum + weights times values [span], in the order of `interleave`. */
static inline __attribute__((always_inline)) void mix_values(
    const float *weights, int lanes, const bf16 **value, int span, int count, int64_t D, const float *keep, float *sum
) {
    for (int h = 0; h < count; h += GROUP) {
        int group = count - h < GROUP ? count - h : GROUP;
        for (int64_t d = 0; d < D; d += 64) {
            __m512 acc[GROUP][4];
            UNROLLED for (int i = 0; i < GROUP * 4; i++) acc[i / 4][i % 4] = _mm512_setzero_ps();
            for (int p = 0; p < span; p += 2) {
                __m512i v[4];
                interleave(value[p] + d, value[p + 1] + d, v);
                UNROLLED for (int g = 0; g < GROUP; g++) {
                    /* what lies beyond the last query is no weight, and its sums are not kept */
                    __m512bh w = twice(weights + p / 2 * lanes + h + g);
                    UNROLLED for (int i = 0; i < 4; i++) acc[g][i] = _mm512_dpbf16_ps(acc[g][i], (__m512bh)v[i], w);
                }
            }
            for (int g = 0; g < group; g++)
                for (int i = 0; i < 4; i++) {
                    float *kept = sum + (h + g) * D + d + 16 * i;
                    __m512 before = _mm512_mul_ps(_mm512_loadu_ps(kept), _mm512_set1_ps(keep[h + g]));
                    _mm512_storeu_ps(kept, _mm512_add_ps(before, acc[g][i]));
                }
        }
    }
}
