#include "libzmem/uffd/address_map.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "libzmem/testing/memory.h"

namespace zmem {
namespace {

using Ranges = std::vector<AddressRange>;

Ranges Eligible(const std::string& maps, const Ranges& excluded = {}) {
  return AddressMap::Parse(maps, excluded).eligible();
}

TEST(AddressMap, TakesHeapsAndAnonymousMemory) {
  EXPECT_EQ(Eligible("55d000000000-55d000021000 rw-p 00000000 00:00 0      [heap]\n"
                     "7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \n"
                     "7f0000400000-7f0000500000 rw-p 00000000 00:00 0      [anon:glibc: malloc]\n"),
            (Ranges{{0x55d000000000, 0x55d000021000},
                    {0x7f0000000000, 0x7f0000200000},
                    {0x7f0000400000, 0x7f0000500000}}));
}

TEST(AddressMap, LeavesOutFilesAndWhatTheKernelNames) {
  EXPECT_EQ(
      Eligible("55d000000000-55d000021000 rw-p 00002000 fe:00 1234   /usr/bin/program\n"
               "7f0000000000-7f0000200000 rw-p 00000000 00:01 77     /memfd:a b (deleted)\n"
               "7f0000300000-7f0000301000 rw-p 00000000 00:0e 5      /anon_hugepage (deleted)\n"
               "7f0000400000-7f0000401000 rw-p 00000000 00:00 0      [vvar]\n"
               "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0      [stack]\n"),
      Ranges{});
}

TEST(AddressMap, LeavesOutWhatIsNotPrivateReadableAndWritable) {
  for (const char* permissions : {"r--p", "---p", "rwxp", "r-xp", "rw-s", "-w-p"}) {
    EXPECT_EQ(
        Eligible("7f0000000000-7f0010000000 " + std::string(permissions) + " 00000000 00:00 0 \n"),
        Ranges{})
        << permissions;
  }
}

TEST(AddressMap, LeavesOutStacksByTheGuardBelowThem) {
  EXPECT_EQ(Eligible("7f0000000000-7f0000001000 ---p 00000000 00:00 0 \n"
                     "7f0000001000-7f0000801000 rw-p 00000000 00:00 0 \n"
                     "7f0000801000-7f0000802000 ---p 00000000 00:00 0 \n"
                     "7f0000802000-7f0001002000 rw-p 00000000 00:00 0 \n"
                     "7f0002000000-7f0003000000 rw-p 00000000 00:00 0 \n"),
            (Ranges{{0x7f0002000000, 0x7f0003000000}}));
}

TEST(AddressMap, AboveAGuardALargeMappingLosesNoMoreThanAStack) {
  EXPECT_EQ(Eligible("7f0000000000-7f0000001000 ---p 00000000 00:00 0 \n"
                     "7f0000001000-7f0040001000 rw-p 00000000 00:00 0 \n"),
            (Ranges{{0x7f0004001000, 0x7f0040001000}}));
}

TEST(AddressMap, AGuardWithAGapAboveItGuardsNothing) {
  EXPECT_EQ(Eligible("7f0000000000-7f0000001000 ---p 00000000 00:00 0 \n"
                     "7f0000002000-7f0000003000 rw-p 00000000 00:00 0 \n"),
            (Ranges{{0x7f0000002000, 0x7f0000003000}}));
}

TEST(AddressMap, AHeapsReserveIsNoGuard) {
  // As glibc's arenas: the used part below its reserve, and the next arena above it.
  EXPECT_EQ(Eligible("7f0000000000-7f0000021000 rw-p 00000000 00:00 0 \n"
                     "7f0000021000-7f0004000000 ---p 00000000 00:00 0 \n"
                     "7f0004000000-7f0004021000 rw-p 00000000 00:00 0 \n"),
            (Ranges{{0x7f0000000000, 0x7f0000021000}, {0x7f0004000000, 0x7f0004021000}}));
}

TEST(AddressMap, ExcludedRangesCutHoles) {
  const std::string maps = "7f0000000000-7f0000100000 rw-p 00000000 00:00 0 \n";
  EXPECT_EQ(Eligible(maps, {{0x7f0000010000, 0x7f0000020000}}),
            (Ranges{{0x7f0000000000, 0x7f0000010000}, {0x7f0000020000, 0x7f0000100000}}));
  // In any order, overlapping, over an end, outside, empty.
  EXPECT_EQ(Eligible(maps, {{0x7f00000f0000, 0x7f0000200000},
                            {0x7f0000010000, 0x7f0000040000},
                            {0x7f0000020000, 0x7f0000030000},
                            {0x7effffff0000, 0x7f0000001000},
                            {0x7f0000050000, 0x7f0000050000},
                            {0x1000, 0x2000}}),
            (Ranges{{0x7f0000001000, 0x7f0000010000}, {0x7f0000040000, 0x7f00000f0000}}));
  EXPECT_EQ(Eligible(maps, {{0x7f0000000000, 0x7f0000100000}}), Ranges{});
}

TEST(AddressMap, TellsTheMappingsAsTheyAre) {
  AddressMap map = AddressMap::Parse("7f0000000000-7f0000100000 rw-p 00000000 00:00 0 \n",
                                     {{0x7f0000010000, 0x7f0000020000}});
  EXPECT_EQ(map.mappings(), (Ranges{{0x7f0000000000, 0x7f0000100000}}));
}

// One mapping as /proc/PID/smaps shows it.
std::string Smap(const std::string& head, const std::string& flags) {
  return head + "\nSize:               1024 kB\nRss:                   4 kB\nAnonymous:  4 kB\n" +
         "AnonHugePages:         0 kB\nTHPeligible:           1\nVmFlags: " + flags + " \n";
}

TEST(AddressMap, LeavesOutMappingsWithFlagsThatForbidIt) {
  const std::string head = "7f0000000000-7f0000100000 rw-p 00000000 00:00 0 ";
  const Ranges whole{{0x7f0000000000, 0x7f0000100000}};
  EXPECT_EQ(Eligible(Smap(head, "rd wr mr mw me ac sd")), whole);
  EXPECT_EQ(Eligible(Smap(head, "rd wr mr mw me ac hg")), whole);
  for (const char* flag : {"lo", "dc", "wf", "io", "pf", "mm", "ht", "ss"}) {
    EXPECT_EQ(Eligible(Smap(head, std::string("rd wr mr mw me ac ") + flag)), Ranges{}) << flag;
  }
}

TEST(AddressMap, FlagsAreThoseOfTheMappingAboveThem) {
  AddressMap map = AddressMap::Parse(
      Smap("7f0000000000-7f0000100000 rw-p 00000000 00:00 0 ", "rd wr lo") +
          Smap("7f0000100000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr um") +
          Smap("7f0000300000-7f0000400000 rw-p 00000000 fe:00 77  /a file", "rd wr um"),
      {});
  EXPECT_EQ(map.eligible(), (Ranges{{0x7f0000100000, 0x7f0000200000}}));
  EXPECT_EQ(map.forbidden(), (Ranges{{0x7f0000000000, 0x7f0000100000}}));
  EXPECT_EQ(map.registered(),
            (Ranges{{0x7f0000100000, 0x7f0000200000}, {0x7f0000300000, 0x7f0000400000}}));
}

// As read while the program merged the first with what is now the second: the range of an address
// is looked for by where ranges end.
TEST(AddressMap, AMappingThatBeginsInOneReadBeforeCountsFromItsEnd) {
  AddressMap map =
      AddressMap::Parse(Smap("7f0000010000-7f0000020000 rw-p 00000000 00:00 0 ", "rd wr um") +
                            Smap("7f0000008000-7f0000040000 rw-p 00000000 00:00 0 ", "rd wr um"),
                        {});
  const Ranges disjoint{{0x7f0000010000, 0x7f0000020000}, {0x7f0000020000, 0x7f0000040000}};
  EXPECT_EQ(map.eligible(), disjoint);
  EXPECT_EQ(map.registered(), disjoint);
  EXPECT_EQ(map.mappings(),
            (Ranges{{0x7f0000010000, 0x7f0000020000}, {0x7f0000008000, 0x7f0000040000}}));
}

TEST(AddressMap, RubbishIsPassedOver) {
  EXPECT_EQ(Eligible(""), Ranges{});
  EXPECT_EQ(Eligible("\n\nx\n7f00-zz rw-p 0 0:0 0\n7f0000000000 rw-p 00000000 00:00 0 \n"),
            Ranges{});
}

bool Covers(const Ranges& ranges, Address address) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [address](AddressRange range) { return range.Contains(address); });
}

TEST(AddressMap, ReadsThisProcess) {
  Mapping memory(2);
  Mapping locked(1);
  ASSERT_EQ(madvise(locked.data(0), kChunkBytes, MADV_DONTFORK), 0);
  absl::StatusOr<AddressMap> map = AddressMap::Read(getpid(), {memory.pages(512, 512)});
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_TRUE(Covers(map->eligible(), memory.address(0)));
  EXPECT_FALSE(Covers(map->eligible(), memory.address(600)));
  EXPECT_FALSE(Covers(map->eligible(), locked.address(0)));
  int on_stack = 0;
  EXPECT_FALSE(Covers(map->eligible(), reinterpret_cast<Address>(&on_stack)));
  EXPECT_FALSE(AddressMap::Read(1 << 30, {}).ok());
}

TEST(MappingAt, IsTheWholeOfIt) {
  Mapping memory(1);
  AddressRange found = MappingAt(getpid(), memory.address(100));
  EXPECT_EQ(found.Intersect(memory.range()), memory.range());
  ASSERT_EQ(mprotect(memory.data(100), kPageBytes, PROT_READ), 0);
  EXPECT_EQ(MappingAt(getpid(), memory.address(100)), memory.pages(100, 1));
  ASSERT_EQ(munmap(memory.data(100), kPageBytes), 0);
  EXPECT_TRUE(MappingAt(getpid(), memory.address(100)).empty());
  memory.Forget(100, 1);
}

TEST(IsOneMapping, TellsMappingsApart) {
  Mapping memory(1);
  EXPECT_TRUE(IsOneMapping(getpid(), memory.range()));
  EXPECT_TRUE(IsOneMapping(getpid(), memory.pages(10, 10)));
  ASSERT_EQ(mprotect(memory.data(100), kPageBytes, PROT_READ), 0);
  EXPECT_FALSE(IsOneMapping(getpid(), memory.range()));
  EXPECT_TRUE(IsOneMapping(getpid(), memory.pages(0, 100)));
  EXPECT_TRUE(IsOneMapping(getpid(), memory.pages(100, 1)));
  EXPECT_FALSE(IsOneMapping(getpid(), memory.pages(99, 2)));
  memory.Unmap(200, 1);
  EXPECT_FALSE(IsOneMapping(getpid(), memory.pages(150, 100)));
  EXPECT_FALSE(IsOneMapping(getpid(), memory.pages(200, 1)));
}

}  // namespace
}  // namespace zmem
