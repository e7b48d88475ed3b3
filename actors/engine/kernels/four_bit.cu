// Products of a few rows with weights of 4 bits, in bitsandbytes' own layout: weights (N, K) row by row, two codes a
// byte, the first in the high nibble; one scale for each 64 of a row.
//
// Reading the weights once is what the product has to cost. So codes are looked up two at a time, a byte giving a pair,
// in a table that each bank of shared memory has its own copy of (no two lanes ever want the same bank), and tensor cores
// multiply by all rows at once. Sums over a block of 64 are scaled in float32. The order of summation depends on N and K
// only, never on the number of rows: a row's result is the same to the bit, alone or among others.
//
// A block of threads takes strips of 16 rows of the weights, its warps every NUM_WARPS-th chunk of 256 columns. Chunks come
// into shared memory some stages ahead, also those of the strip to come, so that memory is never waited for. Lane (g, c) =
// (lane / 4, lane % 4) holds weight rows g and g + 8 and of each block of 64 the 16 columns from 16 c. The matrix
// instruction's own order of columns within its 16 is given up for that: a sum over columns may take them in any order, if
// x is read in the same.
//
//     columns of a block:  | c = 0: 0..15 | c = 1: 16..31 | c = 2: 32..47 | c = 3: 48..63 |
//     step j = 0..3 takes of each c the columns 4 j .. 4 j + 3, which are 2 bytes of a row
//
// Set from outside: NUM_TILES (rows of x are NUM_TILES * 8 at most), NUM_STAGES, IS_BF16 (float16 otherwise), IS_NESTED
// (scales are themselves codes of 8 bits, with one scale for each 256 of them and an offset; columns are a multiple of 256).

#define NUM_WARPS 8
#define ROW_BYTES 160  // of a chunk's 128 bytes of a row, so that the rows of a warp's lanes lie in different banks
#define STAGE_BYTES (16 * ROW_BYTES + 256)  // codes, then 4 scales a row
#define TABLE_BYTES (256 * 128)

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

__device__ __forceinline__ void multiply(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if IS_BF16
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float widen(u16 half) {
    float wide;
#if IS_BF16
    wide = __uint_as_float((u32)half << 16);
#else
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(half));
#endif
    return wide;
}

__device__ __forceinline__ u16 narrow(float wide) {
    u16 half;
#if IS_BF16
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half) : "f"(wide));
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(wide));
#endif
    return half;
}

__device__ __forceinline__ void fetch16(u32 to, const void* from, bool is_there) {  // zeros where nothing is
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(is_there ? 16 : 0));
}

__device__ __forceinline__ void fetch4(u32 to, const void* from, bool is_there) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(is_there ? 4 : 0));
}

extern "C" __global__ void __launch_bounds__(NUM_WARPS * 32, 2) four_bit_product(
    const u16* __restrict__ x,               // (M, K)
    const u8* __restrict__ weights,          // (N, K / 2)
    const float* __restrict__ scales,        // (N * K / 64), or one for each 256 of these
    const u8* __restrict__ scale_codes,      // (N * K / 64), if nested
    const float* __restrict__ scale_levels,  // (256), if nested
    const float* __restrict__ scale_offset,  // (1), if nested
    const u32* __restrict__ pairs,           // (256): what both codes of a byte stand for, the high nibble's in the low half
    const u16* __restrict__ bias,            // (N), if has_bias
    u16* __restrict__ out,                   // (M, N)
    int num_rows, int num_out, int num_in, int has_bias) {
    extern __shared__ __align__(128) u8 shared[];
    u32* table = (u32*)shared;                                       // (256, 32)
    u8* stages = shared + TABLE_BYTES;                               // (NUM_WARPS, NUM_STAGES, STAGE_BYTES)
    float* sums = (float*)(stages + NUM_WARPS * NUM_STAGES * STAGE_BYTES);  // (NUM_WARPS, NUM_TILES * 8, 16)
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, c = lane & 3;
    const int num_blocks = num_in >> 6, num_strips = num_out >> 4;
    const int num_chunks = (num_in + 255) >> 8;
    const int mine = num_chunks > warp ? (num_chunks - warp + NUM_WARPS - 1) / NUM_WARPS : 0;  // chunks of a strip
    u8* ring = stages + warp * NUM_STAGES * STAGE_BYTES;
    const u32 ring_at = (u32)__cvta_generic_to_shared(ring);

    int next_strip = blockIdx.x, next_part = 0, next_stage = 0;
    auto fetch = [&]() {
        if (mine > 0 && next_strip < num_strips) {
            const int chunk = warp + next_part * NUM_WARPS;
            const u32 to = ring_at + next_stage * STAGE_BYTES;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = (i * 32 + lane) >> 3, part = lane & 7;
                const size_t at = (size_t)(next_strip * 16 + row) * (num_in >> 1) + chunk * 128 + part * 16;
                fetch16(to + row * ROW_BYTES + part * 16, weights + at, chunk * 256 + part * 32 < num_in);
            }
#if IS_NESTED
            if (lane < 16)
                fetch4(to + 16 * ROW_BYTES + lane * 4,
                       scale_codes + (size_t)(next_strip * 16 + lane) * num_blocks + chunk * 4, true);
#else
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int row = (i * 32 + lane) >> 2, block = chunk * 4 + c;
                fetch4(to + 16 * ROW_BYTES + row * 16 + c * 4,
                       scales + (size_t)(next_strip * 16 + row) * num_blocks + block, block < num_blocks);
            }
#endif
            if (++next_part == mine) next_part = 0, next_strip += gridDim.x;
            if (++next_stage == NUM_STAGES) next_stage = 0;
        }
        asm volatile("cp.async.commit_group;");
    };
#pragma unroll
    for (int i = 0; i < NUM_STAGES - 1; i++) fetch();
    {  // each thread has one pair of its own, and writes it once for each bank
        const u32 pair = __ldg(pairs + threadIdx.x);
        const uint4 four = make_uint4(pair, pair, pair, pair);
#pragma unroll
        for (int i = 0; i < 8; i++) *(uint4*)(table + threadIdx.x * 32 + ((lane + i) & 7) * 4) = four;
    }
    __syncthreads();
    const u32 table_at = (u32)__cvta_generic_to_shared(table) + lane * 4;
    auto look_up = [&](u32 word, int byte) {
        u32 pair;
        asm("ld.shared.u32 %0, [%1];" : "=r"(pair) : "r"(table_at + ((word >> (8 * byte)) & 255) * 128));
        return pair;
    };
#if IS_NESTED
    const float offset = __ldg(scale_offset);
#endif

    int stage = 0;
    for (int strip = blockIdx.x; strip < num_strips; strip += gridDim.x) {
        float total[NUM_TILES][4] = {};
        for (int part = 0; part < mine; part++) {
            const int chunk = warp + part * NUM_WARPS;
            asm volatile("cp.async.wait_group %0;" ::"n"(NUM_STAGES - 2));
            __syncwarp();
            fetch();  // into the stage that was used up before this one
            const u8* held = ring + stage * STAGE_BYTES;
            if (++stage == NUM_STAGES) stage = 0;
#if IS_NESTED
            float own[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int row = (i * 32 + lane) >> 2;
                const size_t block = (size_t)(strip * 16 + row) * num_blocks + chunk * 4 + c;
                own[i] = __ldg(scale_levels + held[16 * ROW_BYTES + row * 4 + c]) * __ldg(scales + (block >> 8)) + offset;
            }
            __syncwarp();
            float* plain = (float*)(held + 16 * ROW_BYTES);
            plain[lane] = own[0], plain[32 + lane] = own[1];
            __syncwarp();
#endif
            float by[2][4];
            *(float4*)by[0] = *(const float4*)(held + 16 * ROW_BYTES + g * 16);
            *(float4*)by[1] = *(const float4*)(held + 16 * ROW_BYTES + (g + 8) * 16);
#pragma unroll
            for (int u = 0; u < 4; u++) {
                const uint2 upper = *(const uint2*)(held + g * ROW_BYTES + u * 32 + c * 8);
                const uint2 lower = *(const uint2*)(held + (g + 8) * ROW_BYTES + u * 32 + c * 8);
                u32 a[4][4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const u32 high = j < 2 ? upper.x : upper.y, low = j < 2 ? lower.x : lower.y;
                    a[j][0] = look_up(high, 2 * (j & 1));
                    a[j][1] = look_up(low, 2 * (j & 1));
                    a[j][2] = look_up(high, 2 * (j & 1) + 1);
                    a[j][3] = look_up(low, 2 * (j & 1) + 1);
                }
                const int column = chunk * 256 + u * 64 + c * 16;
#pragma unroll
                for (int tile = 0; tile < NUM_TILES; tile++) {
                    const int m = tile * 8 + g;
                    uint4 left = {}, right = {};
                    if (m < num_rows && column < num_in) {
                        const uint4* at = (const uint4*)(x + (size_t)m * num_in + column);
                        left = __ldg(at), right = __ldg(at + 1);
                    }
                    float sum[4] = {};
                    multiply(sum, a[0][0], a[0][1], a[0][2], a[0][3], left.x, left.y);
                    multiply(sum, a[1][0], a[1][1], a[1][2], a[1][3], left.z, left.w);
                    multiply(sum, a[2][0], a[2][1], a[2][2], a[2][3], right.x, right.y);
                    multiply(sum, a[3][0], a[3][1], a[3][2], a[3][3], right.z, right.w);
                    total[tile][0] += sum[0] * by[0][u];
                    total[tile][1] += sum[1] * by[0][u];
                    total[tile][2] += sum[2] * by[1][u];
                    total[tile][3] += sum[3] * by[1][u];
                }
            }
        }

#pragma unroll
        for (int tile = 0; tile < NUM_TILES; tile++) {
            float* own = sums + ((warp * NUM_TILES + tile) * 8 + 2 * c) * 16 + g;
            own[0] = total[tile][0];
            own[16] = total[tile][1];
            own[8] = total[tile][2];
            own[24] = total[tile][3];
        }
        __syncthreads();
        for (int i = threadIdx.x; i < NUM_TILES * 8 * 16; i += NUM_WARPS * 32) {
            const int m = i >> 4, n = strip * 16 + (i & 15);
            if (m < num_rows) {
                float sum = 0.0f;
#pragma unroll
                for (int w = 0; w < NUM_WARPS; w++) sum += sums[w * NUM_TILES * 8 * 16 + i];
                if (has_bias) sum += widen(bias[n]);
                out[(size_t)m * num_out + n] = narrow(sum);
            }
        }
        __syncthreads();  // before the next strip's sums
    }
}
