"""The GPU worker, end to end and without a GPU: real gateway, router and worker processes, of which the workers are
linked with emulated kernels and fakes of CUDA's and NCCL's libraries (tests/cuda_emulator/README.md).

In float32 the token ids are those of the CPU's workers. In bfloat16, what is served, they are others, and the same for
any batch, chunk and number of workers, with graphs and without, whoever dies on the way.
"""
import os
import pathlib
import signal

import pytest

from cluster import Cluster, ROOT
from faults.client import ask_together
from faults.workload import Workload, demo_requests, undisturbed
from same_bits_test import alone, ask, mixed_requests, together

EMULATED = pathlib.Path(os.environ.get("BRAID_TESTS", ROOT / "build/release/tests")) / "braid-expert-worker-emulated"
TOKENS = 12

pytestmark = pytest.mark.skipif(not EMULATED.exists(), reason=f"{EMULATED.name} is not built: no CUDA headers here")


def gpu_cluster(workers, *worker_flags, router=()):
    flags = {"worker": ["--device", "cuda", *worker_flags], "router": router}
    return Cluster(workers=workers, worker=EMULATED, flags=flags)
