/*
 * AMX: eight registers of 16 rows of 64 bytes, of which a product takes three. TDPBF16PS adds to C [16][16] in float32
 * the products of A [16][32], rows of bfloat16, and B [16][16][2], pairs of them: a block of a weight as it lies. For
 * each sum it adds up 16 products of first and 16 of second halves apart, each by fused multiplications, and then both
 * to C; what is too small for a normal number counts as zero. Nothing in it depends on the other rows. TDPBUSD does the
 * same with A [16][64] in 8 bits without sign and B [16][16][4] in 8 bits, exactly.
 */
typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16]; /* of a row */
    uint8_t rows[16];
} __attribute__((packed, aligned(64))) TileShapes;

/* Not by intrinsics: GCC 12's do not tell the compiler what memory they read and write. */
#define TILE_LOAD(tile, from, stride)                                                                                 \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"((int64_t)(stride)) : "memory")
#define TILE_STORE(tile, to, stride)                                                                                  \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"((int64_t)(stride)) : "memory")
#define TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define TILE_BF16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
#define TILE_INT8(c, a, b) __asm__ volatile("tdpbusd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)

/* Every register in its full size; to be called by each thread that multiplies. */
static inline void take_tiles(void) {
    TileShapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) shapes.bytes[i] = 64, shapes.rows[i] = 16;
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes));
}
static inline void leave_tiles(void) { __asm__ volatile("tilerelease" : :); }
