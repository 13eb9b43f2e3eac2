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
    MOST_ROWS = 512,             /* of a pass: their sums wait between pieces of K */
    PASS_BYTES = 3 << 19,        /* inputs of a pass, which stay in the second cache while weights go by */
    PIECE = 8,                   /* tiles along K, of which two blocks of weights stay in the first cache */
    AHEAD = 2048                 /* bytes from new weights to those that are fetched meanwhile */
};

/* Of 1 or 2 row tiles and a weight's 1 to 4 (with 2 row tiles, 2) blocks, 1 KB a step and `apart` bytes from each other:
   sums += their products, or = where they are the first. new_weights: they come from memory. */
#define TILES_OF(NAME, MULTIPLY)                                                                                      \
    static inline __attribute__((always_inline)) void NAME(                                                           \
        const int rows, const int tiles, const char *x, int64_t stride, const char *w, int64_t apart, int64_t steps,  \
        int first, int new_weights, __m512 *sums                                                                      \
    ) {                                                                                                               \
        const int64_t row = tiles * 64;                                                                               \
        __m512 *const below = sums + LANES * tiles;                                                                   \
        if (first) {                                                                                                  \
            TILE_ZERO(0); TILE_ZERO(1); TILE_ZERO(2); TILE_ZERO(3);                                                   \
        } else {                                                                                                      \
            TILE_LOAD(0, sums, row);                                                                                  \
            if (tiles > 1) TILE_LOAD(1, sums + 1, row);                                                               \
            if (rows == 1 && tiles > 2) TILE_LOAD(2, sums + 2, row);                                                  \
            if (rows == 1 && tiles > 3) TILE_LOAD(3, sums + 3, row);                                                  \
            if (rows == 2) TILE_LOAD(2, below, row);                                                                  \
            if (rows == 2 && tiles > 1) TILE_LOAD(3, below + 1, row);                                                 \
        }                                                                                                             \
        for (int64_t k = 0; k < steps; k++, x += 64, w += 1024) {                                                     \
            /* of four blocks the processor fetches ahead by itself */                                                \
            for (int i = 0; rows == 2 && new_weights && i < 1024 * tiles; i += 64)                                    \
                _mm_prefetch(w + i / 1024 * apart + i % 1024 + AHEAD, _MM_HINT_T0);                                   \
            TILE_LOAD(4, x, stride); TILE_LOAD(5, w, 64); MULTIPLY(0, 4, 5);                                          \
            if (tiles > 1) { TILE_LOAD(6, w + apart, 64); MULTIPLY(1, 4, 6); }                                        \
            if (rows == 1) {                                                                                          \
                if (tiles > 2) { TILE_LOAD(7, w + 2 * apart, 64); MULTIPLY(2, 4, 7); }                                \
                if (tiles > 3) { TILE_LOAD(5, w + 3 * apart, 64); MULTIPLY(3, 4, 5); }                                \
            } else {                                                                                                  \
                TILE_LOAD(7, x + LANES * stride, stride); MULTIPLY(2, 7, 5);                                          \
                if (tiles > 1) MULTIPLY(3, 7, 6);                                                                     \
            }                                                                                                         \
        }                                                                                                             \
        TILE_STORE(0, sums, row);                                                                                     \
        if (tiles > 1) TILE_STORE(1, sums + 1, row);                                                                  \
        if (rows == 1 && tiles > 2) TILE_STORE(2, sums + 2, row);                                                     \
        if (rows == 1 && tiles > 3) TILE_STORE(3, sums + 3, row);                                                     \
        if (rows == 2) TILE_STORE(2, below, row);                                                                     \
        if (rows == 2 && tiles > 1) TILE_STORE(3, below + 1, row);                                                    \
    }
TILES_OF(bf16_tiles, TILE_BF16)
TILES_OF(int8_tiles, TILE_INT8)

typedef void (*AmxKernel)(const char *, int64_t, const char *, int64_t, int64_t, int, int, __m512 *);
#define AMX_KERNEL(KIND, ROW_TILES, TILES)                                                                            \
    static __attribute__((noinline)) void KIND##_##ROW_TILES##_##TILES(                                               \
        const char *x, int64_t stride, const char *w, int64_t apart, int64_t steps, int first, int new_weights,       \
        __m512 *sums                                                                                                  \
    ) {                                                                                                               \
        KIND##_tiles(ROW_TILES, TILES, x, stride, w, apart, steps, first, new_weights, sums);                         \
    }
#define AMX_KERNELS(KIND)                                                                                             \
    AMX_KERNEL(KIND, 1, 1) AMX_KERNEL(KIND, 1, 2) AMX_KERNEL(KIND, 1, 3) AMX_KERNEL(KIND, 1, 4)                       \
    AMX_KERNEL(KIND, 2, 1) AMX_KERNEL(KIND, 2, 2)                                                                     \
    static const AmxKernel KIND##_kernels[3][5] = {                                                                   \
        [1] = {NULL, KIND##_1_1, KIND##_1_2, KIND##_1_3, KIND##_1_4}, [2] = {NULL, KIND##_2_1, KIND##_2_2},           \
    };
AMX_KERNELS(bf16)
AMX_KERNELS(int8)

static inline int tiles_each(int64_t M) { return M <= LANES ? 4 : 2; }
static inline int int8_tiles_each(int64_t M) { return tiles_each(M); }

static inline int64_t rows_each(int64_t M, int64_t bytes) {
    const int64_t rows = PASS_BYTES / bytes / ROWS * ROWS;
    return M <= ROWS || rows < ROWS ? ROWS : rows < MOST_ROWS ? rows : MOST_ROWS;
}

/* Rows `from` to `to` of a product with `steps` tiles along K; x and w are the first of these rows and of the weights. */
static inline __attribute__((always_inline)) void pass(
    const AmxKernel kernels[3][5], int64_t from, int64_t to, const char *x, int64_t x_stride, int64_t steps,
    const Rows *inputs, const Weight *w, int64_t column, int here, enum epilogue how, void *out, int64_t stride
) {
    __m512 sums[MOST_ROWS * 2];
    const int64_t apart = 1024 * steps, piece = to - from <= ROWS ? steps : PIECE;
    const char *weights = (const char *)w->data + column / LANES * apart;
    for (int64_t k = 0; k < steps; k += piece)
        for (int64_t row = from; row < to; row += ROWS) {
            const int rows = (int)(to - row < ROWS ? to - row : ROWS);
            const int64_t more = steps - k < piece ? steps - k : piece;
            __m512 *own = sums + (row - from) * here;
            kernels[(rows + LANES - 1) / LANES][here](
                x + row * x_stride + k * 64, x_stride, weights + k * 1024, apart, more, k == 0, row == from, own);
            if (k + more < steps) continue;
            if (w->scale) from_int8(own, rows, here, inputs->q_scale + row, w, column);
            finish(how, out, stride, row, column, rows, here, own, w->bias);
        }
}

static inline __attribute__((always_inline)) void columns(
    int64_t from, int64_t to, int64_t K, const Rows *x, const Weight *w, int64_t column, int here, enum epilogue how,
    void *out, int64_t stride
) {
    const int64_t x_stride = (K + ROW_PADDING) * (int64_t)sizeof(act);
    pass(bf16_kernels, from, to, x->x, x_stride, K / 32, x, w, column, here, how, out, stride);
}

static inline __attribute__((always_inline)) void int8_columns(
    int64_t from, int64_t to, int64_t K, const Rows *x, const Weight *w, int64_t column, int here, enum epilogue how,
    void *out, int64_t stride
) {
    pass(int8_kernels, from, to, x->q, K + INT8_PADDING, K / 64, x, w, column, here, how, out, stride);
}
