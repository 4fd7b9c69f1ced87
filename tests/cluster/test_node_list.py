"""Node lists as Slurm writes them; test_slurm.py asks Slurm itself."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfr_pipeline.cluster.node_list import expand
from tfr_pipeline.errors import ConfigError

LITERAL = st.text("abcn-.", min_size=1, max_size=4)


@st.composite
def ranges(draw):
    """Text such as `3-5,07`, and the numbers that it stands for."""
    texts, numbers = [], []
    for _ in range(draw(st.integers(1, 3))):
        first, more = draw(st.integers(0, 120)), draw(st.integers(0, 12))
        width = draw(st.integers(1, 4))
        found = [str(n).rjust(width, "0") for n in range(first, first + more + 1)]
        texts.append(f"{found[0]}-{found[-1]}" if more else found[0])
        numbers += found
    return f"[{','.join(texts)}]", numbers


@st.composite
def names(draw):
    """One name with up to two brackets, and the names that it stands for."""
    text, pieces = "", []
    for _ in range(draw(st.integers(0, 2))):
        literal, (bracket, numbers) = draw(LITERAL), draw(ranges())
        text += literal + bracket
        pieces += [[literal], numbers]
    if not text or draw(st.booleans()):
        literal = draw(LITERAL)
        text, pieces = text + literal, [*pieces, [literal]]
    return text, ["".join(parts) for parts in itertools.product(*pieces)]


@given(st.lists(names(), min_size=1, max_size=3))
def test_a_node_list_stands_for_the_names_that_it_was_made_of(parts):
    expected = [name for _, found in parts for name in found]
    assert expand(",".join(text for text, _ in parts)) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("n[1-3,07]", "n1 n2 n3 n07"),
        ("rack[1-2]node[09-10]", "rack1node09 rack1node10 rack2node09 rack2node10"),
        ("a,b[2-4]", "a b2 b3 b4"),
        ("n[8-11],n[08-11]", "n8 n9 n10 n11 n08 n09 n10 n11"),
        ("n[007]", "n007"),
    ],
)
def test_widths_several_brackets_and_single_names_are_written_out(text, found):
    assert expand(text) == found.split()


NO_LISTS = "n[1 n1] n[] a,,b n[3-1] n[1-2-3] n[1,] n[-3] n[a-b] n[[1]] ,"


@pytest.mark.parametrize("text", ["", "a b", *NO_LISTS.split()])
def test_what_is_no_node_list_is_named(text):
    with pytest.raises(ConfigError, match="expected names with ranges") as error:
        expand(text)
    assert f"node list {text!r}" in str(error.value)


@pytest.mark.parametrize("text", ["n[1-99999999]", "a[1-999]b[1-999]"])
def test_a_list_of_more_nodes_than_slurm_has_is_refused(text):
    with pytest.raises(ConfigError, match="more than 65536 names"):
        expand(text)
