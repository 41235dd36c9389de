"""Checkpoints that are no plain files are refused in one line, without waiting for what never comes."""

import os

import pytest

from srpo.convert.torch_file import read_tensors
from srpo.errors import UserError


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes of this kind")
def test_pipes_and_devices_are_no_checkpoints(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", "/dev/zero"):
        with pytest.raises(UserError) as found:
            read_tensors(path)
        assert "\n" not in str(found.value) and str(path) in str(found.value)
