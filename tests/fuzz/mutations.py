"""Ways to spoil bytes, and readers of the tests' own to check the rest against."""

from __future__ import annotations

import json
import math
import os
import pathlib
import random
import re
import shutil
from typing import Any

import numpy as np

# What has broken parsers before, here or elsewhere.
TOKENS = (
    *(
        b"",
        b" ",
        b"\t",
        b"\r",
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
    ),
    *(b"nan", b"-nan", b"inf", b"-inf", b"NULL", b"None", b"true", b"1e39", b"1e-46"),
    *(b"-1", b"0", b"-0", b"99999999999999999999", b"0x10", b"1_000", b"1,5", b"1e"),
    *(b"qid:", b"qid:1", b"1:", b":", b"::", b"0:1", b"-1:1", b"2000000:1", b"1:1 1:1"),
    *(b"#", b"#docid =", b"# docid = a\tb", b'"', b'""', b"'", b",", b";", b"\\"),
    *(b"{", b"}", b"[", b"]", b"[[[[", b"null", b"1.5", b'"x"', b"{}"),
    "\u00e9\u6587\U0001f600".encode(),
    b"\x0a\x00",
    b"\x80" * 9,
    b"a" * 3000,
)


def mutate(random: random.Random, content: bytes, times: int | None = None) -> bytes:
    """Returns bytes with some of them changed, lost, doubled or exchanged."""
    content = bytes(content)
    for _ in range(random.randint(1, 4) if times is None else times):
        if not content:
            return random.choice(TOKENS)
        at = random.randrange(len(content))
        to = min(len(content), at + random.choice((1, 2, 8, 50, len(content))))
        kind = random.randrange(8)
        if kind == 0:  # cut off
            content = content[:at]
        elif kind == 1:  # lost
            content = content[:at] + content[to:]
        elif kind == 2:  # doubled
            content = content[:to] + content[at:]
        elif kind == 3:  # one bit
            flipped = content[at] ^ 1 << random.randrange(8)
            content = content[:at] + bytes([flipped]) + content[at + 1 :]
        elif kind == 4:  # noise
            content = content[:at] + random.randbytes(min(8, to - at)) + content[to:]
        elif kind == 5:  # two parts exchanged
            middle = random.randrange(len(content))
            content = content[middle:] + content[:middle]
        else:
            pieces = [m.span() for m in re.finditer(rb"[^\s,:\"{}\[\]]+", content)]
            first, last = random.choice(pieces or [(at, to)])
            content = content[:first] + random.choice(TOKENS) + content[last:]
    return content


def spoil_file(random: random.Random, path: pathlib.Path) -> None:
    """Damages a file as disks, copies and people do: bytes, length, kind, absence."""
    kind = random.randrange(10)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(b"")
    elif kind == 2:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(mutate(random, path.read_bytes()))


def spoil_json(random: random.Random, value: Any) -> Any:
    """Returns a JSON value with one part of it replaced by another kind of value."""
    others = (None, 0, -1, 2**70, 1.5, "", "x", [], {}, [1], {"a": 1}, True, [[]])
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(sorted(value))
        changed = dict(value)
        if random.random() < 0.15:
            del changed[key]
        else:
            changed[key] = spoil_json(random, value[key])
        return changed
    if isinstance(value, list) and value and random.random() < 0.7:
        place = random.randrange(len(value))
        return [*value[:place], spoil_json(random, value[place]), *value[place + 1 :]]
    return random.choice(others)


def spoil_link(random: random.Random, path: pathlib.Path) -> None:
    """Loses a link, or makes it lead elsewhere."""
    path.unlink()
    if random.random() < 0.6:
        path.symlink_to(random.choice(("nothing", "..", path.name, "/dev/null")))


def spoil(random: random.Random, path: pathlib.Path) -> None:
    """Damages a file as it may be damaged, be it a link, JSON, a graph or other."""
    if path.is_symlink() and (path.is_dir() or random.random() < 0.5):
        spoil_link(random, path)
    elif path.suffix == ".json" and random.random() < 0.7:
        path.write_text(json.dumps(spoil_json(random, json.loads(path.read_text()))))
    elif path.suffix == ".pb":  # other bytes in a graph may end the process
        path.write_bytes(path.read_bytes()[: random.randrange(path.stat().st_size)])
    else:
        spoil_file(random, path)


def tree(folder: pathlib.Path) -> dict[str, bytes | str | None]:
    """Returns the files below a folder: content, place of a link, None for folders."""
    return {
        str(path.relative_to(folder)): (
            os.readlink(path)
            if path.is_symlink()
            else None
            if path.is_dir()
            else path.read_bytes()
        )
        for path in sorted(folder.rglob("*"))
    }


def remove(path: pathlib.Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_libsvm(
    content: bytes, nan: str = "error"
) -> list[tuple[float, str, dict[int, float]]]:
    """Reads LibSVM text as plainly as can be: label, query and features of each row."""
    rows = []
    for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        words = line.partition(b"#")[0].split()
        if not words:
            continue
        if words[0].startswith(b"qid:"):
            words.insert(0, b"nan")  # not needed to rank by
        label, query, *features = words
        assert query.startswith(b"qid:")
        values: dict[int, float] = {}
        for word in features:
            index, _, number = word.partition(b":")
            missing = number.lower() == b"null"
            value = math.nan if missing else float(np.float32(float(number)))
            assert int(index) not in values
            values[int(index)] = value
            if not math.isfinite(value):
                assert nan != "error"
                values[int(index)] = 0.0 if nan == "zero" else value
        rows.append((float(label), query[4:].decode(), values))
    return rows


def read_elwc(records: list[bytes]) -> list[tuple[float, str, list[float]]]:
    """Reads converted records with protobuf alone: the rows of `read_libsvm`, dense."""
    from tensorflow_serving.apis import input_pb2

    rows = []
    for record in records:
        message = input_pb2.ExampleListWithContext.FromString(record)
        query = message.context.features.feature["qid"].bytes_list.value[0].decode()
        for document in message.examples:
            found = document.features.feature
            values = list(found["features"].float_list.value)
            rows.append((found["label"].float_list.value[0], query, values))
    return rows
