"""RO-Crate 1.1 metadata of the report's folder: what its files are, and what run made them.

https://www.researchobject.org/ro-crate/specification/1.1/
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vss.core.files import JsonObject, sha256_of_file

METADATA = "ro-crate-metadata.json"
_SPECIFICATION = "https://w3id.org/ro/crate/1.1"
_MEDIA_TYPES = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".png": "image/png",
}
_LICENCE = {
    "@id": "#licence",
    "@type": "CreativeWork",
    "name": "Licence of the dataset",
    "description": "Pictures and label maps are of the dataset and keep its terms; no other licence is stated.",
}


def crate(
    *, title: str, description: str, made: JsonObject, files: Mapping[str, str], folder: str | os.PathLike
) -> dict[str, Any]:
    """Returns the metadata as JSON-LD.

    The date is that of `SOURCE_DATE_EPOCH` where it is set, else today's (UTC).

    Args:
        title: of the report.
        description: of the report, plain text.
        made: see `vss.report.made.what_was_run`.
        files: what each file of the folder holds, in one clause, by file name.
        folder: of the report; the files are there.
    """
    folder = Path(folder)
    parts = [_file(folder / name, holds) for name, holds in files.items()]
    dataset = made["dataset"]
    frames = ", ".join(f"{count} {split}" for split, count in dataset["frames"].items())
    software = {
        "@id": "#vss",
        "@type": "SoftwareApplication",
        "name": "vss",
        "version": made["version"] + (f" ({made['commit']})" if made["commit"] else ""),
        "softwareRequirements": [f"{name} {version}" for name, version in made["libraries"].items()],
    }
    data = {
        "@id": "#dataset",
        "@type": "CreativeWork",
        "name": dataset["name"],
        "description": f"{'Drawn' if dataset['drawn'] else 'Real'} video, frames: {frames}",
        "identifier": f"sha256:{dataset['index_sha256']}",
    }
    weights = [
        {
            "@id": f"#weights/{name}",
            "@type": "CreativeWork",
            "name": f"weights {name}",
            "identifier": f"sha256:{digest}",
        }
        for name, digest in made["weights"].items()
    ]
    run = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": title,
        "instrument": _id(software),
        "object": [_id(entity) for entity in (data, *weights)] if weights else _id(data),
        "result": [_id(part) for part in parts],
    }
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": title,
        "description": description,
        "datePublished": _today(),
        "license": _id(_LICENCE),
        "hasPart": [_id(part) for part in parts],
        "mentions": _id(run),
    }
    descriptor = {
        "@id": METADATA,
        "@type": "CreativeWork",
        "conformsTo": {"@id": _SPECIFICATION},
        "about": _id(root),
    }
    graph: Iterable[JsonObject] = (descriptor, root, *parts, run, software, data, *weights, _LICENCE)
    return {"@context": f"{_SPECIFICATION}/context", "@graph": [dict(entity) for entity in graph]}


def _file(path: Path, holds: str) -> dict[str, Any]:
    return {
        "@id": path.name,
        "@type": "File",
        "name": path.name,
        "description": holds,
        "encodingFormat": _MEDIA_TYPES[path.suffix],
        "contentSize": str(path.stat().st_size),
        "identifier": f"sha256:{sha256_of_file(path)}",
    }


def _id(entity: JsonObject) -> dict[str, str]:
    return {"@id": entity["@id"]}


def _today() -> str:
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.datetime.now(datetime.timezone.utc)
    if given.isdigit():
        now = datetime.datetime.fromtimestamp(int(given), datetime.timezone.utc)
    return now.date().isoformat()
