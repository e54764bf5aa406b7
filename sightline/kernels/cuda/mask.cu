// image ⊙ (scale_k·up(A_k) + shift_k), written straight into an engine's input buffer.
//
// A block makes a band of rows (its threads' y) of several masks. What a thread needs of the image stays in registers
// from mask to mask. Of every mask the block first stages, for each of its rows, the row of the small map that lies there:
// already blended along y, scaled and shifted. A pixel then costs two reads of shared memory and one blend for all of its
// channels.
//
// Channels last is no case of its own: H×W×C is one channel of width W·C whose samples along x repeat C times.

template <class Element, int PIXELS, int CHANNELS>
__device__ inline void mask_into(Element* out, const float* image, const float* maps, const float* affine,
                                 const Sample* samples_y, const Sample* samples_x, const int* offsets, int repeat,
                                 int count, int channels, int height, int width, int map_height, int map_width,
                                 int groups, int tiles, int vectors) {
    float* rows = reinterpret_cast<float*>(shared_memory);

    const int tile = blockIdx.x % tiles;
    const int y = blockIdx.x / tiles * blockDim.y + threadIdx.y;
    const int row = min(y, height - 1);  // threads beyond the last row help to stage
    const int begin = static_cast<int>(static_cast<long long>(count) * blockIdx.y / groups);
    const int end = static_cast<int>(static_cast<long long>(count) * (blockIdx.y + 1) / groups);
    const int channel = blockIdx.z * CHANNELS;
    const int stride = map_width + 1;  // the last column twice, so that every column has a next one

    for (int k = begin; k < end; ++k) {
        const Sample sample = samples_y[row + (offsets ? offsets[2 * k] : 0)];
        const float* top = maps + (static_cast<long long>(k) * map_height + sample.first) * map_width;
        const float* bottom = sample.first + 1 < map_height ? top + map_width : top;
        const float scale = affine[2 * k], shift = affine[2 * k + 1];
        float* target = rows + ((k - begin) * blockDim.y + threadIdx.y) * stride;
        for (int x = threadIdx.x; x < stride; x += blockDim.x) {
            const int column = min(x, map_width - 1);
            target[x] = scale * blend(top[column], bottom[column], sample.weight) + shift;
        }
    }

    // Pixels side by side where they leave in vectors, else a block's width apart: either way a warp writes one stretch.
    const int step = vectors ? 1 : blockDim.x;
    const int start = tile * blockDim.x * PIXELS + threadIdx.x * (vectors ? PIXELS : 1);
    float pixels[CHANNELS][PIXELS];
    Sample sample[PIXELS];
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
        const float* source = image + (static_cast<long long>(min(channel + c, channels - 1)) * height + row) * width;
        if (vectors && start < width) {
#pragma unroll
            for (int j = 0; j < PIXELS; j += 4) {
                const uint4 four = *reinterpret_cast<const uint4*>(source + start + j);
                pixels[c][j] = __uint_as_float(four.x);
                pixels[c][j + 1] = __uint_as_float(four.y);
                pixels[c][j + 2] = __uint_as_float(four.z);
                pixels[c][j + 3] = __uint_as_float(four.w);
            }
        } else {
#pragma unroll
            for (int j = 0; j < PIXELS; ++j) pixels[c][j] = source[min(start + j * step, width - 1)];
        }
    }
#pragma unroll
    for (int j = 0; j < PIXELS; ++j) sample[j] = samples_x[min(start + j * step, width - 1)];

    __syncthreads();
    if (y >= height || start >= width) return;

#pragma unroll 1
    for (int k = begin; k < end; ++k) {
        if (offsets) {
            const Sample* moved = samples_x + static_cast<long long>(offsets[2 * k + 1]) * repeat;
#pragma unroll
            for (int j = 0; j < PIXELS; ++j) sample[j] = moved[min(start + j * step, width - 1)];
        }
        const float* source = rows + ((k - begin) * blockDim.y + threadIdx.y) * stride;
        float mask[PIXELS];
#pragma unroll
        for (int j = 0; j < PIXELS; ++j)
            mask[j] = blend(source[sample[j].first], source[sample[j].first + 1], sample[j].weight);
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
            if (channel + c >= channels) break;
            Element* target = out + ((static_cast<long long>(k) * channels + channel + c) * height + y) * width;
            float values[PIXELS];
#pragma unroll
            for (int j = 0; j < PIXELS; ++j) values[j] = pixels[c][j] * mask[j];
            if (vectors) {
                store_vector(target + start, values);
            } else {
#pragma unroll
                for (int j = 0; j < PIXELS; ++j)
                    if (start + j * step < width) store(target + start + j * step, values[j]);
            }
        }
    }
}

// The same, a thread per value, for maps of which not even a row fits into shared memory.
template <class Element>
__device__ inline void mask_wide(Element* out, const float* image, const float* maps, const float* affine,
                                 const Sample* samples_y, const Sample* samples_x, const int* offsets, int repeat,
                                 int channels, int height, int width, int map_height, int map_width, long long total) {
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= total) return;
    const int x = static_cast<int>(i % width), y = static_cast<int>(i / width % height);
    const long long plane = i / width / height, k = plane / channels, size = static_cast<long long>(height) * width;
    const Sample vertical = samples_y[y + (offsets ? offsets[2 * k] : 0)];
    const Sample horizontal = samples_x[x + (offsets ? static_cast<long long>(offsets[2 * k + 1]) * repeat : 0)];
    const float value = sampled(maps + k * map_height * map_width, map_height, map_width, vertical.first, vertical.weight,
                                horizontal.first, horizontal.weight);
    store(out + i, image[i - k * channels * size] * (affine[2 * k] * value + affine[2 * k + 1]));
}

#define MASK_INTO(name, Element, PIXELS, CHANNELS)                                                                    \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        name(Element* out, const float* image, const float* maps, const float* affine, const Sample* samples_y,       \
             const Sample* samples_x, const int* offsets, int repeat, int count, int channels, int height, int width, \
             int map_height, int map_width, int groups, int tiles, int vectors) {                                     \
        mask_into<Element, PIXELS, CHANNELS>(out, image, maps, affine, samples_y, samples_x, offsets, repeat, count,  \
                                             channels, height, width, map_height, map_width, groups, tiles, vectors); \
    }

#define MASK_WIDE(name, Element)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        name(Element* out, const float* image, const float* maps, const float* affine, const Sample* samples_y,       \
             const Sample* samples_x, const int* offsets, int repeat, int channels, int height, int width,            \
             int map_height, int map_width, long long total) {                                                        \
        mask_wide(out, image, maps, affine, samples_y, samples_x, offsets, repeat, channels, height, width,           \
                  map_height, map_width, total);                                                                      \
    }

MASK_INTO(mask_float32_1, float, 4, 1)
MASK_INTO(mask_float32_3, float, 4, 3)
MASK_INTO(mask_float16_1, Half, 8, 1)
MASK_INTO(mask_float16_3, Half, 8, 3)
MASK_INTO(mask_bfloat16_1, Bfloat16, 8, 1)
MASK_INTO(mask_bfloat16_3, Bfloat16, 8, 3)

MASK_WIDE(mask_wide_float32, float)
MASK_WIDE(mask_wide_float16, Half)
MASK_WIDE(mask_wide_bfloat16, Bfloat16)
