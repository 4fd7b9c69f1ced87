"""What counts as one place."""

from __future__ import annotations

from tfr_pipeline.outputs import same_file


def test_a_terminal_may_be_input_and_output_but_a_file_not(tmp_path):
    assert not same_file("/dev/null", "/dev/null")
    (tmp_path / "a").write_text("")
    assert same_file(f"{tmp_path}/a", f"{tmp_path}/./a")
    assert not same_file(f"{tmp_path}/a", f"{tmp_path}/b")
