"""An output file of a command: complete or absent."""

import errno
from pathlib import Path

import pytest

from openkcm.cli.files import new_file
from openkcm.errors import FileRefused


def write_and_fail(path: Path, failure: BaseException) -> None:
    with new_file(path) as file:
        file.write(b"%PDF")
        raise failure


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FileRefused),
        (LookupError("no report"), LookupError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=repr,
)
def test_a_failed_write_leaves_no_partial_file(
    tmp_path: Path, failure: BaseException, raised: type[BaseException]
) -> None:
    with pytest.raises(raised):
        write_and_fail(tmp_path / "report.pdf", failure)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match="cannot be created"):
        write_and_fail(tmp_path / "nowhere" / "report.pdf", LookupError())
    assert list(tmp_path.iterdir()) == []
