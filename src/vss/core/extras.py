"""The optional parts of the package: which extra brings a library that is not installed."""

from __future__ import annotations

from collections.abc import Iterable

# Import names to the extras of pyproject.toml; tests/core/test_extras.py compares the two.
EXTRAS = {
    "av": "video",
    "matplotlib": "report",
    "mlflow": "mlflow",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "psutil": "workflow",
    "segment_anything": "refine",
    "segmentation_refinement": "refine",
    "shtab": "cli",
    "skimage": "refine",
    "snakemake": "workflow",
    "tensorboard": "train",
    "timm": "timm",
    "transformers": "transformers",
    "wandb": "wandb",
}


def how_to_install(error: ImportError) -> str | None:
    """Returns in one line how to install what `error` misses, or None where it is not an optional part."""
    library = (error.name or "").partition(".")[0]
    if library == "vss_ops":
        return "vss_ops is not installed: run `pip install ./cuda_ops` in a checkout of this project"
    if library not in EXTRAS:
        return None
    return f"{library} is not installed: run `pip install 'vss[{EXTRAS[library]}]'`"


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Returns the versions of those distributions that are installed, in their order."""
    import importlib.metadata  # not at the start of every command

    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
