"""Reading FlatBuffers, the format of which .tflite files are; nothing is trusted."""

import struct

import numpy as np

_MOST_TABLES = 10_000  # in a list
_INT32 = np.dtype('<i4')


def read_root(data):
    """The outermost Table of a file's bytes."""
    return Table(data, _follow(data, 0))


class Table:
    """A table, whose fields are named by their places in it.

    Each access is checked to be inside the bytes: else ValueError.
    """

    def __init__(self, data, at):
        self.data, self.at = data, at
        self.fields = at - _number(data, at, '<i')
        self.size = _number(data, self.fields, '<H')

    def _place(self, field):
        entry = 4 + 2 * field
        if entry + 2 > self.size:
            return 0
        offset = _number(self.data, self.fields + entry, '<H')
        return self.at + offset if offset else 0

    def number(self, field, kind, default=0):
        place = self._place(field)
        return _number(self.data, place, '<' + kind) if place else default

    def table(self, field):
        place = self._place(field)
        return Table(self.data, _follow(self.data, place)) if place else None

    def array(self, field, dtype):
        """[n] of a type; a view of the bytes. None if the field is absent."""
        place = self._place(field)
        if not place:
            return None
        start = _follow(self.data, place)
        count = _number(self.data, start, '<I')
        if start + 4 + count * dtype.itemsize > len(self.data):
            raise ValueError('a list goes beyond the end')
        return np.frombuffer(self.data, dtype, count, start + 4)

    def numbers(self, field):
        found = self.array(field, _INT32)
        return () if found is None else tuple(found.tolist())

    def tables(self, field):
        place = self._place(field)
        if not place:
            return []
        start = _follow(self.data, place)
        count = _number(self.data, start, '<I')
        if count > _MOST_TABLES:
            raise ValueError(f'a list of {count} tables, limit {_MOST_TABLES}')
        places = range(start + 4, start + 4 + 4 * count, 4)
        return [Table(self.data, _follow(self.data, place)) for place in places]


def _number(data, at, kind):
    # A negative place would count from the end.
    if at < 0 or at + struct.calcsize(kind) > len(data):
        raise ValueError('an offset goes beyond the end')
    return struct.unpack_from(kind, data, at)[0]


def _follow(data, at):
    return at + _number(data, at, '<I')
