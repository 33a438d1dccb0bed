/* A program that helps zmem: it has an index that it looks at all the time, and a cache that it
 * fills now, leaves alone, and reads later. It says so, if libzmem.so is there to hear it, and does
 * the same without:
 *
 *   bazel-bin/docs/examples/advise
 *   LD_PRELOAD=$PWD/bazel-bin/preload/libzmem.so bazel-bin/docs/examples/advise */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "libzmem/zmem.h"

enum { kIndexBytes = 1 << 20, kCacheBytes = 64 << 20, kEntryBytes = 64 };

/* Advice is page by page, so what is advised of has pages of its own. */
static char *Map(size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

/* Advice is never needed for the program to be right, so errors are at most worth a line. */
static void Advise(void *memory, size_t bytes, int advice, const char *what) {
  if (zmem_advise == NULL) return;
  if (zmem_advise(memory, bytes, advice) != 0) printf("%s: %s\n", what, strerror(errno));
}

static void Report(const char *when) {
  struct zmem_stats stats = {.struct_bytes = sizeof stats};
  if (zmem_stats == NULL || zmem_stats(&stats) != 0) return;
  printf("%s: %zu KiB in memory, %zu KiB out in %zu KiB, %zu KiB kept, %zu waits\n", when,
         (size_t)stats.resident_bytes >> 10, (size_t)stats.out_bytes >> 10,
         (size_t)(stats.held_bytes + stats.disk_bytes) >> 10, (size_t)stats.kept_bytes >> 10,
         (size_t)stats.faults_total);
}

static void Sleep(int ms) {
  struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
  nanosleep(&pause, NULL);
}

/* zmemd takes a program under management when it is large enough, and has lived for a moment. */
static void AwaitZmemd(void) {
  struct zmem_stats stats = {.struct_bytes = sizeof stats};
  for (int tries = 0; zmem_stats != NULL && tries < 100; ++tries) {
    if (zmem_stats(&stats) == 0) return;
    Sleep(50);
  }
  printf("not managed by zmem\n");
}

static void Fill(char *cache) {
  for (size_t at = 0; at < kCacheBytes; at += kEntryBytes) {
    snprintf(cache + at, kEntryBytes, "entry %zu", at / kEntryBytes);
  }
}

static int IsRight(const char *cache) {
  char expected[kEntryBytes];
  for (size_t at = 0; at < kCacheBytes; at += kEntryBytes) {
    snprintf(expected, sizeof expected, "entry %zu", at / kEntryBytes);
    if (strcmp(cache + at, expected) != 0) return 0;
  }
  return 1;
}

int main(void) {
  char *index = Map(kIndexBytes);
  char *cache = Map(kCacheBytes);
  if (index == NULL || cache == NULL) return 1;
  memset(index, 1, kIndexBytes);
  Fill(cache);
  AwaitZmemd();

  Advise(index, kIndexBytes, ZMEM_KEEP, "the index");
  Advise(cache, kCacheBytes, ZMEM_COLD, "the cache");
  Sleep(2000); /* something else is done */
  Report("idle");

  Advise(cache, kCacheBytes, ZMEM_WILLNEED, "the cache");
  Sleep(1000); /* and something else again */
  int right = IsRight(cache);
  Report("after the cache was read");
  printf(right ? "all is right\n" : "WRONG\n");
  return right ? 0 : 1;
}
