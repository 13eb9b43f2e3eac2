/*
 * Products on CPUs with AMX (tiles.h), Intel's since Sapphire Rapids. All rows go this way, be it one: weights stream
 * from memory more slowly than tiles multiply, and a row comes to the same bits whatever stands beside it.
 */
#include "tiles.h"
#include "activations_bf16.h"
#include "int8.h"
#include "attention_amx.h"

enum {
    ROW_PADDING = 32,            /* rows 4,096 bytes apart drive each other out of the first cache */
    WIDTH_STEP = 64,             /* what a tile takes of a row in 8 bits */
    ROWS = 2 * LANES,            /* that share a load of weights */
    IN_CACHE = 1 << 20,          /* bytes of inputs that stay in the second cache while weights pass by */
    AHEAD = 4096                 /* bytes from a block of weights to the one that is fetched meanwhile */
};

/* Of a weight's `tiles` (1 to 4, 2 for 2 row tiles) blocks, 1 KB a step and `apart` bytes from each other. */
#define TILES_OF(NAME, MULTIPLY)                                                                                      \
    static inline __attribute__((always_inline)) void NAME(                                                           \
        const int rows, const int tiles, const char *x, int64_t stride, const char *w, int64_t apart, int64_t steps,  \
        __m512 *sums                                                                                                  \
    ) {                                                                                                               \
        TILE_ZERO(0); TILE_ZERO(1); TILE_ZERO(2); TILE_ZERO(3);                                                       \
        for (int64_t k = 0; k < steps; k++, x += 64, w += 1024) {                                                     \
            if (rows == 1)                                                                                            \
                for (int t = 0; t < tiles; t++)                                                                       \
                    for (int i = 0; i < 1024; i += 64) _mm_prefetch(w + t * apart + i + AHEAD, _MM_HINT_T0);          \
            TILE_LOAD(4, x, stride); TILE_LOAD(5, w, 64);                                                             \
            MULTIPLY(0, 4, 5);                                                                                        \
            if (tiles > 1) { TILE_LOAD(6, w + apart, 64); MULTIPLY(1, 4, 6); }                                        \
            if (rows == 1) {                                                                                          \
                if (tiles > 2) { TILE_LOAD(7, w + 2 * apart, 64); MULTIPLY(2, 4, 7); }                                \
                if (tiles > 3) { TILE_LOAD(5, w + 3 * apart, 64); MULTIPLY(3, 4, 5); }                                \
            } else {                                                                                                  \
                TILE_LOAD(7, x + LANES * stride, stride); MULTIPLY(2, 7, 5);                                          \
                if (tiles > 1) MULTIPLY(3, 7, 6);                                                                     \
            }                                                                                                         \
        }                                                                                                             \
        const int64_t row = tiles * 64;                                                                               \
        TILE_STORE(0, sums, row);                                                                                     \
        if (tiles > 1) TILE_STORE(1, sums + 1, row);                                                                  \
        if (rows == 1 && tiles > 2) TILE_STORE(2, sums + 2, row);                                                     \
        if (rows == 1 && tiles > 3) TILE_STORE(3, sums + 3, row);                                                     \
        if (rows == 2) TILE_STORE(2, sums + LANES * tiles, row);                                                      \
        if (rows == 2 && tiles > 1) TILE_STORE(3, sums + LANES * tiles + 1, row);                                     \
    }
TILES_OF(bf16_tiles, TILE_BF16)
TILES_OF(int8_tiles, TILE_INT8)

#define AMX_KERNEL(KIND, ROW_TILES, TILES)                                                                            \
    static __attribute__((noinline)) void KIND##_##ROW_TILES##_##TILES(                                               \
        const char *x, int64_t stride, const char *w, int64_t apart, int64_t steps, __m512 *sums                      \
    ) {                                                                                                               \
        KIND##_tiles(ROW_TILES, TILES, x, stride, w, apart, steps, sums);                                             \
    }
#define AMX_KERNELS(KIND)                                                                                             \
    AMX_KERNEL(KIND, 1, 1) AMX_KERNEL(KIND, 1, 2) AMX_KERNEL(KIND, 1, 3) AMX_KERNEL(KIND, 1, 4)                       \
    AMX_KERNEL(KIND, 2, 1) AMX_KERNEL(KIND, 2, 2)                                                                     \
    static const AmxKernel KIND##_kernels[3][5] = {                                                                   \
        [1] = {NULL, KIND##_1_1, KIND##_1_2, KIND##_1_3, KIND##_1_4}, [2] = {NULL, KIND##_2_1, KIND##_2_2},           \
    };
typedef void (*AmxKernel)(const char *, int64_t, const char *, int64_t, int64_t, __m512 *);
AMX_KERNELS(bf16)
AMX_KERNELS(int8)

static inline int tiles_each(int64_t M) { return M <= LANES ? 4 : 2; }
static inline int int8_tiles_each(int64_t M) { return tiles_each(M); }

static inline int64_t rows_each(int64_t M, int64_t bytes) {
    (void)M;
    int64_t rows = IN_CACHE / bytes / ROWS * ROWS;
    return rows > ROWS ? rows : ROWS;
}

static inline __attribute__((always_inline)) void columns(
    int64_t from, int64_t to, int64_t K, const Rows *x, const Weight *w, int64_t column, int here, enum epilogue how,
    void *out, int64_t stride
) {
    const int64_t x_stride = (K + ROW_PADDING) * (int64_t)sizeof(act), apart = LANES * K * (int64_t)sizeof(bf16);
    for (int64_t row = from; row < to; row += ROWS) {
        int rows = (int)(to - row < ROWS ? to - row : ROWS);
        __m512 sums[ROWS * 2];
        bf16_kernels[(rows + LANES - 1) / LANES][here](
            (const char *)x->x + row * x_stride, x_stride, (const char *)w->data + column / LANES * apart, apart,
            K / 32, sums);
        finish(how, out, stride, row, column, rows, here, sums, w->bias);
    }
}

static inline __attribute__((always_inline)) void int8_columns(
    int64_t from, int64_t to, int64_t K, const Rows *x, const Weight *w, int64_t column, int here, enum epilogue how,
    void *out, int64_t stride
) {
    const int64_t x_stride = K + INT8_PADDING, apart = LANES * K;
    for (int64_t row = from; row < to; row += ROWS) {
        int rows = (int)(to - row < ROWS ? to - row : ROWS);
        __m512 sums[ROWS * 2];
        int8_kernels[(rows + LANES - 1) / LANES][here](
            (const char *)x->q + row * x_stride, x_stride, (const char *)w->data + column / LANES * apart, apart,
            K / 64, sums);
        from_int8(sums, rows, here, x->q_scale + row, w, column);
        finish(how, out, stride, row, column, rows, here, sums, w->bias);
    }
}
