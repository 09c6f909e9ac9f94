"""Records for tests and benchmarks: the bytes of an Elekta log file, versions 1 to 4."""

import struct

GANTRY = (2224, 129)
STATE = (2543, 111)
STEP_DOSE = (2238, 111)
DOSE_RAW = (2162, 101)
WEDGE = (2541, 111)


def agility_items(version):
    """The items of a record, in the order of all real ones."""
    items = [(2240, 111), (2177, 100), STATE, (2542, 111), STEP_DOSE, DOSE_RAW, (2200, 111), WEDGE]
    items += [(item, part) for item in range(2224, 2230) for part in (129, 220)]
    items += [(2060, 129), (2061, 129), (2060, 220), (2061, 220), (2064, 129), (2065, 129), (2064, 220), (2065, 220)]
    items += [(2420, 227), (2500, 227)]
    items += [(first + leaf, part) for part in (129, 220) for first in (2380, 2460) for leaf in range(80)]
    return items + ([(2170, 111)] if version == 4 else [])


def text(value):
    """A length in groups of seven bits, then UTF-8."""
    data = value.encode()
    length, prefix = len(data), bytearray()
    while length >= 128:
        prefix.append(length & 127 | 128)
        length >>= 7
    return bytes(prefix) + bytes([length]) + data


def record(version, rows, items=None, field="2-2/DIR SCALP", date="20/01/31 07:00:00 Z", machine="1234", tenth_mu=2274.0):
    """A record of ``rows``, each (timestamp in ms, {item: stored integer}); items that a row lacks are 0."""
    items = agility_items(version) if items is None else items
    out = text(date) + text("+01:00") + text(field) + text(machine)
    out += struct.pack("<dii", tenth_mu, version, len(items))
    out += b"".join(struct.pack("<hh", *item) for item in items)
    number = "i" if version == 4 else "h"
    for timestamp, values in rows:
        out += b"" if version == 1 else struct.pack("<q", timestamp)
        out += struct.pack("<%d%s" % (len(items), number), *(values.get(item, 0) for item in items))
    return out
