/* Products of 8-bit weights and 8-bit inputs by VPDPBUSD, part of forward.c, whose head tells the layout. */
#include "int8.h"

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

static inline int int8_tiles_each(int64_t M) { return tiles_of_few_or_many(M); }

/* As `columns`, of int8. */
static inline __attribute__((always_inline)) void int8_columns(
    int64_t from, int64_t to, int64_t K, const Rows *x, const Weight *w, int64_t column, int here, enum epilogue how,
    void *out, int64_t stride
) {
    const int64_t M = to - from, x_stride = K + INT8_PADDING;
    for (int64_t row = from, pass = M <= 12 ? M : 6; row < to; row += pass) {
        int rows = (int)(to - row < pass ? to - row : pass);
        __m512 sums[SUMS];
        const uint8_t *q = (const uint8_t *)x->q + row * x_stride;
        INT8[rows][here](q, x_stride, (const int8_t *)w->data + column * K, K, sums);
        from_int8(sums, rows, here, x->q_scale + row, w, column);
        finish(how, out, stride, row, column, rows, here, sums, w->bias);
    }
}

/* All of them: rows are not many enough to drive each other out of a cache. */
static inline int64_t rows_each(int64_t M, int64_t bytes) { return (void)bytes, M ? M : 1; }

static inline void take_tiles(void) {}
static inline void leave_tiles(void) {}
