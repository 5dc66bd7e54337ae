/* What this machine can do at best, by so many threads, as one JSON object:
 *
 *     cc -O3 -march=native -ffp-contract=fast -pthread bounds.c -o bounds && ./bounds THREADS
 *
 * Reading buffers of several sizes, multiply-adds of floats in registers, and products of bytes
 * added into int32 in registers (VPDPBUSD; null where this program knows no such instruction).
 * An operation is a multiplication or an addition. The best of several runs counts. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__AVX512VNNI__)
#include <immintrin.h>
#define INT8_OPERATIONS 128
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#define INT8_OPERATIONS 32
#else
#define INT8_OPERATIONS 0
#endif

#define MAX_THREADS 64
#define CHAINS 12 /* results that do not wait for each other: more than a unit has stages */
#define RUNS 7
#define LARGEST (256L << 20)

#if defined(__AVX512F__)
typedef float floats __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef float floats __attribute__((vector_size(32)));
#else
typedef float floats __attribute__((vector_size(16)));
#endif
#define LANES ((int)(sizeof(floats) / sizeof(float)))
typedef long long words __attribute__((vector_size(sizeof(floats))));

typedef void (*work_function)(const char* bytes, long count);

static pthread_barrier_t together;
static const char* buffer;
static long part_bytes, repeats;
static work_function work;
static double took[MAX_THREADS];
static volatile double sink;

/* Seconds that this thread has computed: on a busy machine it waits, too. */
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void read_bytes(const char* bytes, long count) {
  words a = {0}, b = {0}, c = {0}, d = {0};
  const words* from = (const words*)bytes;
  for (long i = 0; i + 4 <= count / (long)sizeof(words); i += 4) {
    a ^= from[i], b ^= from[i + 1], c ^= from[i + 2], d ^= from[i + 3];
  }
  a ^= b ^ c ^ d;
  sink = (double)a[0];
}

static void multiply_floats(const char* bytes, long count) {
  (void)bytes;
  floats sum[CHAINS], by, plus;
  for (int i = 0; i < LANES; ++i) by[i] = 0.999f, plus[i] = 0.001f;
  for (int i = 0; i < CHAINS; ++i) sum[i] = plus * (float)i;
  for (long k = 0; k < count; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) sum[i] = sum[i] * by + plus;
  }
  for (int i = 1; i < CHAINS; ++i) sum[0] += sum[i];
  sink = sum[0][0];
}

static void multiply_bytes(const char* bytes, long count) {
  (void)bytes, (void)count;
#if defined(__AVX512VNNI__)
  __m512i sum[CHAINS], left = _mm512_set1_epi8(3), right = _mm512_set1_epi8(1);
  for (int i = 0; i < CHAINS; ++i) sum[i] = _mm512_set1_epi32(i);
  for (long k = 0; k < count; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) sum[i] = _mm512_dpbusd_epi32(sum[i], left, right);
  }
  for (int i = 1; i < CHAINS; ++i) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
  sink = _mm512_reduce_add_epi32(sum[0]);
#elif defined(__ARM_FEATURE_DOTPROD)
  int32x4_t sum[CHAINS];
  int8x16_t left = vdupq_n_s8(3), right = vdupq_n_s8(1);
  for (int i = 0; i < CHAINS; ++i) sum[i] = vdupq_n_s32(i);
  for (long k = 0; k < count; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) sum[i] = vdotq_s32(sum[i], left, right);
  }
  for (int i = 1; i < CHAINS; ++i) sum[0] = vaddq_s32(sum[0], sum[i]);
  sink = vaddvq_s32(sum[0]);
#endif
}

static void* run(void* index) {
  const long thread = (long)index;
  pthread_barrier_wait(&together);
  const double start = now();
  for (long i = 0; i < repeats; ++i) work(buffer + thread * part_bytes, part_bytes);
  took[thread] = now() - start;
  return NULL;
}

/* Seconds of the best run; a run takes as long as its slowest thread. */
static double time_best(work_function what, long bytes_or_steps, long times, long threads) {
  pthread_t made[MAX_THREADS];
  double best = 1e9;
  work = what, part_bytes = bytes_or_steps, repeats = times;
  for (int k = 0; k < RUNS; ++k) {
    double slowest = 0;
    for (long i = 0; i < threads; ++i) pthread_create(&made[i], NULL, run, (void*)i);
    for (long i = 0; i < threads; ++i) {
      pthread_join(made[i], NULL);
      if (took[i] > slowest) slowest = took[i];
    }
    if (slowest < best) best = slowest;
  }
  return best;
}

int main(int count, char** arguments) {
  const long threads = count == 2 ? atol(arguments[1]) : 0;
  if (threads < 1 || threads > MAX_THREADS) {
    fprintf(stderr, "usage: bounds THREADS, 1 to %d\n", MAX_THREADS);
    return 2;
  }
  char* all = aligned_alloc(1L << 21, (size_t)LARGEST);
  if (all == NULL) return 1;
  memset(all, 1, (size_t)LARGEST); /* pages that nobody wrote are one page of zeros */
  buffer = all;
  pthread_barrier_init(&together, NULL, (unsigned)threads);
  printf("{\"threads\": %ld, \"read_gb_s\": {", threads);
  const long mib[] = {1, 8, 32, 100, 256};
  for (int i = 0; i < 5; ++i) {
    const long bytes = mib[i] << 20, part = bytes / threads / 4096 * 4096, times = (512L << 20) / bytes;
    const double s = time_best(read_bytes, part, times, threads);
    printf("%s\"%ld MiB\": %.1f", i == 0 ? "" : ", ", mib[i], 1e-9 * (double)(part * threads * times) / s);
  }
  const long steps = 10000000;
  const double each = 1e-9 * (double)steps * CHAINS * (double)threads;
  /* steps of a thread begin where its part of the buffer would: neither function reads it */
  printf("}, \"float_gop_s\": %.0f", each * 2 * LANES / time_best(multiply_floats, steps, 1, threads));
  if (INT8_OPERATIONS == 0) printf(", \"int8_gop_s\": null}\n");
  else printf(", \"int8_gop_s\": %.0f}\n", each * INT8_OPERATIONS / time_best(multiply_bytes, steps, 1, threads));
  return 0;
}
