"""The pages about kernels for a GPU are true. What each takes of an SM is in kernels/cuda/registers.txt: who changes it
sees it in a diff.

    cmake --build build/release --target kernels_cuda
    tests/cuda_registers_test.py --update build/release/kernels/cuda

The compiler has already refused spilled registers and local memory (cmake/cuda_kernels.cmake).
"""
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "kernels/cuda"))
import occupancy  # noqa: E402

TABLE = ROOT / "kernels/cuda/registers.txt"
STORED = ("F32", "BF16", "Q4_0", "FP8")  # of kernels/cuda/quants.h

HEAD = """# Of every kernel the threads of a block (at most), and on every architecture: registers of a thread, shared
# memory of a block in bytes (with what a launch for LFM2-8B-A1B adds), the blocks that an SM runs at once, and their
# warps, of 64. Written and checked by tests/cuda_registers_test.py.
# {compiler}
"""


def compiler(nvcc):
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return "nvcc " + re.search(r"V([\d.]+)", said).group(1)


def demangled(names):
    plain = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    short = {}
    for name, full in zip(names, plain.splitlines()):
        full = re.sub(r"\(anonymous namespace\)::|braid::gpu::|^void ", "", full)
        full = re.sub(r"\(Stored\)(\d)", lambda match: STORED[int(match.group(1))], full)
        short[name] = re.sub(r"\(.*", "", full).replace("__nv_bfloat16", "bf16")
    return short


def table(reports, compiler_name):
    pattern = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'.*?Used (\d+) registers([^\n]*)", re.S)
    rows, names, threads = {}, set(), {}
    for path in sorted(reports.glob("*.cu.ptxas")):
        report = path.read_text()
        threads.update(re.findall(r"\.entry (\w+).*?\.maxntid (\d+)", report, re.S))
        for name, arch, registers, rest in pattern.findall(report):
            if arch not in occupancy.SHARED:
                continue  # 8.9, which has but a few kernels of its own
            shared = re.search(r"(\d+) bytes smem", rest)
            rows.setdefault((path.name.removesuffix(".cu.ptxas"), name), {})[arch] = (
                int(registers), int(shared.group(1)) if shared else 0)
            names.add(name)
    short = demangled(sorted(names))
    archs = sorted({arch for row in rows.values() for arch in row}, key=lambda arch: int(re.sub(r"\D", "", arch)))
    lines = [HEAD.format(compiler=compiler_name), f"{'':46}threads" + "".join(f"{arch:>21}" for arch in archs) + "\n"]
    file_before = None
    for file, name in sorted(rows, key=lambda key: (key[0], short[key[1]])):
        if file != file_before:
            lines.append(f"{file}.cu\n")
            file_before = file
        block = int(threads[name])
        line = f"  {short[name]:<46}{block:>5}"
        for arch in archs:
            registers, shared = rows[file, name][arch]
            shared += occupancy.dynamic(short[name])
            blocks = occupancy.blocks(arch, block, registers, shared)
            line += f"{registers:>6}{shared:>7}{blocks:>4}{blocks * block // 32:>4}"
        lines.append(line + "\n")
    return "".join(lines)


def test_registers_and_shared_memory_are_as_written_down():
    import pytest
    nvcc = os.environ.get("BRAID_NVCC", "")
    if not nvcc or nvcc.endswith("NOTFOUND"):
        pytest.skip("no nvcc: the CUDA 13 toolkit is not installed")
    known = TABLE.read_text()
    if compiler(nvcc) not in known:
        pytest.skip(f"the table is of another compiler than {compiler(nvcc)}")
    found = table(pathlib.Path(os.environ["BRAID_CUDA_REPORTS"]), compiler(nvcc))
    assert found.splitlines() == known.splitlines()


# Prints the blocks on an SM for each line of architecture, threads, registers, an SM's shared memory and a block's.
ORACLE = r"""
#include <cuda_occupancy.h>
#include <cstdio>
int main() {
  int major, threads, registers, per_sm, shared;
  while (std::scanf("%d %d %d %d %d", &major, &threads, &registers, &per_sm, &shared) == 5) {
    cudaOccDeviceProp device;
    device.computeMajor = major, device.computeMinor = 0;
    device.maxThreadsPerBlock = 1024, device.maxThreadsPerMultiprocessor = 2048;
    device.regsPerBlock = device.regsPerMultiprocessor = 65536, device.warpSize = 32, device.numSms = 1;
    device.sharedMemPerBlock = 49152, device.sharedMemPerMultiprocessor = per_sm;
    device.sharedMemPerBlockOptin = per_sm - 1024, device.reservedSharedMemPerBlock = 1024;
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = 1024, kernel.numRegs = registers, kernel.sharedSizeBytes = 0;
    kernel.partitionedGCConfig = PARTITIONED_GC_OFF, kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    kernel.maxDynamicSharedSizeBytes = per_sm - 1024, kernel.numBlockBarriers = 1;
    cudaOccDeviceState state;
    cudaOccResult result;
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, shared) != CUDA_OCC_SUCCESS)
      return 1;
    std::printf("%d\n", result.activeBlocksPerMultiprocessor);
  }
}
"""


def test_occupancy_is_what_the_header_of_cuda_says(tmp_path):
    import pytest
    include = os.environ.get("BRAID_CUDA_INCLUDE", "")
    if not include:
        pytest.skip("no CUDA 13 headers")
    (tmp_path / "oracle.cc").write_text(ORACLE)
    subprocess.run(["c++", "-std=c++17", f"-I{include}", "oracle.cc", "-o", "oracle"], cwd=tmp_path, check=True)
    asked = [(arch, threads, registers, shared) for arch in occupancy.SHARED for threads in (32, 96, 128, 256, 1024)
             for registers in (16, 33, 64, 128, 232, 255) for shared in (0, 100, 16384, 48 << 10, 98304, 160 << 10)
             if registers * threads <= 65536]
    lines = "".join(f"{re.sub('[^0-9]', '', arch)[:-1]} {threads} {registers} {occupancy.SHARED[arch]} {shared}\n"
                    for arch, threads, registers, shared in asked)
    said = subprocess.run([tmp_path / "oracle"], input=lines, capture_output=True, text=True, check=True).stdout.split()
    assert [occupancy.blocks(*one) for one in asked] == [int(blocks) for blocks in said]


def test_the_roofline_page_has_what_its_script_says():
    import roofline
    page = (ROOT / "kernels/cuda/README.md").read_text()
    assert roofline.updated(page, roofline.pages()) == page, "run kernels/cuda/roofline.py --update"


if __name__ == "__main__":
    assert len(sys.argv) == 3 and sys.argv[1] == "--update", __doc__
    cache = (ROOT / "build/release/CMakeCache.txt").read_text()
    TABLE.write_text(table(pathlib.Path(sys.argv[2]), compiler(re.search(r"BRAID_NVCC:\w+=(.*)", cache).group(1))))
