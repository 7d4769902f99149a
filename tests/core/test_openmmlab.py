"""OpenMMLab's libraries do not bring transformers and timm along; everybody else can import them."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import vss
import mmengine.optim, mmseg.models
assert not {"timm", "transformers"} & set(sys.modules)
import importlib.util
assert importlib.util.find_spec("timm") and importlib.util.find_spec("transformers")
"""


def test_openmmlab_imports_neither_and_others_can():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
