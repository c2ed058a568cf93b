"""A float32 GGUF written anew with K quants, by llama.cpp's own quantiser (`braid convert` writes none).

Rows that are no whole number of 256 values, which K quants need, become Q8_0.
"""
import ctypes
import struct

import numpy as np

TYPES = {"F32": (0, 1, 4), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176),
         "Q6_K": (14, 256, 210)}  # ggml's number, elements and bytes of a block
ALIGN = 32
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, layout):
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values if len(values) > 1 else values[0]

    def string(self):
        length = self.take("Q")
        self.at += length
        return self.data[self.at - length:self.at]

    def skip_value(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            of, count = self.take("IQ")
            for _ in range(count):
                self.skip_value(of)
        else:
            self.at += SCALAR_BYTES[kind]


def read_float32(path):
    """(the metadata's bytes, how many there are, [(name, dimensions, values)])"""
    data = path.read_bytes()
    reader = Reader(data)
    magic, version, tensor_count, metadata_count = reader.take("4sIQQ")
    assert magic == b"GGUF" and version == 3
    begin = reader.at
    for _ in range(metadata_count):
        reader.string()
        reader.skip_value(reader.take("I"))
    metadata, listing = data[begin:reader.at], []
    for _ in range(tensor_count):
        name = reader.string()
        dimensions = [reader.take("Q") for _ in range(reader.take("I"))]
        kind, offset = reader.take("IQ")
        assert kind == TYPES["F32"][0], f"{name} is not in float32"
        listing.append((name, dimensions, offset))
    start = -(-reader.at // ALIGN) * ALIGN
    return metadata, metadata_count, [
        (name, dimensions, np.frombuffer(data, "<f4", int(np.prod(dimensions)), start + offset))
        for name, dimensions, offset in listing]


def quantise(library, values, columns, kind):
    number, elements, size = TYPES[kind]
    values = np.ascontiguousarray(values)
    out = ctypes.create_string_buffer(values.size // elements * size)
    written = library.ggml_quantize_chunk(number, values.ctypes.data_as(ctypes.c_void_p), out, ctypes.c_int64(0),
                                          ctypes.c_int64(values.size // columns), ctypes.c_int64(columns), None)
    assert written == len(out)
    return out.raw


def stays_float(name, dimensions):
    """Vectors, convolution kernels, and the router, as in files that llama.cpp makes."""
    return len(dimensions) == 1 or b"shortconv.conv" in name or b"ffn_gate_inp" in name


def write_k_quants(source, destination, kind, embedding_kind):
    import xllamacpp
    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    metadata, metadata_count, tensors = read_float32(source)
    infos, body = b"", b""
    for name, dimensions, values in tensors:
        wanted = embedding_kind if name == b"token_embd.weight" else kind
        if stays_float(name, dimensions):
            wanted = "F32"
        elif dimensions[0] % TYPES[wanted][1] != 0:
            wanted = "Q8_0"
        infos += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(dimensions))
        infos += struct.pack(f"<{len(dimensions)}Q", *dimensions) + struct.pack("<IQ", TYPES[wanted][0], len(body))
        data = values.tobytes() if wanted == "F32" else quantise(library, values, dimensions[0], wanted)
        body += data + b"\0" * (-len(data) % ALIGN)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), metadata_count) + metadata + infos
    destination.write_bytes(head + b"\0" * (-len(head) % ALIGN) + body)
