"""Where this package imports OpenMMLab's libraries they bring neither transformers nor timm; elsewhere they may."""

from __future__ import annotations

import subprocess
import sys

import pytest

OURS = """
import importlib.util, sys
import vss.models.build
assert not {"timm", "transformers"} & set(sys.modules)
assert importlib.util.find_spec("timm") and importlib.util.find_spec("transformers")
"""
# Two small libraries stand for the large ones, which take seconds.
OF_THE_USER = """
import sys
sys.path.insert(0, ".")
import vss
import mmengine.optim, mmseg.models
assert {"timm", "transformers"} <= set(sys.modules)
"""


@pytest.mark.parametrize("code", [OURS, OF_THE_USER])
def test_only_our_imports_of_openmmlab_go_without_large_libraries(code, tmp_path) -> None:
    if code is OF_THE_USER:
        (tmp_path / "timm.py").write_text("")
        (tmp_path / "transformers.py").write_text("Adafactor = object\n")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
