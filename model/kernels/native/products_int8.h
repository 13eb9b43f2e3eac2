/* Products of 8-bit weights and 8-bit inputs by VPDPBUSD, part of forward.c, whose head tells the layout. */

#define INT8_TILE(ROWS, TILES)                                                                                        \
    static __attribute__((noinline)) void int8_##ROWS##_##TILES(                                                      \
        const uint8_t *x, int64_t stride, const int8_t *w, int64_t K, __m512 *sums                                    \
    ) {                                                                                                               \
        __m512i sum[ROWS][TILES];                                                                                     \
        UNROLLED for (int i = 0; i < ROWS * TILES; i++) sum[i / TILES][i % TILES] = _mm512_setzero_si512();           \
        for (int64_t k = 0; k < K; k += 4) {                                                                          \
            __m512i weight[TILES];                                                                                    \
            UNROLLED for (int t = 0; t < TILES; t++)                                                                  \
                weight[t] = _mm512_loadu_si512(w + t * K * LANES + k * LANES);                                        \
            UNROLLED for (int m = 0; m < ROWS; m++) {                                                                 \
                int32_t four;                                                                                         \
                memcpy(&four, x + m * stride + k, 4);                                                                 \
                __m512i all = _mm512_set1_epi32(four);                                                                \
                UNROLLED for (int t = 0; t < TILES; t++) DPBUSD(sum[m][t], all, weight[t]);                           \
            }                                                                                                         \
        }                                                                                                             \
        UNROLLED for (int i = 0; i < ROWS * TILES; i++) sums[i] = _mm512_castsi512_ps(sum[i / TILES][i % TILES]);     \
    }
/* GCC 12 moves the sums of the intrinsic to and fro, which costs half of its speed. */
#define DPBUSD(sum, a, b) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b))
EVERY_TILE(INT8_TILE)

typedef void (*Int8Kernel)(const uint8_t *, int64_t, const int8_t *, int64_t, __m512 *);
#define INT8_ENTRY(ROWS, TILES) [ROWS][TILES] = int8_##ROWS##_##TILES,
static const Int8Kernel INT8[13][5] = {EVERY_TILE(INT8_ENTRY)};

/* As `columns`, of int8. */
static inline __attribute__((always_inline)) void int8_columns(
    int64_t M, int64_t K, const Rows *x, const Weight *w, int64_t column, int here, enum epilogue how, void *out,
    int64_t stride
) {
    const uint8_t *q = x->q;
    for (int64_t row = 0, pass = M <= 12 ? M : 6; row < M; row += pass) {
        int rows = (int)(M - row < pass ? M - row : pass);
        __m512 sums[SUMS];
        INT8[rows][here](q + row * K, K, (const int8_t *)w->data + column * K, K, sums);
        for (int i = 0; i < rows * here; i++) {
            int64_t at = column + i % here * LANES;
            __m512i exact = _mm512_sub_epi32(_mm512_castps_si512(sums[i]), _mm512_loadu_si512(w->shift + at));
            __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(w->scale + at), _mm512_set1_ps(x->q_scale[row + i / here]));
            sums[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(exact), scale);
        }
        finish(how, out, stride, row, column, rows, here, sums, w->bias);
    }
}

/* A row in 8 bits: round(127 x / largest) + 128. */
static void quantise(const act *x, uint8_t *q, float *scale, int64_t width) {
    __m512 largest = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES) largest = _mm512_max_ps(largest, _mm512_abs_ps(get(x + i)));
    float top = _mm512_reduce_max_ps(largest);
    *scale = top / 127.0f;
    __m512 factor = _mm512_set1_ps(top > 0 ? 127.0f / top : 0.0f);
    for (int64_t i = 0; i < width; i += LANES) {
        __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(get(x + i), factor));
        _mm_storeu_si128((__m128i *)(q + i), _mm512_cvtepi32_epi8(_mm512_add_epi32(value, _mm512_set1_epi32(128))));
    }
}
