"""The house rules that a machine can check: who may include whom, nothing orphaned, README true, lines short.

Layers, from the ground up (DESIGN: base <- kernels <- model, base <- monitoring, services on top, cli above all):
"""
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent

# folder -> folders it may include from, itself aside.
ARROWS = {
    "base": set(),
    "proto": {"base"},
    "monitoring": {"base"},
    "kernels": {"base"},
    "model": {"base", "kernels"},
    "gateway": {"base", "proto", "model", "monitoring"},
    "router": {"base", "proto", "model", "monitoring"},
    "expert_worker": {"base", "proto", "model", "monitoring", "kernels"},
    "cli": {"base", "proto", "model", "monitoring", "kernels", "gateway", "router", "expert_worker"},
    "tests": {"base", "proto", "model", "monitoring", "kernels", "gateway", "router", "expert_worker", "cli"},
}
# Headers of model/ that bring kernels in: gateway and router work on text and tokens only.
FORWARD_HEADERS = {"model/engine.h", "model/forward.h", "model/checksum_engine.h", "model/chunk.h", "model/experts.h",
                   "model/host_states.h", "model/sequence_states.h", "model/convert.h"}
CORE_BANNED = re.compile(r"#include [<\"](grpc|boost/asio|sys/socket|ucp/|thread>|mutex>|absl/time/clock\.h)")
INCLUDE = re.compile(r'^#include "([^"]+)"', re.M)


def sources(*suffixes):
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.split("\n")
    return [ROOT / f for f in listed if f.endswith(suffixes) and (ROOT / f).exists()]


def includes(path):
    return INCLUDE.findall(path.read_text())


def folder(path):
    return path.relative_to(ROOT).parts[0]


def test_includes_follow_the_arrows():
    wrong = []
    for path in sources(".h", ".cc", ".cu"):
        for target in includes(path):
            top = target.split("/")[0]
            if top not in ARROWS or top == folder(path):
                continue
            # What runs on a GPU runs in the emulator of tests/ when it is tested.
            if "test" in path.name and target.startswith("tests/cuda_emulator/"):
                continue
            if top not in ARROWS[folder(path)]:
                wrong.append(f"{path.relative_to(ROOT)} includes {target}")
    assert not wrong, "\n".join(wrong)


def test_gateway_and_router_stay_clear_of_kernels():
    """Followed through every header they reach, not only what they name."""
    wrong = []
    for path in sources(".h", ".cc"):
        if folder(path) not in ("gateway", "router"):
            continue
        seen, todo = set(), includes(path)
        while todo:
            target = todo.pop()
            if target in seen or not (ROOT / target).exists():
                continue
            seen.add(target)
            if target in FORWARD_HEADERS or target.startswith("kernels/"):
                wrong.append(f"{path.relative_to(ROOT)} reaches {target}")
            todo += includes(ROOT / target)
    assert not wrong, "\n".join(wrong)


def core_sources(folder_name):
    """The files of the target <folder>_core, as the CMakeLists.txt that has it lists them."""
    found = []
    for path in (ROOT / folder_name).rglob("CMakeLists.txt"):
        for block in re.findall(rf"braid_library\({folder_name}_core\s([^)]*)\)", path.read_text()):
            found += [path.parent / word for word in block.split() if word.endswith((".h", ".cc"))]
    return found


def test_cores_are_pure():
    """What decides takes time and events as arguments: no gRPC, sockets, threads or clock in a core."""
    for service in ("router", "gateway"):
        files = core_sources(service)
        assert files, f"{service} has no core target"
        for path in files:
            assert not CORE_BANNED.search(path.read_text()), f"{path.relative_to(ROOT)} is not pure"


def test_no_class_is_two():
    """`braid serve` links all services: two classes of one name are one to the linker, whichever it likes."""
    definition = re.compile(r"^(?:class|struct|enum class) (\w+)(?: final)?(?: : [^;{]*)? {", re.M)
    homes = {}
    for path in sources(".h"):
        # Each CPU level has its vectors in a namespace of its own.
        if folder(path) == "tests" or path.match("kernels/cpu/vec*.h"):
            continue
        for name in definition.findall(path.read_text()):
            # What is for GPUs has a namespace of its own, braid::gpu: a GPU's RmsNorm beside the CPU's.
            name = f"gpu::{name}" if path.parent.name == "cuda" else name
            homes.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    twice = [f"{name}: {', '.join(paths)}" for name, paths in homes.items() if len(paths) > 1]
    assert not twice, "\n".join(twice)


def test_every_source_is_built():
    """A .cc or .cu is in its CMakeLists.txt; a header is there too, or somebody includes it."""
    cmake = "\n".join(p.read_text() for p in sources("CMakeLists.txt"))
    included = {target for p in sources(".h", ".cc", ".cu") for target in includes(p)}
    orphans = [str(p.relative_to(ROOT)) for p in sources(".cc", ".cu", ".h")
               if not re.search(rf"(^|[\s/(]){re.escape(p.name)}\b", cmake, re.M)
               and str(p.relative_to(ROOT)) not in included]
    assert not orphans, "built and included by nobody: " + ", ".join(orphans)


def test_lines_fit_the_page():
    """But for the sentences and lists that the demo model learns from: they are data."""
    long_lines = [f"{p.relative_to(ROOT)}:{i}" for p in sources(".h", ".cc", ".cu", ".py", ".proto", ".sh")
                  if p.parent != ROOT / "model/demo/train"
                  for i, line in enumerate(p.read_text().splitlines(), 1) if len(line) > 120]
    assert not long_lines, "over 120 columns: " + ", ".join(long_lines)


def test_readme_names_every_folder_and_only_files_that_exist():
    readme = (ROOT / "README.md").read_text()
    folders = {p.relative_to(ROOT).parts[0] for p in sources("") if len(p.relative_to(ROOT).parts) > 1}
    for name in sorted(folders):
        assert name.startswith(".") or f"`{name}/`" in readme, f"README.md does not show {name}/"
    for target in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / target).exists(), f"README.md links to {target}, which is not there"


def test_readme_explains_every_dependency():
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"^PACKAGES=\((.*?)^\)", (ROOT / "run").read_text(), re.M | re.S).group(1)
    for package in block.split():
        assert f"`{package}`" in readme, f"README.md does not say why {package} is needed"
