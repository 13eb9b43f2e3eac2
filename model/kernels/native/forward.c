/*
 * The whole forward pass of a GPTBigCode on a CPU with AVX-512, in one parallel region.
 *
 * Weights are bfloat16, products are summed in float32, and the residual stream stays in float32. A row's result
 * depends on its own tokens alone: whatever else is in the batch, its sums are formed in the same order. How bfloat16
 * is multiplied, and what type activations have, stands in products_amx.h, products_bf16.h or products_int16.h, by what
 * the processor can do.
 *
 * Layouts. A weight [N, K] lies as [N/16][K/2][16][2], so that one register holds a pair of inputs for 16 outputs and
 * nothing needs to be shuffled (as oneDNN's blocked formats do). The cache of a layer is
 * [2, blocks, block_size, kv_heads, D], kv_heads being 1 or all heads. Widths are multiples of WIDTH_STEP and D is one of
 * 64: a model's own are filled up with zeros, which come to nothing in every sum but that of a layer norm's squares.
 *
 * With int8 weights, as [N/16][K/4][16][4] with a scale for each output, a product's inputs are brought to 8 bits too,
 * each row by its own largest value, for VPDPBUSD or TDPBUSD. These take one side without sign: inputs are moved up by
 * 128, and what this adds, 128 times the sum of an output's weights, is taken off again.
 */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef uint16_t bf16;

/*
 * data: bfloat16, or int8 where there is a scale. bias may be NULL. shift: 128 * sum of an output's int8 weights.
 * exponents: of products_int16.h, [N/16][K/64][16], 127 added; data is int16 then.
 */
typedef struct {
    const void *data;
    const float *bias, *scale;
    const int32_t *shift;
    const uint8_t *exponents;
} Weight;

typedef struct {
    const float *ln1_w, *ln1_b, *ln2_w, *ln2_b;
    Weight qkv, proj, fc, out;
} Layer;

typedef struct {
    int64_t layers, heads, kv_heads, head_dim, width, inner, vocab;
    int64_t own_width;           /* without what `width` was filled up with */
    int64_t activation;          /* enum activation */
    double eps, scale;
    const bf16 *wte, *wpe;       /* [vocab, width], [positions, width] */
    const float *lnf_w, *lnf_b;
    Weight head;                 /* rows rounded up to 16 */
    const Layer *layer;
} Model;

/* h, mid, few_h and q have room for a multiple of 16 rows, of which AMX reads as many at once. */
typedef struct {
    int64_t tokens, rows;        /* T, R */
    const int64_t *ids, *positions, *slots; /* [T] */
    const int64_t *owner;        /* [T]: row of `tables` */
    int64_t num_runs;
    const int64_t *runs;         /* [num_runs + 1]: where each run of tokens of one sequence starts, then T */
    const int64_t *tables;       /* [S, table_stride] */
    int64_t table_stride;
    const int64_t *logit_rows;   /* [R] */
    bf16 *cache;                 /* [layers, 2, blocks, block_size, kv_heads, head_dim] */
    int64_t blocks, block_size;
    float *logits;               /* [R, vocab rounded up to 16] */
    float *x;                    /* [T, width] */
    float *y;                    /* [R, width] */
    void *h;                     /* [T, width + ROW_PADDING] activations, then [T, heads * head_dim + ROW_PADDING] */
    bf16 *qkv;                   /* [T, (heads + 2 kv_heads) * head_dim] */
    void *mid;                   /* [T, inner + ROW_PADDING] activations */
    void *few_h;                 /* [R, width + ROW_PADDING] activations: the rows of h whose logits are wanted */
    bf16 *few_q;                 /* [R, heads * head_dim]: their queries */
    void *q;                     /* [T, longest K + padding]: a product's inputs as integers */
    float *q_scale;              /* [T], or in blocks [T, longest K / 64] */
    int64_t *spent;              /* [PHASES]: nanoseconds of the first thread are added here, unless NULL */
} Step;

enum { LANES = 16, QUERIES = 48, SPAN = 64, GROUP = 6, COLD = 32, SUMS = 24, BLOCK = 64 };
enum epilogue { TO_FLOAT, TO_BF16, TO_GELU_TANH, TO_GELU_ERF, TO_RELU, ADD };
enum phase { EMBED, NORM, QKV, WRITE, ATTEND, PROJ, FC, OUT, HEAD, PHASES };

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline __m512 widen(const bf16 *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}

/* 2^x to 4e-5, which bfloat16 does not see: Taylor's polynomial of degree 4 on [-1/2, 1/2]. */
static inline __m512 power_of_two(__m512 x) {
    __m512 n = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, n);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(9.6181291e-3f), f, _mm512_set1_ps(5.5504109e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022651e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314718e-1f));
    return _mm512_scalef_ps(_mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f)), n);
}

#include "activations.h"

#define UNROLLED _Pragma("GCC unroll 32")
/* The tiles of sums, rows by 16 outputs, that fit into 24 of the 32 registers. */
#define EVERY_TILE(DO)                                                                                                \
    DO(1, 1) DO(1, 2) DO(1, 3) DO(1, 4) DO(2, 1) DO(2, 2) DO(2, 3) DO(2, 4) DO(3, 1) DO(3, 2) DO(3, 3) DO(3, 4)       \
    DO(4, 1) DO(4, 2) DO(4, 3) DO(4, 4) DO(5, 1) DO(5, 2) DO(5, 3) DO(5, 4) DO(6, 1) DO(6, 2) DO(6, 3) DO(6, 4)       \
    DO(7, 1) DO(7, 2) DO(7, 3) DO(8, 1) DO(8, 2) DO(8, 3) DO(9, 1) DO(9, 2) DO(10, 1) DO(10, 2) DO(11, 1) DO(11, 2)   \
    DO(12, 1) DO(12, 2)

static inline __attribute__((always_inline)) void finish(
    enum epilogue how, void *out, int64_t stride, int64_t row, int64_t column, int rows, int tiles, const __m512 *sums,
    const float *bias
);

/* What a product is given: activations, and the room for what `prepare` makes of them. */
typedef struct {
    const void *x;
    void *q;
    float *q_scale;
} Rows;

/* While few rows share a weight, memory sets the pace, and all of them are done in one pass over it; for more rows a
   pass of 6 rows finds the block of weights in the second cache. */
static inline int tiles_of_few_or_many(int64_t M) { return M <= 6 || M > 12 ? 4 : M <= 8 ? 3 : 2; }

#if defined __AMX_BF16__
#include "products_amx.h"
#elif defined __AVX512BF16__
#include "products_bf16.h"
#else
#include "products_int16.h"
#endif
#ifndef __AMX_BF16__
#include "products_int8.h"
#endif

const int starcoder_activation_bytes = sizeof(act), starcoder_row_padding = ROW_PADDING;
const int starcoder_int8_padding = INT8_PADDING;
const int starcoder_weights_in_blocks = PREPARED, starcoder_width_step = WIDTH_STEP;

/* Sums [rows][tiles] of 16 outputs each, with what follows a product, to where they belong. */
static inline __attribute__((always_inline)) void finish(
    enum epilogue how, void *out, int64_t stride, int64_t row, int64_t column, int rows, int tiles, const __m512 *sums,
    const float *bias
) {
    for (int m = 0; m < rows; m++)
        for (int t = 0; t < tiles; t++) {
            __m512 sum = sums[m * tiles + t];
            int64_t from = column + t * LANES, at = (row + m) * stride + from;
            if (bias) sum = _mm512_add_ps(sum, _mm512_loadu_ps(bias + from));
            if (how == TO_FLOAT) _mm512_storeu_ps((float *)out + at, sum);
            else if (how == TO_BF16) narrow((bf16 *)out + at, sum);
            else if (how == TO_GELU_TANH) put((act *)out + at, gelu_tanh(sum));
            else if (how == TO_GELU_ERF) put((act *)out + at, gelu_erf(sum));
            else if (how == TO_RELU) put((act *)out + at, relu(sum));
            else _mm512_storeu_ps((float *)out + at, _mm512_add_ps(sum, _mm512_loadu_ps((float *)out + at)));
        }
}

/*
 * Columns `first` to N of out [M, N] (row stride `stride`) from x [M, K]; to be called by every thread of the region.
 * Ends in a barrier. first is a multiple of 16. The rows were prepared for this weight.
 */
static inline __attribute__((always_inline)) void product(
    int64_t M, int64_t first, int64_t N, int64_t K, const Rows *x, const Weight *w, enum epilogue how, void *out,
    int64_t stride
) {
    int64_t tiles = (N - first + LANES - 1) / LANES, each = w->scale ? int8_tiles_each(M) : tiles_each(M);
    int64_t blocks = (tiles + each - 1) / each, pass = rows_each(M, K * (w->scale ? 1 : (int64_t)sizeof(act)));
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < (M + pass - 1) / pass * blocks; b++) {
        int64_t from = b / blocks * pass, to = M - from < pass ? M : from + pass, tile = b % blocks * each;
        int64_t column = first + tile * LANES;
        int here = (int)(tiles - tile < each ? tiles - tile : each);
        if (w->scale) int8_columns(from, to, K, x, w, column, here, how, out, stride);
        else columns(from, to, K, x, w, column, here, how, out, stride);
    }
}

/* What `w` multiplies instead of row r of x, x[r] itself being `values`. */
static inline void prepare(const Rows *x, int64_t r, const act *values, int64_t K, const Weight *w) {
    if (w->scale) quantise(values, (uint8_t *)x->q + r * (K + INT8_PADDING), x->q_scale + r, K);
    else in_blocks(x, r, values, K);
}

/* own: the values of x [width] that are not zeros behind it, for which w and b have zeros too. */
static void norm(
    const float *x, act *out, int64_t width, int64_t own, const float *w, const float *b, float eps
) {
    __m512 sum = _mm512_setzero_ps(), square = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + i));
    __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)own);
    for (int64_t i = 0; i < width; i += LANES) {
        __mmask16 real = own - i < LANES ? (__mmask16)((1 << (own - i)) - 1) : (__mmask16)-1;
        __m512 d = _mm512_maskz_sub_ps(real, _mm512_loadu_ps(x + i), mean);
        square = _mm512_fmadd_ps(d, d, square);
    }
    float variance = _mm512_reduce_add_ps(square) / (float)own + eps;
    __m512 scale = _mm512_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(variance))));
    for (int64_t i = 0; i < width; i += LANES) {
        __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), mean), scale);
        put(out + i, _mm512_fmadd_ps(d, _mm512_loadu_ps(w + i), _mm512_loadu_ps(b + i)));
    }
}

#include "attention.h"

/* Heads in one call of `attend`, of those that share a key: fewer than it takes where a short batch would leave threads
   without work. */
static int64_t heads_each(int64_t heads, int64_t rows, int threads) {
    int64_t each = heads < QUERIES ? heads : QUERIES;
    int64_t share = rows < threads ? (heads * rows + threads - 1) / threads : each;
    return share < each ? share : each;
}

void starcoder_forward(const Model *m, const Step *s, int threads) {
    const int64_t T = s->tokens, W = m->width, D = m->head_dim, Q = m->heads * D, KV = m->kv_heads * D;
    const int64_t wide = Q + 2 * KV, sharing = m->heads / m->kv_heads;
    const int64_t h_stride = W + ROW_PADDING, attended_stride = Q + ROW_PADDING, mid_stride = m->inner + ROW_PADDING;
    act *const h = s->h, *const mid = s->mid, *const few_h = s->few_h;
    const Rows narrow_rows = {h, s->q, s->q_scale}, few_rows = {few_h, s->q, s->q_scale};
    const Rows wide_rows = {mid, s->q, s->q_scale};
    const float eps = (float)m->eps;
#pragma omp parallel num_threads(threads)
    {
        int64_t last = 0;
        int timed = 0;
        take_tiles();
#pragma omp master
        if (s->spent) timed = 1, last = now();
#define LAP(phase)                                     \
    if (timed) {                                       \
        int64_t at = now();                            \
        s->spent[phase] += at - last;                  \
        last = at;                                     \
    }
#pragma omp for schedule(static)
        for (int64_t t = 0; t < T; t++) {
            const bf16 *token = m->wte + s->ids[t] * W, *position = m->wpe + s->positions[t] * W;
            for (int64_t i = 0; i < W; i += LANES)
                _mm512_storeu_ps(s->x + t * W + i, _mm512_add_ps(widen(token + i), widen(position + i)));
        }
        LAP(EMBED)
        for (int64_t n = 0; n < m->layers; n++) {
            const Layer *l = &m->layer[n];
            bf16 *keys = s->cache + n * 2 * s->blocks * s->block_size * KV;
            bf16 *values = keys + s->blocks * s->block_size * KV;
            /* Behind the last layer's keys and values, only the rows whose logits are wanted go on: 1 of a prompt. */
            const int64_t *row = n == m->layers - 1 ? s->logit_rows : NULL;
            const int64_t rows = row ? s->rows : T, each = heads_each(sharing, rows * m->kv_heads, threads);
            const int64_t groups = each ? (sharing + each - 1) / each : 0, runs = row ? s->rows : s->num_runs;
            const int few = rows < T; /* and their queries alone */
            float *x = row ? s->y : s->x;
#pragma omp for schedule(static)
            for (int64_t t = 0; t < T; t++) {
                norm(s->x + t * W, h + t * h_stride, W, m->own_width, l->ln1_w, l->ln1_b, eps);
                prepare(&narrow_rows, t, h + t * h_stride, W, &l->qkv);
            }
            LAP(NORM)
            product(T, few ? Q : 0, wide, W, &narrow_rows, &l->qkv, TO_BF16, s->qkv, wide);
            if (few) {
#pragma omp for schedule(static)
                for (int64_t r = 0; r < rows; r++) {
                    memcpy(few_h + r * h_stride, h + row[r] * h_stride, W * sizeof(act));
                    prepare(&few_rows, r, few_h + r * h_stride, W, &l->qkv);
                }
                product(rows, 0, Q, W, &few_rows, &l->qkv, TO_BF16, s->few_q, Q);
            }
            LAP(QKV)
#pragma omp for schedule(static)
            for (int64_t t = 0; t < T; t++) {
                memcpy(keys + s->slots[t] * KV, s->qkv + t * wide + Q, KV * sizeof(bf16));
                memcpy(values + s->slots[t] * KV, s->qkv + t * wide + Q + KV, KV * sizeof(bf16));
            }
            LAP(WRITE)
            if (!rows) break;
#pragma omp for schedule(dynamic, 1)
            for (int64_t i = 0; i < runs * m->kv_heads * groups; i++) {
                int64_t run = i / groups / m->kv_heads, kv = i / groups % m->kv_heads, first = i % groups * each;
                int64_t start = row ? run : s->runs[run], end = row ? run + 1 : s->runs[run + 1], t = start;
                Query queries[QUERIES];
                int count = 0;
                for (int64_t r = start; r < end; r++)
                    for (int64_t i = first; i < sharing && i < first + each; i++) {
                        int64_t at = (kv * sharing + i) * D;
                        t = row ? row[r] : r;
                        const bf16 *query = few ? s->few_q + r * Q : s->qkv + t * wide;
                        queries[count++] = (Query){query + at, h + r * attended_stride + at, s->positions[t] + 1};
                    }
                ATTENDS[(count + LANES - 1) / LANES](
                    queries, count, D, keys + kv * D, values + kv * D, KV, s->tables + s->owner[t] * s->table_stride,
                    s->block_size, (float)(m->scale * 1.4426950408889634), T <= COLD);
            }
            LAP(ATTEND)
            if (row || PREPARED || l->proj.scale) {
#pragma omp for schedule(static)
                for (int64_t r = 0; r < rows; r++) {
                    if (row) memcpy(x + r * W, s->x + row[r] * W, W * sizeof(float));
                    prepare(&narrow_rows, r, h + r * attended_stride, Q, &l->proj);
                }
            }
            product(rows, 0, W, Q, &narrow_rows, &l->proj, ADD, x, W);
            LAP(PROJ)
#pragma omp for schedule(static)
            for (int64_t r = 0; r < rows; r++) {
                norm(x + r * W, h + r * h_stride, W, m->own_width, l->ln2_w, l->ln2_b, eps);
                prepare(&narrow_rows, r, h + r * h_stride, W, &l->fc);
            }
            LAP(NORM)
#define ACTIVATE(which)                                                                          \
    case which:                                                                                  \
        product(rows, 0, m->inner, W, &narrow_rows, &l->fc, TO_##which, mid, mid_stride); \
        break;
            switch ((enum activation)m->activation) {
                ACTIVATE(GELU_TANH)
                ACTIVATE(GELU_ERF)
                ACTIVATE(RELU)
            }
            LAP(FC)
            if (PREPARED || l->out.scale) {
#pragma omp for schedule(static)
                for (int64_t r = 0; r < rows; r++)
                    prepare(&wide_rows, r, mid + r * mid_stride, m->inner, &l->out);
            }
            product(rows, 0, W, m->inner, &wide_rows, &l->out, ADD, x, W);
            LAP(OUT)
        }
#pragma omp for schedule(static)
        for (int64_t r = 0; r < s->rows; r++) {
            norm(s->y + r * W, h + r * h_stride, W, m->own_width, m->lnf_w, m->lnf_b, eps);
            prepare(&narrow_rows, r, h + r * h_stride, W, &m->head);
        }
        LAP(NORM)
        int64_t padded = (m->vocab + LANES - 1) / LANES * LANES;
        product(s->rows, 0, padded, W, &narrow_rows, &m->head, TO_FLOAT, s->logits, padded);
        LAP(HEAD)
        leave_tiles();
    }
}
