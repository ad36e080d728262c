import contextlib
import logging

import pytest
from ultralytics.utils import LOGGER

from spikeyolo.files import sha256, whole_file, whole_folder


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "best.onnx"
    with contextlib.suppress(KeyError), whole_file(target, "") as part:
        part.write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir())
    with whole_file(target, "") as part:
        part.write_text("whole")
        assert not target.exists()
    assert [f.name for f in tmp_path.iterdir()] == ["best.onnx"]
    assert target.read_text() == "whole"


def test_log_messages_name_the_target(tmp_path):
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())

    handler = Keep()
    LOGGER.addHandler(handler)
    try:
        with whole_file(tmp_path / "best.onnx", "") as part:
            LOGGER.info(f"saving {part}")
            part.touch()
    finally:
        LOGGER.removeHandler(handler)
    assert records == [f"saving {tmp_path / 'best.onnx'}"]


def test_an_unwritable_target_is_named(tmp_path):
    (tmp_path / "best.onnx").mkdir()
    with (
        pytest.raises(IsADirectoryError, match=r"cannot write .*best.onnx: it is a folder; rename it"),
        whole_file(tmp_path / "best.onnx", "rename it"),
    ):
        pass
    with (
        pytest.raises(FileNotFoundError, match=r"cannot write .*best.onnx: No such file or directory; choose another"),
        whole_file(tmp_path / "gone" / "best.onnx", "choose another"),
    ):
        pass


def test_a_folder_stays_only_if_it_is_renamed(tmp_path):
    with whole_folder(tmp_path / "report") as part:
        (part / "a").touch()
    assert not list(tmp_path.iterdir())
    with whole_folder(tmp_path / "report") as part:
        (part / "a").touch()
        part.rename(tmp_path / "report")
    assert [f.name for f in (tmp_path / "report").iterdir()] == ["a"]


def test_hash_of_a_file(tmp_path):
    assert sha256(tmp_path / "gone") == ""
    (tmp_path / "empty").touch()
    assert sha256(tmp_path / "empty").startswith("e3b0c44298fc1c14")
