// Products of a few rows with weights of 4 bits, in bitsandbytes' own layout: weights (N, K) row by row, two codes a
// byte, the first in the high nibble; one scale for each 64 of a row.
//
// Reading the weights once is what the product has to cost. So codes are looked up two at a time, a byte giving a pair,
// in a table that each bank of shared memory has its own copy of (no two lanes ever want the same bank), and tensor cores
// multiply by all rows at once. Sums over a block of 64 are scaled in float32. The order of summation depends on N and K
// only, never on the number of rows: a row's result is the same to the bit, alone or among others.
//
// A warp takes 16 rows of the weights and a part of K. Lane (g, c) = (lane / 4, lane % 4) holds weight rows g and g + 8 and
// of each block of 64 the 16 columns from 16 c. The matrix instruction's own order of columns within its 16 is given up
// for that: a sum over columns may take them in any order, if x is read in the same.
//
//     columns of a block:  | c = 0: 0..15 | c = 1: 16..31 | c = 2: 32..47 | c = 3: 48..63 |
//     step j = 0..3 takes of each c the columns 4 j .. 4 j + 3, which are 2 bytes of a row
//
// Set from outside: NUM_TILES (rows of x are NUM_TILES * 8 at most), IS_BF16 (float16 otherwise), IS_NESTED (scales are
// themselves codes of 8 bits, with one scale for each 256 of them and an offset).

#define NUM_WARPS 8
#define AHEAD 4  // blocks of 64 that a lane reads at once

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

__device__ __forceinline__ uint2 stream(const u8* address) {  // weights are read once; they need not stay in L1
    uint2 value;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(address));
    return value;
}

__device__ __forceinline__ float scale(
    const float* scales, const u8* scale_codes, const float* scale_levels, float offset, size_t block) {
#if IS_NESTED
    return __ldg(scale_levels + __ldg(scale_codes + block)) * __ldg(scales + (block >> 8)) + offset;
#else
    return __ldg(scales + block);
#endif
}

extern "C" __global__ void __launch_bounds__(NUM_WARPS * 32) four_bit_product(
    const u16* __restrict__ x,             // (M, K)
    const u8* __restrict__ weights,        // (N, K / 2)
    const float* __restrict__ scales,      // (N * K / 64), or one for each 256 of these
    const u8* __restrict__ scale_codes,    // (N * K / 64), if nested
    const float* __restrict__ scale_levels,  // (256), if nested
    const float* __restrict__ scale_offset,  // (1), if nested
    const u32* __restrict__ pairs,         // (256): what both codes of a byte stand for, the high nibble's in the low half
    const u16* __restrict__ bias,          // (N), if has_bias
    u16* __restrict__ out,                 // (M, N)
    int num_rows, int num_out, int num_in, int has_bias) {
    extern __shared__ u32 shared[];  // the table (256, 32), then the warps' sums (NUM_WARPS, NUM_TILES * 8, 16)
    float* sums = (float*)(shared + 256 * 32);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, c = lane & 3;
    const int num_blocks = num_in >> 6;
    const int share = (num_blocks + NUM_WARPS - 1) / NUM_WARPS;
    const int begin = warp * share, end = min(num_blocks, begin + share);
#if IS_NESTED
    const float offset = __ldg(scale_offset);
#else
    const float offset = 0.0f;
#endif

    uint2 codes[AHEAD][2];
    float factors[AHEAD][2];
    auto read = [&](int strip, int block) {
        const size_t row = (size_t)strip * 16 + g;
        const u8* first = weights + row * (num_in >> 1) + c * 8;
        const u8* second = first + 8 * (size_t)(num_in >> 1);
        const size_t first_block = row * num_blocks, second_block = first_block + 8 * (size_t)num_blocks;
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            if (block + u < end) {
                codes[u][0] = stream(first + (size_t)(block + u) * 32);
                codes[u][1] = stream(second + (size_t)(block + u) * 32);
                factors[u][0] = scale(scales, scale_codes, scale_levels, offset, first_block + block + u);
                factors[u][1] = scale(scales, scale_codes, scale_levels, offset, second_block + block + u);
            }
        }
    };
    const int num_strips = num_out >> 4;  // of 16 weight rows
    read(blockIdx.x, begin);  // on its way while the table is laid out
    for (int i = threadIdx.x; i < 256 * 32; i += NUM_WARPS * 32) shared[i] = __ldg(pairs + (i >> 5));
    __syncthreads();
    const u32* table = shared + lane;

    for (int strip = blockIdx.x; strip < num_strips; strip += gridDim.x) {
        float total[NUM_TILES][4] = {};
        for (int block = begin; block < end; block += AHEAD) {
            uint2 now[AHEAD][2];
            float by[AHEAD][2];
#pragma unroll
            for (int u = 0; u < AHEAD; u++) {
                now[u][0] = codes[u][0], now[u][1] = codes[u][1];
                by[u][0] = factors[u][0], by[u][1] = factors[u][1];
            }
            if (block + AHEAD < end) read(strip, block + AHEAD);
            else if (strip + gridDim.x < num_strips) read(strip + gridDim.x, begin);
#pragma unroll
            for (int u = 0; u < AHEAD; u++) {
                if (block + u >= end) break;
                u32 a[4][4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const u32 upper = (j < 2 ? now[u][0].x : now[u][0].y) >> (16 * (j & 1));
                    const u32 lower = (j < 2 ? now[u][1].x : now[u][1].y) >> (16 * (j & 1));
                    a[j][0] = table[(upper & 255) << 5];
                    a[j][1] = table[(lower & 255) << 5];
                    a[j][2] = table[((upper >> 8) & 255) << 5];
                    a[j][3] = table[((lower >> 8) & 255) << 5];
                }
#pragma unroll
                for (int tile = 0; tile < NUM_TILES; tile++) {
                    const int m = tile * 8 + g;
                    uint4 left = {}, right = {};
                    if (m < num_rows) {
                        const uint4* at = (const uint4*)(x + (size_t)m * num_in + (block + u) * 64 + c * 16);
                        left = __ldg(at), right = __ldg(at + 1);
                    }
                    float sum[4] = {};
                    multiply(sum, a[0][0], a[0][1], a[0][2], a[0][3], left.x, left.y);
                    multiply(sum, a[1][0], a[1][1], a[1][2], a[1][3], left.z, left.w);
                    multiply(sum, a[2][0], a[2][1], a[2][2], a[2][3], right.x, right.y);
                    multiply(sum, a[3][0], a[3][1], a[3][2], a[3][3], right.z, right.w);
                    total[tile][0] += sum[0] * by[u][0];
                    total[tile][1] += sum[1] * by[u][0];
                    total[tile][2] += sum[2] * by[u][1];
                    total[tile][3] += sum[3] * by[u][1];
                }
            }
        }

#pragma unroll
        for (int tile = 0; tile < NUM_TILES; tile++) {
            float* mine = sums + ((warp * NUM_TILES + tile) * 8 + 2 * c) * 16 + g;
            mine[0] = total[tile][0];
            mine[16] = total[tile][1];
            mine[8] = total[tile][2];
            mine[24] = total[tile][3];
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
