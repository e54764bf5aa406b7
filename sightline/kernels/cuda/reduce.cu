// Sums, extrema and counts. Nothing depends on the order in which blocks or threads happen to run: every sum of floats is
// taken in one fixed order, in float64, and only whole numbers are added atomically.

// A comparison that lets a NaN through, as NumPy's min and max do.
template <class Float>
__device__ inline void widen(Float& low, Float& high, Float other_low, Float other_high) {
    if (other_low < low || other_low != other_low) low = other_low;
    if (other_high > high || other_high != other_high) high = other_high;
}

// The extrema of a block's threads, in thread 0. Its width is a power of two.
template <class Float>
__device__ inline void widen_block(Float& low, Float& high, Float* shared) {
    Float* highs = shared + blockDim.x;
    shared[threadIdx.x] = low;
    highs[threadIdx.x] = high;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            widen(low, high, shared[threadIdx.x + half], highs[threadIdx.x + half]);
            shared[threadIdx.x] = low;
            highs[threadIdx.x] = high;
        }
    }
}

// Minimum and maximum of up(A_k), a block per map. The samples are only those at the corners of the bilinear patches.
extern "C" __global__ void __launch_bounds__(256)
    extrema(float* minima, float* maxima, const float* maps, const Sample* corners_y, const Sample* corners_x, int rows,
            int columns, int map_height, int map_width) {
    const float* map = maps + static_cast<long long>(blockIdx.x) * map_height * map_width;
    float low = 0, high = 0;
    for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
        const Sample y = corners_y[i / columns], x = corners_x[i % columns];
        const float value = sampled(map, map_height, map_width, y.first, y.weight, x.first, x.weight);
        if (i == static_cast<int>(threadIdx.x)) low = high = value;
        widen(low, high, value, value);
    }
    if (static_cast<int>(threadIdx.x) >= rows * columns) {
        const Sample y = corners_y[0], x = corners_x[0];
        low = high = sampled(map, map_height, map_width, y.first, y.weight, x.first, x.weight);
    }
    widen_block(low, high, reinterpret_cast<float*>(shared_memory));
    if (threadIdx.x == 0) {
        minima[blockIdx.x] = low;
        maxima[blockIdx.x] = high;
    }
}

// Minimum and maximum of one map that is there in full, by one block: result[0] and result[1].
extern "C" __global__ void __launch_bounds__(1024) spread(double* result, const double* map, long long size) {
    double low = map[min(static_cast<long long>(threadIdx.x), size - 1)], high = low;
    for (long long i = threadIdx.x; i < size; i += blockDim.x) widen(low, high, map[i], map[i]);
    widen_block(low, high, reinterpret_cast<double*>(shared_memory));
    if (threadIdx.x == 0) {
        result[0] = low;
        result[1] = high;
    }
}

// The sum of up(A_k), a block per map: every source pixel counts shares_y·shares_x times.
extern "C" __global__ void __launch_bounds__(256) totals(double* result, const float* maps, const double* shares_y,
                                                         const double* shares_x, int map_height, int map_width) {
    double* sums = reinterpret_cast<double*>(shared_memory);
    const float* map = maps + static_cast<long long>(blockIdx.x) * map_height * map_width;
    double sum = 0;
    for (int i = threadIdx.x; i < map_height * map_width; i += blockDim.x)
        sum += map[i] * (shares_y[i / map_width] * shares_x[i % map_width]);
    sums[threadIdx.x] = sum;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) result[blockIdx.x] = sums[0];
}

// Σ_k weights_k·A_k over one part of the masks: part blockIdx.y of parts. gathered() adds the parts up.
extern "C" __global__ void __launch_bounds__(128)
    aggregate(double* partial, const float* maps, const double* weights, int count, long long size) {
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size) return;
    const int begin = static_cast<int>(static_cast<long long>(count) * blockIdx.y / gridDim.y);
    const int end = static_cast<int>(static_cast<long long>(count) * (blockIdx.y + 1) / gridDim.y);
    double sum = 0;
#pragma unroll 8
    for (int k = begin; k < end; ++k) sum += weights[k] * maps[k * size + i];
    partial[blockIdx.y * size + i] = sum;
}

// The same for masks that are windows of their upsampled maps: H×W pixels, a block per row and stretch of columns.
extern "C" __global__ void __launch_bounds__(128)
    accumulate(double* partial, const float* maps, const double* weights, const Sample* samples_y,
               const Sample* samples_x, const int* offsets, int count, int height, int width, int map_height,
               int map_width, int tiles) {
    const int y = blockIdx.x / tiles, x = blockIdx.x % tiles * blockDim.x + threadIdx.x;
    if (x >= width) return;
    const int begin = static_cast<int>(static_cast<long long>(count) * blockIdx.y / gridDim.y);
    const int end = static_cast<int>(static_cast<long long>(count) * (blockIdx.y + 1) / gridDim.y);
    double sum = 0;
    for (int k = begin; k < end; ++k) {
        const Sample vertical = samples_y[y + offsets[2 * k]], horizontal = samples_x[x + offsets[2 * k + 1]];
        const float* map = maps + static_cast<long long>(k) * map_height * map_width;
        sum += weights[k] * sampled(map, map_height, map_width, vertical.first, vertical.weight, horizontal.first,
                                    horizontal.weight);
    }
    partial[(static_cast<long long>(blockIdx.y) * height + y) * width + x] = sum;
}

// The sum of the parts, always in the same order.
extern "C" __global__ void __launch_bounds__(128)
    gathered(double* result, const double* partial, int parts, long long size) {
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size) return;
    double sum = 0;
    for (int part = 0; part < parts; ++part) sum += partial[part * size + i];
    result[i] = sum;
}

// How many values of [0, 1] lie in each of 256 equal bins. counts begins as zeros.
extern "C" __global__ void __launch_bounds__(256) histogram(unsigned long long* counts, const double* map, long long size) {
    unsigned* bins = reinterpret_cast<unsigned*>(shared_memory);
    bins[threadIdx.x] = 0;
    __syncthreads();
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < size;
         i += static_cast<long long>(gridDim.x) * blockDim.x) {
        const double value = map[i];
        atomicAdd(&bins[value >= 1 ? 255 : value > 0 ? static_cast<int>(value * 256) : 0], 1u);
    }
    __syncthreads();
    if (bins[threadIdx.x]) atomicAdd(&counts[threadIdx.x], static_cast<unsigned long long>(bins[threadIdx.x]));
}
