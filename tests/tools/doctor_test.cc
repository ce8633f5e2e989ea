// apta doctor against made-up machines: a good one, and that one with a single thing wrong.
#include "tools/apta/doctor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

namespace apta::tool {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// A tree that describes two CPUs, a far memory node and a recent kernel with everything right.
class DoctorTest : public ::testing::Test {
 protected:
  DoctorTest() {
    std::string name = ::testing::TempDir() + "/doctor-XXXXXX";
    root_ = mkdtemp(name.data());
    Write("/sys/kernel/mm/transparent_hugepage/shmem_enabled",
          "always within_size [advise] never deny force\n");
    Write("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    Write("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "600\n");
    Write("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "500\n");
    Write("/sys/devices/system/node/has_memory", "0-1\n");
    Write("/sys/devices/system/node/node0/cpulist", "0-1\n");
    Write("/sys/devices/system/node/node1/cpulist", "\n");
    Write("/sys/devices/system/node/node1/meminfo",
          "Node 1 MemTotal:  33554432 kB\nNode 1 MemFree:  16777216 kB\n");
    Write("/sys/devices/system/cpu/online", "0-1\n");
    Write("/sys/devices/system/cpu/isolated", "\n");
    for (const char* cpu : {"cpu0", "cpu1"}) WriteGovernor(cpu, "performance");
    Write("/sys/fs/cgroup/memory.stat", "");
    Write("/proc/meminfo", "MemTotal: 33554432 kB\nMemFree: 100 kB\nMemAvailable:   16777216 kB\n");
    Write("/proc/mounts",
          "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
          "tmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0\n");
    Write("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
    Write("/proc/cpuinfo", "processor : 0\nflags : fpu vme sse2\n");
    Write("/proc/stat", "cpu  1000 0 1000 90000 10 0 0 0 0 0\ncpu0 1 0 1 1 1 0 0 0 0 0\n");
    Write("/proc/self/cgroup", "0::/system.slice/aptad.service\n");
    Write("/proc/self/status", "Name: apta\nCpus_allowed_list:\t0-1\n");
    Write("/proc/self/limits",
          "Limit                     Soft Limit           Hard Limit           Units\n"
          "Max open files            20000                20000                files\n"
          "Max locked memory         unlimited            unlimited            bytes\n");
    Write("/proc/sys/kernel/osrelease", "6.12.4-amd64\n");
    Write("/proc/sys/kernel/io_uring_disabled", "0\n");
    Write("/proc/sys/kernel/numa_balancing", "0\n");
    Write("/proc/sys/vm/swappiness", "60\n");
  }
  ~DoctorTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file(root_ + path);
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  void WriteGovernor(const std::string& cpu, const std::string& governor) {
    Write("/sys/devices/system/cpu/" + cpu + "/cpufreq/scaling_governor", governor + "\n");
  }
  void Remove(const std::string& path) { std::filesystem::remove_all(root_ + path); }

  // All that is not ok, a line each: "level|what|why|command".
  std::string Complaints(std::optional<int> io_uring_errno = 0) const {
    std::string text;
    for (const Finding& finding : Examine(Machine(root_), io_uring_errno)) {
      if (finding.level == Level::kOk) continue;
      text += std::string(LevelName(finding.level)) + "|" + finding.what + "|" + finding.why + "|" +
              finding.command + "\n";
    }
    return text;
  }
  // That there is exactly one complaint, of this level.
  std::string TheComplaint(std::optional<int> io_uring_errno = 0) const {
    const std::string text = Complaints(io_uring_errno);
    EXPECT_EQ(text.find('\n') + 1, text.size()) << text;
    return text;
  }

  std::string root_;
};

TEST_F(DoctorTest, HasNothingToSayOfAGoodMachine) {
  EXPECT_THAT(Complaints(), IsEmpty());
  const auto findings = Examine(Machine(root_), 0);
  EXPECT_THAT(RenderFindings(findings), HasSubstr("ok      far memory nodes: 1 (16.0 GiB free)\n"));
  EXPECT_THAT(RenderFindings(findings), HasSubstr("0 broken, 0 slow, 0 to note, "));
}

TEST_F(DoctorTest, SurvivesAMachineThatSaysNothing) {
  Remove("/sys");
  Remove("/proc");
  EXPECT_THAT(Complaints(), Not(IsEmpty()));
  EXPECT_THAT(Complaints(), Not(HasSubstr("broken")));
}

TEST_F(DoctorTest, SmallPagesForSharedMemoryAreSlow) {
  const std::string file = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
  for (const std::string word : {"never", "deny"}) {
    Write(file, "always within_size advise [" + word + "] force\n");
    EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("slow|"), HasSubstr(": " + word),
                                      HasSubstr("|echo advise | sudo tee " + file)));
  }
  Remove(file);
  EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("slow|"), HasSubstr("hugetlb")));
}

TEST_F(DoctorTest, ThePageSizeDecidesUnlessTheWholeIsDenied) {
  const std::string all = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
  const std::string own = "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/shmem_enabled";
  Write(all, "always within_size advise [never] deny force\n");
  Write(own, "always [inherit] within_size advise never\n");
  EXPECT_THAT(TheComplaint(), HasSubstr("slow|"));
  Write(own, "always inherit within_size [advise] never\n");
  EXPECT_THAT(Complaints(), IsEmpty());
  Write(all, "always within_size advise never [deny] force\n");
  EXPECT_THAT(TheComplaint(), HasSubstr("deny"));
}

TEST_F(DoctorTest, ReservedPagesAndPrivatePagesAreNotes) {
  Write("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0\n");
  EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("note|"), HasSubstr("sysctl vm.nr_hugepages")));
  Write("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "1\n");
  Write("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
  EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("note|"), HasSubstr("echo madvise")));
}

TEST_F(DoctorTest, WithoutFarMemoryALinkCanBeEmulated) {
  Write("/sys/devices/system/node/has_memory", "0\n");
  EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("note|1 memory node,"), HasSubstr("--link cxl")));
}

TEST_F(DoctorTest, NumaBalancingIsSlowWhereThereAreSeveralNodes) {
  Write("/proc/sys/kernel/numa_balancing", "1\n");
  EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("slow|"), HasSubstr("kernel.numa_balancing=0")));
}

TEST_F(DoctorTest, MemoryThatDoesNotHoldADefaultPoolIsSlow) {
  Write("/proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 524288 kB\n");
  EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("slow|512.0 MiB"), HasSubstr("aptad --pool")));
}

TEST_F(DoctorTest, MemoryLimitsOfAnyParentGroupAreFound) {
  Write("/sys/fs/cgroup/memory.max", "max\n");
  Write("/sys/fs/cgroup/system.slice/aptad.service/memory.max", "max\n");
  EXPECT_THAT(Complaints(), IsEmpty());
  Write("/sys/fs/cgroup/system.slice/memory.max", "536870912\n");
  EXPECT_THAT(TheComplaint(),
              AllOf(HasSubstr("slow|"), HasSubstr("512.0 MiB"),
                    HasSubstr("echo max | sudo tee /sys/fs/cgroup/system.slice/memory.max")));
  Write("/sys/fs/cgroup/system.slice/memory.max", "8589934592\n");
  EXPECT_THAT(TheComplaint(), HasSubstr("note|"));
}

TEST_F(DoctorTest, ReadsVersionOneControlGroups) {
  Write("/proc/self/cgroup", "4:memory:/not/visible/here\n2:cpu,cpuacct:/\n0::/\n");
  Write("/proc/mounts",
        "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
        "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
        "tmpfs /dev/shm tmpfs rw 0 0\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_THAT(Complaints(), IsEmpty());
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n");
  EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("slow|"), HasSubstr("0.50 of 2 CPUs"),
                                    HasSubstr("echo -1 | sudo tee")));
}

TEST_F(DoctorTest, ACpuQuotaBelowTheCpusIsSlow) {
  const std::string file = "/sys/fs/cgroup/system.slice/cpu.max";
  Write(file, "max 100000\n");
  EXPECT_THAT(Complaints(), IsEmpty());
  Write(file, "200000 100000\n");
  EXPECT_THAT(Complaints(), IsEmpty());
  Write(file, "150000 100000\n");
  EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("slow|"), HasSubstr("1.50 of 2 CPUs"),
                                    HasSubstr("period of 100 ms"), HasSubstr("tee " + file)));
}

TEST_F(DoctorTest, SharedMemoryFolderLimitsShmPools) {
  const auto mount_with = [&](const std::string& options) {
    Write("/proc/mounts", "tmpfs /dev/shm tmpfs rw" + options + " 0 0\n");
  };
  for (const char* options : {",size=65536k", ",size=64m", ",size=67108864"}) {
    mount_with(options);
    EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("note|"), HasSubstr("64.0 MiB"),
                                      HasSubstr("mount -o remount,size=4G /dev/shm")));
  }
  for (const char* options : {"", ",size=50%", ",size=2g"}) {
    mount_with(options);
    EXPECT_THAT(Complaints(), IsEmpty());
  }
  Write("/proc/mounts", "");
  EXPECT_THAT(TheComplaint(), HasSubstr("not mounted"));
}

TEST_F(DoctorTest, SwapIsSlowWhenTheKernelLikesIt) {
  Write("/proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n");
  EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("slow|"), HasSubstr("vm.swappiness=1")));
  Write("/proc/sys/vm/swappiness", "1\n");
  EXPECT_THAT(Complaints(), IsEmpty());
}

TEST_F(DoctorTest, DaxDevicesComeWithTheCommandForTheOtherMode) {
  const std::string device = "/sys/bus/dax/devices/dax0.0";
  Write(device + "/size", "17179869184\n");
  Write(device + "/target_node", "1\n");
  std::filesystem::create_symlink("../../drivers/kmem", root_ + device + "/driver");
  EXPECT_THAT(TheComplaint(),
              AllOf(HasSubstr("note|dax0.0 (16.0 GiB) is in system-ram mode, as NUMA node 1"),
                    HasSubstr("daxctl reconfigure-device --force --mode=devdax dax0.0")));
  Remove(device + "/driver");
  std::filesystem::create_symlink("../../drivers/device_dax", root_ + device + "/driver");
  EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("note|dax0.0 (16.0 GiB) is in devdax mode"),
                                    HasSubstr("--mode=system-ram dax0.0")));
}

TEST_F(DoctorTest, OneCpuIsSlow) {
  Write("/proc/self/status", "Cpus_allowed_list:\t1\n");
  EXPECT_THAT(TheComplaint(),
              AllOf(HasSubstr("slow|1 of 2 CPUs"), HasSubstr("taskset --cpu-list 0-1 aptad")));
  Write("/sys/devices/system/cpu/online", "0\n");
  EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("slow|1 of 1 CPUs"), HasSubstr("|\n")));
}

TEST_F(DoctorTest, IsolatedCpusAreAnOffer) {
  Write("/sys/devices/system/cpu/isolated", "1\n");
  EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("note|"), HasSubstr("taskset --cpu-list 1")));
}

TEST_F(DoctorTest, GovernorsThatHoldCpusDownAreNamed) {
  WriteGovernor("cpu1", "powersave");
  EXPECT_THAT(TheComplaint(),
              AllOf(HasSubstr("slow|"), HasSubstr("powersave on 1 CPUs"), HasSubstr("cpupower")));
  WriteGovernor("cpu1", "schedutil");
  EXPECT_THAT(TheComplaint(), HasSubstr("note|"));
  for (const char* cpu : {"cpu0", "cpu1"}) Remove("/sys/devices/system/cpu/" + std::string(cpu));
  EXPECT_THAT(Complaints(), IsEmpty());
}

TEST_F(DoctorTest, StolenTimeIsSlow) {
  Write("/proc/cpuinfo", "flags : fpu hypervisor sse2\n");
  EXPECT_THAT(TheComplaint(), HasSubstr("note|virtual machine"));
  Write("/proc/stat", "cpu  500 0 400 90000 10 0 0 100 0 0\n");
  EXPECT_THAT(TheComplaint(), AllOf(HasSubstr("slow|"), HasSubstr("10.0 %")));
}

TEST_F(DoctorTest, OldKernelsAreNotedSlowOrBroken) {
  const auto level = [&](const std::string& release) {
    Write("/proc/sys/kernel/osrelease", release + "\n");
    const std::string text = Complaints();
    return text.substr(0, text.find('|'));
  };
  EXPECT_EQ(level("6.5.0"), "");
  EXPECT_EQ(level("6.4.9-1"), "note");
  EXPECT_EQ(level("5.14.0"), "note");
  EXPECT_EQ(level("5.13-rc1"), "slow");
  EXPECT_EQ(level("5.3"), "slow");
  EXPECT_EQ(level("5.2.21"), "broken");
  EXPECT_EQ(level("4.19.0"), "broken");
  EXPECT_EQ(level("10.0"), "");
}

TEST_F(DoctorTest, WithoutIoUringNothingWorks) {
  EXPECT_THAT(TheComplaint(EPERM), AllOf(HasSubstr("broken|"), HasSubstr("container")));
  EXPECT_THAT(TheComplaint(ENOSYS), AllOf(HasSubstr("broken|"), HasSubstr("built without")));
  Write("/proc/sys/kernel/io_uring_disabled", "2\n");
  EXPECT_THAT(TheComplaint(EPERM),
              AllOf(HasSubstr("broken|"), HasSubstr("sysctl kernel.io_uring_disabled=0")));
  EXPECT_THAT(TheComplaint(std::nullopt), HasSubstr("broken|"));
  Write("/proc/sys/kernel/io_uring_disabled", "1\n");
  EXPECT_THAT(Complaints(0), IsEmpty());  // we are among the privileged
  EXPECT_THAT(TheComplaint(EPERM), HasSubstr("broken|"));
}

TEST_F(DoctorTest, LowProcessLimitsAreNotes) {
  Write("/proc/self/limits",
        "Max open files            1024                 1048576              files\n"
        "Max locked memory         65536                65536                bytes\n");
  EXPECT_THAT(Complaints(), AllOf(HasSubstr("note|at most 1024 open files"), HasSubstr("ulimit -n"),
                                  HasSubstr("note|at most 64.0 KiB"), HasSubstr("ulimit -l")));
}

TEST_F(DoctorTest, TheWorstComesFirst) {
  Write("/sys/devices/system/cpu/isolated", "1\n");
  Write("/proc/self/status", "Cpus_allowed_list:\t1\n");
  Write("/proc/sys/kernel/io_uring_disabled", "2\n");
  const std::string text = Complaints(EPERM);
  EXPECT_EQ(text.find("broken|"), 0u);
  EXPECT_LT(text.find("slow|"), text.find("note|"));
  EXPECT_THAT(RenderFindings(Examine(Machine(root_), EPERM)),
              HasSubstr("1 broken, 1 slow, 1 to note, "));
}

TEST(ParseCpuListTest, ReadsRangesAndSkipsWhatItCannotRead) {
  EXPECT_THAT(ParseCpuList("0-2,5"), ::testing::ElementsAre(0, 1, 2, 5));
  EXPECT_THAT(ParseCpuList(""), IsEmpty());
  EXPECT_THAT(ParseCpuList("x,3,4-,0-99999999999"), ::testing::ElementsAre(3));
}

}  // namespace
}  // namespace apta::tool
