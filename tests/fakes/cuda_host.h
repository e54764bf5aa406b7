// CUDA C on a CPU, exactly: what a .cu file needs in order to be compiled by a C++ compiler and run one thread after the
// other. Fibres make __syncthreads a real barrier; every block visits its threads in the opposite order of the last one,
// so that a missing barrier shows.
#pragma once
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __constant__ const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// What an extern __shared__ array of this name refers to; the guard behind it is checked after every block.
constexpr size_t SHARED_LIMIT = 232448, SHARED_GUARD = 256;
alignas(128) unsigned char shared_memory[SHARED_LIMIT + SHARED_GUARD];

namespace host {
char failure[256] = "";

void fail(const char* what) {
    if (!failure[0])
        std::snprintf(failure, sizeof failure, "%s in thread (%u, %u, %u) of block (%u, %u, %u)", what, threadIdx.x,
                      threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z);
}

struct Fibre {
    ucontext_t start;
    jmp_buf here;
    std::vector<char> stack;
    unsigned thread = 0;
    enum { NEW, IDLE, WAITING } state = NEW;
};

// The scheduler: a fibre runs thread after thread until one of them waits at a barrier, then another fibre goes on.
std::vector<Fibre*> fibres;
Fibre* running = nullptr;
jmp_buf scheduler;
ucontext_t scheduler_start;
std::vector<unsigned> order;
size_t next_thread, finished;
void (*body)(void*);
void* body_arguments;

void enter(unsigned thread) {
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y)};
}

void work() {
    Fibre* self = running;  // a fibre stays the same one across its threads
    for (;;) {
        while (next_thread < order.size()) {
            self->thread = order[next_thread++];
            enter(self->thread);
            body(body_arguments);
            ++finished;
        }
        self->state = Fibre::IDLE;
        if (!_setjmp(self->here)) _longjmp(scheduler, 1);
    }
}

void resume(Fibre* fibre) {
    running = fibre;
    if (_setjmp(scheduler)) return;
    if (fibre->state != Fibre::NEW) _longjmp(fibre->here, 1);
    fibre->stack.resize(256 * 1024);
    getcontext(&fibre->start);
    fibre->start.uc_stack.ss_sp = fibre->stack.data();
    fibre->start.uc_stack.ss_size = fibre->stack.size();
    fibre->start.uc_link = nullptr;
    makecontext(&fibre->start, work, 0);
    setcontext(&fibre->start);
}

void run_block() {
    next_thread = finished = 0;
    std::vector<Fibre*> waiting;
    size_t used = 0;
    while (next_thread < order.size()) {
        if (used == fibres.size()) fibres.push_back(new Fibre);
        Fibre* fibre = fibres[used++];
        resume(fibre);
        if (fibre->state == Fibre::WAITING) waiting.push_back(fibre);
    }
    while (!waiting.empty()) {
        if (finished) fail("a barrier that not every thread reaches");
        finished = 0;
        std::vector<Fibre*> still;
        for (Fibre* fibre : waiting) {
            enter(fibre->thread);
            resume(fibre);
            if (fibre->state == Fibre::WAITING) still.push_back(fibre);
        }
        waiting.swap(still);
    }
}

template <class... A>
struct Call {
    void (*kernel)(A...);
    void** arguments;
    template <size_t... I>
    void go(std::index_sequence<I...>) {
        kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
    }
    static void thread(void* self) { static_cast<Call*>(self)->go(std::index_sequence_for<A...>{}); }
};

template <class... A>
const char* launch(void (*kernel)(A...), const unsigned* size, size_t shared, void** arguments) {
    static bool backwards = false;
    Call<A...> call{kernel, arguments};
    body = Call<A...>::thread;
    body_arguments = &call;
    gridDim = {size[0], size[1], size[2]};
    blockDim = {size[3], size[4], size[5]};
    failure[0] = 0;
    const size_t threads = size_t(blockDim.x) * blockDim.y * blockDim.z;
    const size_t blocks = size_t(gridDim.x) * gridDim.y * gridDim.z;
    order.resize(threads);
    const bool reverse_blocks = backwards;
    for (size_t i = 0; i < blocks && !failure[0]; ++i, backwards = !backwards) {
        const size_t block = reverse_blocks ? blocks - 1 - i : i;
        blockIdx = {unsigned(block % gridDim.x), unsigned(block / gridDim.x % gridDim.y),
                    unsigned(block / (size_t(gridDim.x) * gridDim.y))};
        for (size_t t = 0; t < threads; ++t) order[t] = unsigned(backwards ? threads - 1 - t : t);
        std::memset(shared_memory, 0xFF, shared + SHARED_GUARD);  // NaN
        run_block();
        for (size_t b = shared; b < shared + SHARED_GUARD; ++b)
            if (shared_memory[b] != 0xFF) fail("a write behind the shared memory that the launch asked for");
    }
    return failure[0] ? failure : nullptr;
}

// The sizes of the parameters (negative for pointers), so that a wrong argument is refused rather than read.
template <class... A>
int parameters(void (*)(A...), int* sizes) {
    int index = 0;
    ((sizes[index++] = std::is_pointer_v<A> ? -int(sizeof(A)) : int(sizeof(A))), ...);
    return index;
}
}  // namespace host

__attribute__((noinline)) void __syncthreads() {
    host::Fibre* self = host::running;
    self->state = host::Fibre::WAITING;
    if (!_setjmp(self->here)) _longjmp(host::scheduler, 1);
    self->state = host::Fibre::IDLE;
}

// Vector types that notice what a GPU traps on.
template <class T, int N>
struct Aligned {
    T x, y, z, w;
    void check() const {
        volatile std::uintptr_t address = reinterpret_cast<std::uintptr_t>(this);
        if (address % N) host::fail("a misaligned vector access");
    }
};
struct uint4 : Aligned<unsigned, 16> {
    uint4(unsigned a, unsigned b, unsigned c, unsigned d) : Aligned{a, b, c, d} {}
    uint4(const uint4& other) : Aligned(other) { other.check(); }
    uint4& operator=(const uint4& other) {
        check();
        Aligned::operator=(other);
        return *this;
    }
};
inline uint4 make_uint4(unsigned a, unsigned b, unsigned c, unsigned d) { return uint4(a, b, c, d); }

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
template <class T>
T atomicAdd(T* address, T value) {
    T old = *address;
    *address += value;
    return old;
}
template <class T>
T min(T a, T b) {
    return b < a ? b : a;
}
