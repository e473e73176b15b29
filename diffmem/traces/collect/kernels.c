// Memory and disk kernels of the diffmem collectors. Built at run time.
//
// Every kernel runs on pinned threads that start together on a spin barrier
// and reads both CLOCK_MONOTONIC and CLOCK_THREAD_CPUTIME_ID. Times are in
// seconds, sizes in bytes. Functions return 0 or a positive errno.
// No non-temporal stores: bytes travel through the caches.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if defined(__AVX512F__)
#define VECTOR 64
#elif defined(__AVX__)
#define VECTOR 32
#else
#define VECTOR 16
#endif
#define LINE 64
#define CHUNK 1024  // bytes per array between two delays of a load thread
#define MAX_THREADS 1024
#define EXPORT __attribute__((visibility("default")))

typedef int64_t ivec __attribute__((vector_size(VECTOR), may_alias));
typedef double dvec __attribute__((vector_size(VECTOR), may_alias));
#define BARRIER() __asm__ volatile("" ::: "memory")

enum { FILL, BUILD, CHASE, STREAM, COPY, TRIAD };

static _Atomic int64_t g_sink;  // results end here: nothing is optimised away

static double seconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

static uint64_t next_random(uint64_t *state) {  // splitmix64
  uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

static void pin(int cpu) {
#ifdef __linux__
  cpu_set_t *set = CPU_ALLOC(cpu + 1);
  size_t size = CPU_ALLOC_SIZE(cpu + 1);
  if (cpu < 0 || !set) return;
  CPU_ZERO_S(size, set);
  CPU_SET_S(cpu, size, set);
  sched_setaffinity(0, size, set);
  CPU_FREE(set);
#else
  (void)cpu;
#endif
}

typedef struct {
  _Atomic int waiting, generation;
  int count;
} Gate;

// Waits for all threads; 0 where the run was called off (generation < 0).
static int gate_wait(Gate *gate) {
  int generation = atomic_load(&gate->generation);
  if (generation < 0) return 0;
  if (atomic_fetch_add(&gate->waiting, 1) == gate->count - 1) {
    atomic_store(&gate->waiting, 0);
    atomic_fetch_add(&gate->generation, 1);
    return 1;
  }
  for (long spin = 0; atomic_load(&gate->generation) == generation; ++spin)
    if (spin > 20000) sched_yield();
  return atomic_load(&gate->generation) >= 0;
}

// Starts n threads with signals blocked (the caller's thread gets them) and
// joins them. `jobs` is an array of n structs of `size` bytes.
static int run_threads(int n, void *jobs, size_t size, Gate *gate,
                       void *(*body)(void *)) {
  pthread_t ids[MAX_THREADS];
  sigset_t all, old;
  int started = 0, error = 0;
  if (n < 1 || n > MAX_THREADS) return EINVAL;
  gate->count = n + 1;  // nobody starts before all exist
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  for (; started < n && !error; started += !error)
    error = pthread_create(&ids[started], NULL, body,
                           (char *)jobs + size * started);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (error) {  // the started ones leave
    atomic_store(&gate->generation, -1);
  } else {
    while (atomic_load(&gate->waiting) < n) sched_yield();
    gate->count = n;
    atomic_store(&gate->waiting, 0);
    atomic_fetch_add(&gate->generation, 1);
  }
  for (int i = 0; i < started; ++i) pthread_join(ids[i], NULL);
  return error;
}

// ---------------------------------------------------------------- kernels

// A uniformly random cycle over all lines (Sattolo's algorithm): line i holds
// the address of its successor.
static int build_cycle(char *base, size_t bytes, uint64_t seed) {
  size_t lines = bytes / LINE;
  uint32_t *next = malloc(lines * sizeof *next);
  if (!next) return ENOMEM;
  for (size_t i = 0; i < lines; ++i) next[i] = (uint32_t)i;
  for (size_t i = lines - 1; i > 0; --i) {
    size_t j = (size_t)(((next_random(&seed) >> 32) * i) >> 32);
    uint32_t swap = next[i];
    next[i] = next[j];
    next[j] = swap;
  }
  for (size_t i = 0; i < lines; ++i)
    *(char **)(base + i * LINE) = base + (size_t)next[i] * LINE;
  free(next);
  return 0;
}

static char *chase(char *at, long hops) {
  void **p = (void **)at;
  for (long i = 0; i < hops; i += 8) {
    p = *p; p = *p; p = *p; p = *p;
    p = *p; p = *p; p = *p; p = *p;
    __asm__ volatile("" : "+r"(p));
  }
  return (char *)p;
}

static int64_t stream(const char *base, size_t bytes, long passes) {
  ivec a = {0}, b = a, c = a, d = a, e = a, f = a, g = a, h = a;
  for (long pass = 0; pass < passes; ++pass) {
    const ivec *p = (const ivec *)base, *end = p + bytes / VECTOR;
    for (; p < end; p += 8) {
      a += p[0]; b += p[1]; c += p[2]; d += p[3];
      e += p[4]; f += p[5]; g += p[6]; h += p[7];
    }
    BARRIER();
  }
  a += b + c + d + e + f + g + h;
  int64_t sum = 0;
  for (int i = 0; i < VECTOR / 8; ++i) sum += a[i];
  return sum;
}

static void copy(char *to, const char *from, size_t bytes, long passes) {
  for (long pass = 0; pass < passes; ++pass) {
    dvec *a = (dvec *)to;
    const dvec *b = (const dvec *)from, *end = b + bytes / VECTOR;
    for (; b < end; a += 4, b += 4) {
      dvec x = b[0], y = b[1], z = b[2], w = b[3];
      a[0] = x; a[1] = y; a[2] = z; a[3] = w;
    }
    BARRIER();
  }
}

static void triad(char *to, const char *one, const char *two, size_t bytes,
                  long passes) {
  const dvec scale = (dvec){0} + 3.0;
  for (long pass = 0; pass < passes; ++pass) {
    dvec *a = (dvec *)to;
    const dvec *b = (const dvec *)one, *c = (const dvec *)two;
    const dvec *end = b + bytes / VECTOR;
    for (; b < end; a += 4, b += 4, c += 4) {
      dvec x = b[0] + scale * c[0], y = b[1] + scale * c[1];
      dvec z = b[2] + scale * c[2], w = b[3] + scale * c[3];
      a[0] = x; a[1] = y; a[2] = z; a[3] = w;
    }
    BARRIER();
  }
}

// Array number i of a thread: page aligned, then staggered by 22 lines so
// that loads and stores do not alias in the low 12 bits of their addresses.
static char *array_of(char *base, size_t bytes, int i) {
  size_t pitch = (bytes + 4095) / 4096 * 4096;
  return base + i * (pitch + 22 * LINE);
}

// ------------------------------------------------------------ timed kernels

typedef struct {
  int kind, cpu, repeats, error;
  char *base, *at;
  size_t bytes, window, offset;  // of one array; see dm_run
  long warm, work;
  uint64_t seed;
  Gate *gate;
  double *start, *end, *cpu_s;  // one per repeat
} Job;

static void sweep(Job *job, size_t offset, size_t bytes, long passes) {
  char *a = array_of(job->base, job->bytes, 0) + offset;
  char *b = array_of(job->base, job->bytes, 1) + offset;
  char *c = array_of(job->base, job->bytes, 2) + offset;
  if (job->kind == STREAM) g_sink += stream(a, bytes, passes);
  if (job->kind == COPY) copy(a, b, bytes, passes);
  if (job->kind == TRIAD) triad(a, b, c, bytes, passes);
}

static void work_on(Job *job, long work) {
  if (job->kind == FILL) {
    for (size_t i = 0; i < job->bytes / 8; ++i) ((double *)job->base)[i] = 1.0;
  } else if (job->kind == BUILD) {
    job->error = build_cycle(job->base, job->bytes, job->seed);
  } else if (job->kind == CHASE) {
    job->at = chase(job->at, work);
  } else if (job->window == job->bytes) {
    sweep(job, 0, job->bytes, work);
  } else {
    for (; work > 0; --work, job->offset += job->window) {
      if (job->offset + job->window > job->bytes) job->offset = 0;
      sweep(job, job->offset, job->window, 1);
    }
  }
}

static void *timed_body(void *argument) {
  Job *job = argument;
  pin(job->cpu);
  if (!gate_wait(job->gate)) return NULL;
  if (job->warm) work_on(job, job->warm);
  for (int r = 0; r < job->repeats; ++r) {
    gate_wait(job->gate);
    double cpu = seconds(CLOCK_THREAD_CPUTIME_ID);
    job->start[r] = seconds(CLOCK_MONOTONIC);
    work_on(job, job->work);
    job->end[r] = seconds(CLOCK_MONOTONIC);
    job->cpu_s[r] = seconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
  }
  return NULL;
}

// Runs `work` hops or passes, `repeats` times, on n threads after `warm`. A
// pass covers `window` bytes of each array: all of it, or the next piece of a
// long one, which starts at `offset` and wraps around.
// base[t], at[t]: memory of thread t and where its chase stands (updated).
// wall_s[r]: first start to last end; cpu_s[r]: mean over threads.
EXPORT int dm_run(int kind, int n, const int *cpus, char **base, char **at,
                  size_t bytes, size_t window, size_t offset, long warm,
                  long work, int repeats, uint64_t seed, double *wall_s, double *cpu_s) {
  Gate gate = {0};
  Job *jobs = calloc(n, sizeof *jobs);
  double *times = malloc(sizeof(double) * 3 * n * (repeats + 1));
  int error = jobs && times ? 0 : ENOMEM;
  for (int t = 0; t < n && !error; ++t) {
    double *mine = times + 3 * (size_t)repeats * t;
    jobs[t] = (Job){kind, cpus[t], repeats, 0, base[t], at[t], bytes,
                    window, offset, warm, work, seed + t, &gate,
                    mine, mine + repeats, mine + 2 * repeats};
  }
  if (!error) error = run_threads(n, jobs, sizeof *jobs, &gate, timed_body);
  for (int r = 0; r < repeats && !error; ++r) {
    double first = jobs[0].start[r], last = jobs[0].end[r], cpu = 0;
    for (int t = 0; t < n; ++t) {
      if (jobs[t].start[r] < first) first = jobs[t].start[r];
      if (jobs[t].end[r] > last) last = jobs[t].end[r];
      cpu += jobs[t].cpu_s[r] / n;
    }
    wall_s[r] = last - first;
    cpu_s[r] = cpu;
  }
  for (int t = 0; t < n && !error; ++t) {
    at[t] = jobs[t].at;
    error = jobs[t].error;
  }
  free(times);
  free(jobs);
  return error;
}

// ------------------------------------------------------------ loaded latency

typedef struct {
  _Alignas(128) _Atomic uint64_t chunks;
  int kind, cpu, repeats, loads;
  char *base, *at;
  size_t bytes;
  long warm, work, delay;
  Gate *gate;
  _Atomic int *stop;
  double *wall_s, *cpu_s, *load_chunks;
} Load;

static void *load_body(void *argument) {
  Load *me = argument;
  pin(me->cpu);
  if (!gate_wait(me->gate)) return NULL;
  size_t offset = 0;
  int64_t sum = 0;
  while (!atomic_load_explicit(me->stop, memory_order_relaxed)) {
    char *a = array_of(me->base, me->bytes, 0) + offset;
    if (me->kind == TRIAD)
      triad(a, array_of(me->base, me->bytes, 1) + offset,
            array_of(me->base, me->bytes, 2) + offset, CHUNK, 1);
    else
      sum += stream(a, CHUNK, 1);
    atomic_store_explicit(&me->chunks, me->chunks + 1, memory_order_relaxed);
    offset += CHUNK;
    if (offset + CHUNK > me->bytes) offset = 0;
    for (long i = 0; i < me->delay; ++i) __asm__ volatile("" : "+r"(i));
  }
  g_sink += sum;
  return NULL;
}

static double chunks_of(Load *loads, int n) {
  double sum = 0;
  for (int t = 0; t < n; ++t) sum += (double)loads[t].chunks;
  return sum;
}

static void *probe_body(void *argument) {
  Load *me = argument;
  if (me->kind != CHASE) return load_body(argument);
  pin(me->cpu);
  if (!gate_wait(me->gate)) return NULL;
  me->at = chase(me->at, me->warm);
  for (int r = 0; r < me->repeats; ++r) {
    double chunks = chunks_of(me + 1, me->loads);
    double cpu = seconds(CLOCK_THREAD_CPUTIME_ID);
    double start = seconds(CLOCK_MONOTONIC);
    me->at = chase(me->at, me->work);
    me->wall_s[r] = seconds(CLOCK_MONOTONIC) - start;
    me->cpu_s[r] = seconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
    me->load_chunks[r] = chunks_of(me + 1, me->loads) - chunks;
  }
  atomic_store(me->stop, 1);
  return NULL;
}

// Thread 0 chases `work` hops while the others run `kind` (STREAM or TRIAD)
// with `delay` idle loop turns after every CHUNK bytes of each array.
// load_chunks[r]: chunks that all load threads finished in repeat r.
EXPORT int dm_loaded(int kind, int n, const int *cpus, char **base, char **at,
                     size_t bytes, long delay, long warm, long work,
                     int repeats, double *wall_s, double *cpu_s,
                     double *load_chunks) {
  Gate gate = {0};
  _Atomic int stop = 0;
  Load *jobs = aligned_alloc(128, n * sizeof *jobs);
  if (!jobs) return ENOMEM;
  memset(jobs, 0, n * sizeof *jobs);
  for (int t = 0; t < n; ++t) {
    jobs[t].kind = t ? kind : CHASE;
    jobs[t].cpu = cpus[t];
    jobs[t].repeats = repeats;
    jobs[t].loads = n - 1;
    jobs[t].base = base[t];
    jobs[t].at = at[0];
    jobs[t].bytes = bytes;
    jobs[t].warm = warm;
    jobs[t].work = work;
    jobs[t].delay = delay;
    jobs[t].gate = &gate;
    jobs[t].stop = &stop;
    jobs[t].wall_s = wall_s;
    jobs[t].cpu_s = cpu_s;
    jobs[t].load_chunks = load_chunks;
  }
  int error = run_threads(n, jobs, sizeof *jobs, &gate, probe_body);
  at[0] = jobs[0].at;
  free(jobs);
  return error;
}

// ---------------------------------------------------------------------- disk

typedef struct {
  int fd, sequential, error;
  size_t block;
  uint64_t blocks, next, seed;
  long least;
  double duration_s, busy_s, cpu_s, reads;
  Gate *gate;
} Read;

static void *read_body(void *argument) {
  Read *me = argument;
  void *buffer = NULL;
  me->error = posix_memalign(&buffer, 4096, me->block);
  if (!me->error) memset(buffer, 1, me->block);
  if (!gate_wait(me->gate) || me->error) return free(buffer), NULL;
  double cpu = seconds(CLOCK_THREAD_CPUTIME_ID);
  double start = seconds(CLOCK_MONOTONIC);
  do {
    uint64_t at = me->sequential ? me->next++ : next_random(&me->seed);
    ssize_t got = pread(me->fd, buffer, me->block,
                        (off_t)(at % me->blocks * me->block));
    if (got != (ssize_t)me->block) {
      me->error = got < 0 ? errno : EIO;
      break;
    }
    me->reads += 1;
    me->busy_s = seconds(CLOCK_MONOTONIC) - start;
  } while (me->reads < me->least || me->busy_s < me->duration_s);
  me->cpu_s = seconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
  free(buffer);
  return NULL;
}

// `depth` threads read blocks of an open file for `duration_s`, each at
// least `least` times. out: summed busy time, summed CPU time, reads.
EXPORT int dm_disk(int fd, int depth, size_t block, uint64_t blocks,
                   int sequential, uint64_t first, double duration_s,
                   long least, uint64_t seed, double out[3]) {
  Gate gate = {0};
  Read *jobs = calloc(depth, sizeof *jobs);
  if (!jobs) return ENOMEM;
  for (int t = 0; t < depth; ++t)
    jobs[t] = (Read){fd, sequential, 0, block, blocks, first,
                     seed + 7919u * t, least, duration_s, 0, 0, 0, &gate};
  int error = run_threads(depth, jobs, sizeof *jobs, &gate, read_body);
  out[0] = out[1] = out[2] = 0;
  for (int t = 0; t < depth; ++t) {
    if (!error) error = jobs[t].error;
    out[0] += jobs[t].busy_s;
    out[1] += jobs[t].cpu_s;
    out[2] += jobs[t].reads;
  }
  free(jobs);
  return error;
}

// -------------------------------------------------------------------- memory

// Zeroed memory aligned to 2 MiB with huge pages where the kernel gives them.
EXPORT void *dm_alloc(size_t bytes) {
  const size_t huge = (size_t)2 << 20;
  char *raw = mmap(NULL, bytes + huge, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return NULL;
  char *base = (char *)(((uintptr_t)raw + huge - 1) / huge * huge);
  if (base > raw) munmap(raw, base - raw);
  if (base < raw + huge) munmap(base + bytes, raw + huge - base);
#ifdef MADV_HUGEPAGE
  madvise(base, bytes, MADV_HUGEPAGE);
#endif
  return base;
}

EXPORT void dm_free(void *base, size_t bytes) { munmap(base, bytes); }
EXPORT int dm_abi(void) { return 1; }
EXPORT int dm_chunk_bytes(void) { return CHUNK; }
