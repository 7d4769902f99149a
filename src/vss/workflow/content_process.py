"""Lists a real dataset's files in a process of its own, while the workflow that needs their digest is planned.

VSPW's 475,000 files take 3 s of a core, most of it the system's; threads would only take turns with Snakemake.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys

from vss.core.dataset_content import contents
from vss.core.dataset_layout import DatasetLayout


class ContentProcess:
    """A process that takes `contents` of a dataset.

    Args:
        layout: where the files are.
        root: the dataset's folder.
    """

    def __init__(self, layout: DatasetLayout, root: str | os.PathLike) -> None:
        self._layout, self._root = layout, root
        command = [sys.executable, "-m", __name__, json.dumps(layout.to_json()), os.fspath(root)]
        # Its messages are not shown: where it fails, `result` lists the files in this process.
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        atexit.register(self._process.kill)

    def result(self) -> tuple[dict[str, str], dict[str, str]]:
        """Returns `contents` once the process has ended."""
        found, _ = self._process.communicate()
        atexit.unregister(self._process.kill)
        if self._process.returncode:
            return contents(self._layout, self._root)
        whole, images = json.loads(found)
        return whole, images


def main(layout: str, root: str) -> None:
    """Prints the `contents` of a layout; both are JSON."""
    print(json.dumps(contents(DatasetLayout.from_json(json.loads(layout), where="layout"), root)))


if __name__ == "__main__":
    main(*sys.argv[1:])
