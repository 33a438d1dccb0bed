// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Copies page tables of a process for accessed_bits.cc. Runs in the kernel, as a program of type
// syscall, on request; reads only. x86-64, 4 KiB pages.
// Whoever runs it owns the variables below for the time of the call. Tables may change or be freed
// while they are read: what is copied then is of no meaning, and nothing is harmed.
#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

enum {
  kMostTables = 64,  // as in accessed_bits.cc
  kEntries = 512,
  kTableBytes = kEntries * 8,
};

// What of a 2 MiB chunk was found.
enum Found {
  kNothing,
  kTable,     // its last-level table, in `tables`
  kHugePage,  // one entry for all of it, the first of `tables`
};

// In.
int pid;
int levels;                     // of page tables: 4 or 5
unsigned long long direct_map;  // where the kernel has physical memory from 0 mapped
unsigned int chunks;            // 0..kMostTables
unsigned long long chunk_numbers[kMostTables];
// Out.
unsigned long long top_table;  // its address, 0 if there is no such process
unsigned char found[kMostTables];
unsigned long long tables[kMostTables * kEntries];

// The parts of the kernel's own that are read, wherever its build has them.
struct mm_struct {
  void* pgd;
} __attribute__((preserve_access_index));
struct task_struct {
  struct mm_struct* mm;
} __attribute__((preserve_access_index));

struct task_struct* bpf_task_from_pid(int pid) __ksym;
void bpf_task_release(struct task_struct* task) __ksym;

static long CopyTable(unsigned int index, void* unused) {
  const unsigned long long kPresent = 1 << 0;
  const unsigned long long kLeaf = 1 << 7;
  const unsigned long long kAddress = 0x000ffffffffff000ull;
  const int kChunkShift = 21;
  const int kLevelBits = 9;
  unsigned int slot = index & (kMostTables - 1);
  unsigned long long address = chunk_numbers[slot] << kChunkShift;
  unsigned long long table = top_table;
  unsigned long long entry = 0;
  int shift = levels == 5 ? 48 : 39;
  found[slot] = kNothing;
  for (int level = 0; level < 4 && shift >= kChunkShift; ++level, shift -= kLevelBits) {
    const unsigned long long at = table + ((address >> shift) & (kEntries - 1)) * 8;
    if (bpf_probe_read_kernel(&entry, sizeof entry, (void*)at) != 0) return 0;
    if (!(entry & kPresent)) return 0;
    if (entry & kLeaf) {
      if (shift != kChunkShift) return 0;
      tables[slot * kEntries] = entry;
      found[slot] = kHugePage;
      return 0;
    }
    table = direct_map + (entry & kAddress);
  }
  if (bpf_probe_read_kernel(&tables[slot * kEntries], kTableBytes, (void*)table) == 0) {
    found[slot] = kTable;
  }
  return 0;
}

SEC("syscall")
int WalkPageTables(void* unused) {
  struct task_struct* task = bpf_task_from_pid(pid);
  top_table = 0;
  if (!task) return 0;
  top_table = (unsigned long long)BPF_CORE_READ(task, mm, pgd);
  if (top_table) bpf_loop(chunks, CopyTable, 0, 0);
  bpf_task_release(task);
  return 0;
}

char program_license[] SEC("license") = "GPL";
