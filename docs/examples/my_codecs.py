"""A codec: the device encodes, FEDn's process decodes. NumPy, the standard library and this one import only."""

import math

import numpy as np

from fedn_partial.exchange.codecs import Codec


class TopK(Codec):
    """The tenth of a kernel's changes that is largest; what is left out is added to the next change."""

    def encode(self, change):  # a read-only float32 array: trained weights minus global weights
        values = change.reshape(-1)
        count = math.ceil(values.size / 10)
        places = np.sort(np.argpartition(np.abs(values), -count)[-count:]).astype("<u4")
        return places.tobytes() + values[places].astype("<f4").tobytes()

    def decode(self, data, shape):  # a read-only memoryview of at most max_bytes bytes
        half = len(data) // 2
        change = np.zeros(math.prod(shape), np.float32)
        change[np.frombuffer(data[:half], "<u4")] = np.frombuffer(data[half:], "<f4")
        return change.reshape(shape)

    def max_bytes(self, shape):
        return 8 * math.ceil(math.prod(shape) / 10)
