"""How many documents records have, without parsing them.

Where fields begin and end says it. All records of a buffer are walked at once with
NumPy, a field of each a step. What is not of the form that serializers write is left
to a parser.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from tfr_pipeline.data.records.formats import EIE, EXAMPLES_KEY, PACKED, PACKED_KEY, SEQ
from tfr_pipeline.data.records.wire import FIRST, SECOND, WireError, read_length

SPARE = 8  # bytes of a buffer behind the last record, which are read along
UNKNOWN = -1  # documents of a record that a parser has to count
_FEW = 48  # records that are not worth a step of NumPy
_NONE = 0xFF  # no tag of a length-delimited field
_WORD = np.uint64


def count_documents(
    data: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    data_format: str,
    names: Collection[str] = (),
) -> np.ndarray:
    """Counts the documents of records in a buffer.

    Args:
      data: uint8 `[bytes]`, with `SPARE` bytes behind the last record.
      starts: int64 `[records]`, where they begin.
      stops: int64 `[records]`, and end.
      data_format: `elwc`, `eie`, `seq` or `packed`.
      names: Features of a `seq`; the longest of them tells.

    Returns:
      int64 `[records]`; `UNKNOWN` for those that a parser has to count.
    """
    walk = _Walk(data)
    records = _Ranges(starts, stops)
    if data_format == SEQ:
        return walk.longest(walk.second(records), {name.encode() for name in names})
    if data_format == PACKED:
        labels = walk.only(walk.list_of_bytes(records, PACKED_KEY))
        return np.where(labels.known, (labels.stops - labels.starts) // 4, UNKNOWN)
    if data_format == EIE:
        return walk.count(walk.list_of_bytes(records, EXAMPLES_KEY))
    return walk.count(records, SECOND)


class _Ranges(NamedTuple):
    """Where messages stand; one that is not known begins behind its end."""

    starts: np.ndarray
    stops: np.ndarray

    @property
    def known(self) -> np.ndarray:
        return self.starts <= self.stops

    def where(self, good: np.ndarray) -> _Ranges:
        """Returns them with all others unknown."""
        return _Ranges(np.where(good, self.starts, self.stops + 1), self.stops)


class _Entries(NamedTuple):
    """Entries of maps: the number of the map, its key and its value."""

    maps: np.ndarray
    keys: list[bytes]
    values: _Ranges

    def of(self, keys: Collection[bytes]) -> _Entries:
        """Returns those with certain keys."""
        places = [number for number, key in enumerate(self.keys) if key in keys]
        values = _Ranges(*(part[places] for part in self.values))
        return _Entries(self.maps[places], [self.keys[i] for i in places], values)


class _Walk:
    """Goes through messages in a buffer, uint8 `[bytes]`."""

    def __init__(self, data: np.ndarray):
        self._view = data.data
        # The eight bytes from each byte on.
        self._last = max(0, len(data) - SPARE)
        self._words = np.ndarray((self._last + 1,), "<u8", self._view, strides=(1,))

    def _field(self, places: np.ndarray) -> tuple[np.ndarray, _Ranges]:
        """Returns tags and contents of fields by where they begin.

        The tag is `_NONE` where there is none of one byte with a length below 2**28.
        """
        word = self._words[np.minimum(places, self._last)]
        rest = word >> _WORD(8)
        last = ~rest & _WORD(0x80808080)
        last &= ~last + _WORD(1)  # the lowest bit: the length ends there
        rest &= last - _WORD(1)
        size = rest & _WORD(0x7F)
        size |= rest >> _WORD(1) & _WORD(0x7F << 7)
        size |= rest >> _WORD(2) & _WORD(0x7F << 14)
        size |= rest >> _WORD(3) & _WORD(0x7F << 21)
        begin = places + 2
        begin += last > _WORD(1 << 7)
        begin += last > _WORD(1 << 15)
        begin += last > _WORD(1 << 23)
        tag = (word & _WORD(0xFF)).astype(np.uint8)
        tag[last == 0] = _NONE
        return tag, _Ranges(begin, begin + size.astype(np.int64))

    def count(self, messages: _Ranges, other: int = FIRST) -> np.ndarray:
        """Counts the fields 1 of messages that have no others but `other`."""
        result = np.where(messages.known, 0, UNKNOWN)
        active = np.flatnonzero(messages.starts < messages.stops)
        place, stop = messages.starts[active], messages.stops[active]
        found = np.zeros(len(active), np.int64)
        while len(active) >= _FEW:
            tag, content = self._field(place)
            place = content.stops
            first = tag == FIRST
            found += first
            bad = (place > stop) | ~(first | (tag == other))
            ended = bad | (place == stop)
            if ended.any():
                found[bad] = UNKNOWN
                result[active[ended]] = found[ended]
                left = ~ended
                active, found = active[left], found[left]
                place, stop = place[left], stop[left]
        for number, begin, end, before in zip(
            active.tolist(), place.tolist(), stop.tolist(), found.tolist(), strict=True
        ):
            result[number] = self._count_one(begin, end, other, before)
        return result

    def _count_one(self, place: int, stop: int, other: int, found: int) -> int:
        data: bytes = self._view  # type: ignore[assignment]
        try:
            while place < stop:
                tag = data[place]
                size, begin = read_length(data, place + 1)
                if tag not in (FIRST, other):
                    return UNKNOWN
                found += tag == FIRST
                place = begin + size
        except (WireError, IndexError):
            return UNKNOWN
        return found if place == stop else UNKNOWN

    def only(self, messages: _Ranges) -> _Ranges:
        """Returns the contents of the field 1 that is all there is of messages."""
        tag, content = self._field(messages.starts)
        some = messages.starts < messages.stops
        return content.where(some & (tag == FIRST) & (content.stops == messages.stops))

    def second(self, messages: _Ranges) -> _Ranges:
        """Returns the contents of the field 2 of messages, after a field 1 or none."""
        tag, content = self._field(messages.starts)
        skipped = (tag == FIRST) & (content.stops < messages.stops)
        place = np.where(skipped, content.stops, messages.starts)
        tag, content = self._field(place)
        some = messages.starts < messages.stops
        return content.where(some & (tag == SECOND) & (content.stops == messages.stops))

    def _entries(self, maps: _Ranges) -> tuple[_Entries, np.ndarray]:
        """Returns the entries of maps, and which maps are known to their ends."""
        known = maps.known.copy()
        active = np.flatnonzero(maps.starts < maps.stops)
        place, stop = maps.starts[active], maps.stops[active]
        numbers, keys, starts, stops = [], [], [], []
        while len(active):
            tag, entry = self._field(place)
            key_tag, key = self._field(entry.starts)
            value_tag, value = self._field(key.stops)
            good = (tag == FIRST) & (key_tag == FIRST) & (value_tag == SECOND)
            # Or the tags were those of what comes behind it.
            good &= (key.stops < entry.stops) & (value.stops == entry.stops)
            good &= entry.stops <= stop
            known[active[~good]] = False
            numbers.append(active[good])
            keys += [
                bytes(self._view[a:b])
                for a, b in zip(
                    key.starts[good].tolist(), key.stops[good].tolist(), strict=True
                )
            ]
            starts.append(value.starts[good])
            stops.append(value.stops[good])
            left = good & (entry.stops < stop)
            active, place, stop = active[left], entry.stops[left], stop[left]
        none = [np.zeros(0, np.int64)]
        values = _Ranges(np.concatenate(starts + none), np.concatenate(stops + none))
        return _Entries(np.concatenate(numbers + none), keys, values), known

    def list_of_bytes(self, records: _Ranges, name: bytes) -> _Ranges:
        """Returns the `BytesList` that a feature of `tf.train.Example`s is."""
        entries, known = self._entries(self.only(records))
        entries = entries.of((name,))
        known &= np.bincount(entries.maps, minlength=len(known)) == 1
        found = self.only(entries.values)
        starts, stops = np.ones_like(records.starts), np.zeros_like(records.stops)
        starts[entries.maps], stops[entries.maps] = found
        return _Ranges(starts, stops).where(known & (starts <= stops))

    def longest(self, records: _Ranges, names: Collection[bytes]) -> np.ndarray:
        """Counts the entries of the longest `FeatureList`s of certain names."""
        entries, known = self._entries(records)
        entries = entries.of(names)
        if len({*zip(entries.maps.tolist(), entries.keys, strict=True)}) < len(
            entries.keys
        ):
            return np.full(len(known), UNKNOWN)  # of two the last one counts
        counts = self._alike(entries.values)
        rest = counts == UNKNOWN
        counts[rest] = self.count(_Ranges(*(part[rest] for part in entries.values)))
        known[entries.maps[counts == UNKNOWN]] = False
        result = np.zeros(len(known), np.int64)
        np.maximum.at(result, entries.maps, counts)
        return np.where(known & bool(names), result, UNKNOWN)

    def _alike(self, messages: _Ranges) -> np.ndarray:
        """Counts the fields 1 of messages if all are as long as their first one.

        So are those of numbers that have no entry without values.
        """
        tag, first = self._field(messages.starts)
        sizes, steps = messages.stops - messages.starts, first.stops - messages.starts
        good = (tag == FIRST) & (sizes > 0) & (sizes % steps == 0)
        result = np.full(len(sizes), UNKNOWN)
        chosen = np.flatnonzero(good)
        # Those of one record mostly have the same numbers, all below 2**29.
        kinds = sizes // steps << 32 | steps << 3 | first.starts - messages.starts
        kinds, group = np.unique(kinds[chosen], return_inverse=True)
        order = np.argsort(group, kind="stable")
        members = np.split(chosen[order], np.cumsum(np.bincount(group))[:-1])
        for kind, mine in zip(kinds.tolist(), members, strict=False):
            count, step, header = kind >> 32, kind >> 3 & (1 << 29) - 1, kind & 7
            # Of one length means of equal bytes up to the content: tag and length.
            mask = _WORD((1 << 8 * header) - 1)
            places = messages.starts[mine, np.newaxis] + np.arange(count) * step
            heads = self._words[places] & mask
            same = (heads == heads[:, :1]).all(axis=1)
            result[mine[same]] = count
        return result
