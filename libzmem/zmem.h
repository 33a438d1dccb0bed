/* For programs that want to help zmem: what they know of their memory that nobody can see from
 * outside, and how they stand. C and C++.
 *
 * No program needs it, and none has to be linked with anything for it: libzmem.so is preloaded
 * (LD_PRELOAD), and where it is not, both functions are null, so ask before you call:
 *
 *     if (zmem_advise != NULL) zmem_advise(cache, cache_bytes, ZMEM_COLD);
 *
 * With clang that works in programs that are compiled as position-independent code, as compilers do
 * unless told not to; others find the functions with dlsym(RTLD_DEFAULT, "zmem_advise").
 *
 * Both functions are thread-safe, in any number of threads at once, and async-signal-safe. They
 * allocate nothing, take no lock, and return within 1.1 s on a machine that runs them at all, as a
 * rule within 0.1 ms: a signal to libzmem.so's thread, a message to zmemd and back. They are for
 * what is said now and then, not for hot loops. They return 0, or -1 with errno set.
 *
 * What was said lasts as long as zmemd manages the program: it is forgotten when zmemd ends, at
 * zmemctl drain, and around calls for which libzmem.so steps aside (unshare(2), a userfaultfd of
 * the program's own). zmem_stats.connections tells when that has happened. It is not inherited
 * across fork(2). */
#ifndef LIBZMEM_ZMEM_H_
#define LIBZMEM_ZMEM_H_

#include <stddef.h>
#include <stdint.h>

/* Looked up when the program is loaded, also if it is linked to a fixed address, which takes noplt.
 */
#if defined(__x86_64__) && !defined(__clang__)
#define ZMEM_MAY_BE_NULL __attribute__((weak, noplt))
#else
#define ZMEM_MAY_BE_NULL __attribute__((weak))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What is said last of a page counts.
 *
 * ZMEM_NORMAL: as if nothing had been said.
 * ZMEM_COLD: it may go out now, whatever its age and however much the program waits for its pages
 *   already. Once: what is touched comes back and is as any other page.
 * ZMEM_WILLNEED: what is out is brought back now, in the background, so that no touch has to wait
 *   for it. What the program's memory cgroup or its limit has no room for is passed over. Once.
 * ZMEM_KEEP: it is never taken out, also not by zmemctl evict, until ZMEM_NORMAL, or until its
 *   mapping ends (munmap(2), or a mapping in its place); mremap(2) takes it along. What is out is
 *   brought back as for ZMEM_WILLNEED. For what must never wait: real-time threads, lists that are
 *   walked while a lock is held. Unlike mlock(2) it needs no privilege, and does not keep the
 *   kernel's own swap away. Events of the whole mapping that the range lies in are followed
 *   meanwhile, which makes its first touches and its munmap some microseconds slower: give it a
 *   mapping of its own if that matters. */
enum zmem_advice { ZMEM_NORMAL = 0, ZMEM_COLD = 1, ZMEM_WILLNEED = 2, ZMEM_KEEP = 3 };

/* Says something of the pages of [addr, addr + len). As madvise(2) has it: addr is a multiple of
 * the page size (4096), len is in bytes and rounded up to one; 0 bytes are fine. Parts that are not
 * mapped, and memory that zmem does not take (shared, locked, file-backed, stacks), are passed
 * over: they are not kept either when that changes.
 *
 * When it returns 0, zmemd has taken the advice in, and nothing that is kept goes out any more;
 * taking out and bringing back follow in the background, within milliseconds as a rule. ZMEM_COLD
 * is followed as far as there is room for what goes out.
 *
 * Errors; nothing has changed then but with ETIMEDOUT:
 *   EINVAL    addr is not a multiple of the page size, addr + len is beyond the last address, or
 *             advice is none of the four.
 *   ENOTCONN  zmemd does not manage this process: it is too small or too young (at first 0.25 s,
 *             ZMEM_MIN_RESIDENT), a forked child whose agent has not attached yet, refused,
 *             drained, or there is no zmemd.
 *   ENOMEM    more than 512 ranges would be kept; those that touch are one.
 *   EAGAIN    more than 512 ranges would wait to go out or to come back: come again later.
 *   ETIMEDOUT zmemd did not answer within a second: it is stopped or the machine is overloaded. The
 *             advice may be followed later all the same.
 * Source: madvise(2), mlock(2). */
int zmem_advise(void *addr, size_t len, int advice) ZMEM_MAY_BE_NULL;

/* How the process stands. Levels are what is so now, totals are since zmemd manages it. */
struct zmem_stats {
  uint64_t struct_bytes;     /* in: sizeof(struct zmem_stats); out: how many bytes were filled in */
  uint64_t resident_bytes;   /* level: in RAM, as the kernel counts it (VmRSS) */
  uint64_t out_bytes;        /* level: taken out, at their original size */
  uint64_t held_bytes;       /* level: what zmemd's pool holds for them, compressed */
  uint64_t disk_bytes;       /* level: what its backing file holds for them, compressed */
  uint64_t faults_total;     /* total: touches of pages that were out, which had to wait */
  uint64_t stall_ns;         /* total: nanoseconds that threads have waited so, summed over them */
  uint64_t limit_bytes;      /* level: what resident_bytes is to stay below; 0: no limit */
  uint64_t stall_target_ppm; /* level: of the time, in millionths, that threads may wait so */
  uint64_t kept_bytes;       /* level: ranges under ZMEM_KEEP */
  uint64_t connections; /* total: how often zmemd has begun to manage this process, since it was
                           forked or executed: if it grows, what was advised is forgotten */
};

/* Fills in the first members of *stats, as many as both sides know: the struct will grow at its
 * end. Set stats->struct_bytes before the call; afterwards it says how many bytes were filled in,
 * and the rest of the struct is zero. Figures are read one after the other, not all at one instant;
 * those that zmemctl show has, too, mean the same.
 *
 * Errors; *stats is as it was then:
 *   EINVAL    stats->struct_bytes is less than the struct's first version has (88), or more than a
 *             page.
 *   EFAULT    stats is null.
 *   ENOTCONN, ETIMEDOUT  as zmem_advise. */
int zmem_stats(struct zmem_stats *stats) ZMEM_MAY_BE_NULL;

#ifdef __cplusplus
}
#endif

#endif /* LIBZMEM_ZMEM_H_ */
