"""What `braid bench quality --logits` writes, mapped."""
import json

import numpy as np

NUMPY_TYPE = {"I32": "<i4", "F32": "<f4"}


def read(path):
    """{name: array}: tokens (N), lengths of the sequences (S), reference and candidate logits (N, V)"""
    with open(path, "rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
    return {name: np.memmap(path, NUMPY_TYPE[tensor["dtype"]], "r", 8 + header_bytes + tensor["data_offsets"][0],
                            tuple(tensor["shape"])) for name, tensor in header.items()}
