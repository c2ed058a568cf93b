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
TABLE = ROOT / "kernels/cuda/registers.txt"
STORED = ("F32", "BF16", "Q4_0", "FP8")  # of kernels/cuda/quants.h

HEAD = """# Of every kernel on every architecture: registers of a thread, static shared memory of a block in bytes,
# and the warps of 64 on an SM that the registers leave room for. Written and checked by tests/cuda_registers_test.py.
# {compiler}
"""


def compiler(nvcc):
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return "nvcc " + re.search(r"V([\d.]+)", said).group(1)


def warps(registers):
    """Registers are given out to a warp in units of 8 for each of its 32 threads."""
    return min(64, 65536 // (32 * ((registers + 7) // 8 * 8)))


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
    rows, names = {}, set()
    for path in sorted(reports.glob("*.cu.ptxas")):
        for name, arch, registers, rest in pattern.findall(path.read_text()):
            shared = re.search(r"(\d+) bytes smem", rest)
            rows.setdefault((path.name.removesuffix(".cu.ptxas"), name), {})[arch] = (
                int(registers), int(shared.group(1)) if shared else 0)
            names.add(name)
    short = demangled(sorted(names))
    archs = sorted({arch for row in rows.values() for arch in row}, key=lambda arch: int(re.sub(r"\D", "", arch)))
    lines = [HEAD.format(compiler=compiler_name), f"{'':55}" + "".join(f"{arch:>18}" for arch in archs) + "\n"]
    file_before = None
    for file, name in sorted(rows, key=lambda key: (key[0], short[key[1]])):
        if file != file_before:
            lines.append(f"{file}.cu\n")
            file_before = file
        cells = (f"{registers:>6}{shared:>7}{warps(registers):>5}"
                 for registers, shared in (rows[file, name][arch] for arch in archs))
        lines.append(f"  {short[name]:<53}" + "".join(cells) + "\n")
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


def test_the_roofline_page_has_what_its_script_says():
    sys.path.insert(0, str(ROOT / "kernels/cuda"))
    import roofline
    page = (ROOT / "kernels/cuda/README.md").read_text()
    assert roofline.updated(page) == page, "run kernels/cuda/roofline.py --update"


if __name__ == "__main__":
    assert len(sys.argv) == 3 and sys.argv[1] == "--update", __doc__
    cache = (ROOT / "build/release/CMakeCache.txt").read_text()
    TABLE.write_text(table(pathlib.Path(sys.argv[2]), compiler(re.search(r"BRAID_NVCC:\w+=(.*)", cache).group(1))))
