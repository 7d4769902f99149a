"""`vss export`: a model as a file that runs without this project, compared with the engine on frames."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vss.configs.resolved import read_model_config
from vss.core.errors import UserError
from vss.core.images import read_image
from vss.core.log import counted, log, one_line
from vss.export.graph import FrameToProbabilities, trace
from vss.infer.engine import Engine
from vss.infer.frame_size import Size
from vss.infer.load import InferencePlan, build_engine, load_segmentor, plan_inference
from vss.infer.model_files import ModelFiles, find_model
from vss.infer.views import resize_image, views_of
from vss.prepare.drawn.scenes import film

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}
OPSET = 18
_FRAME = (480, 853)  # most frames of VSPW
_COMPARED = 2  # frames, at least; those that were named are all compared
# Share of the pixels that may get another label. Rounding moves a pixel on a border; where a mask of Mask2Former tips
# over the threshold of its attention, more.
_MOST_OTHER_LABELS = 0.005

Run = Callable[[np.ndarray], np.ndarray]  # images [1, 3, H, W] float32 -> probabilities [1, C, H, W]


def export(
    *,
    model: str | os.PathLike,
    file_format: str,
    out: str | os.PathLike | None = None,
    size: Sequence[int] | None = None,
    frames: Sequence[str | os.PathLike] = (),
    results: str | os.PathLike = "results",
) -> None:
    """Writes a model as one file, runs the file on frames and logs its largest difference from the engine.

    The file takes `images` [1, 3, H, W] float32, RGB on 0..255, and gives `probabilities` [1, C, H, W] float32: one
    frame of one size per call; normalisation, padding and upsampling are inside. Its metadata (`vss.json` in a file of
    torch, `vss` in one of ONNX) holds the model's name, its classes by train id and the size.

    Args:
        model: see `vss.infer.model_files.find_model`.
        file_format: "torch" (torch.export, read by `torch.export.load`) or "onnx" (opset `OPSET`).
        out: the file, of the format's suffix; None = the model's name in the working directory.
        size: (height, width) of the frames; None = as the model's test settings fit the first of `frames`, or a frame
            of VSPW.
        frames: images to compare on; empty = two drawn ones.
        results: the results folder of a config.

    Raises:
        UserError: no such model, a size that its protocol does not run on, a model that cannot be exported, or one
            whose file predicts something else.
        ImportError: `onnx` without the extra `export`.
    """
    if file_format == "onnx":
        import onnxruntime  # noqa: F401  before the work, not after it
        import onnxscript  # noqa: F401
    suffix = SUFFIXES[file_format]
    if out is not None and Path(out).suffix != suffix:
        raise UserError(f"{os.fspath(out)}: a file of format {file_format} ends in {suffix}")
    files = find_model(model, results=results)
    config = read_model_config(files.config, where=files.name)
    views = {"img_ratios": [1.0], "flip": False}
    plan = plan_inference(config, {"tta": views, "protocol": config.protocol, "precision": "float32"}, "cpu")
    images = [read_image(path, upright=True) for path in frames]
    size = _size(plan, size, images[0].shape[:2] if images else _FRAME)

    # The engine runs the same view: a frame that has its size already, whole.
    tta = replace(plan.tta, scale=None, mode="whole", crop_size=None, stride=None)
    view = views_of(*size, tta, plan.protocol)[0]
    if view.size != size:
        raise UserError(f"size: found {_text(size)}; protocol {plan.protocol} runs it at {_text(view.size)}, name that")
    segmentor = load_segmentor(config, files.weights)
    engine = build_engine(replace(plan, tta=tta, compile=False), segmentor)
    graph = FrameToProbabilities(
        segmentor, mean=config.mean, std=config.std, padded=view.padded, protocol=plan.protocol
    ).eval()
    program = trace(graph, size, name=files.name)

    target = Path(out) if out is not None else Path(f"{files.name}{suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")  # torch warns of its own pytree
    # Written aside and moved when it is whole and right. ONNX keeps weights above 2 GB in a second file of its name.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".exporting-") as folder:
        aside = Path(folder, target.name)
        save, load = {"torch": (_save_torch, _load_torch), "onnx": (_save_onnx, _load_onnx)}[file_format]
        save(program, aside, _facts(files, plan, size))
        agreement = _compare(files.name, load(aside), engine, list(_fitted(images, size)))
        for path in sorted(aside.parent.iterdir(), reverse=True):
            os.replace(path, target.parent / path.name)
    what = "torch.export" if file_format == "torch" else f"ONNX opset {OPSET}"
    classes = len(files.config["classes"])
    log(
        f"export {files.name}: {target}: {what}; images [1, 3, {size[0]}, {size[1]}] float32 RGB 0..255 -> "
        f"probabilities [1, {classes}, {size[0]}, {size[1]}], every size is fixed; {agreement}"
    )


def _size(plan: InferencePlan, requested: Sequence[int] | None, frame: Size) -> Size:
    if requested is None:
        return views_of(*frame, plan.tta, plan.protocol)[0].size
    height, width = requested
    if min(height, width) < 1:
        raise UserError(f"size: found {height} {width}, expected a height and a width of at least 1")
    return height, width


def _facts(files: ModelFiles, plan: InferencePlan, size: Size) -> dict[str, Any]:
    return {
        "model": files.name,
        "row": plan.config.row,
        "protocol": plan.protocol,
        "classes": list(files.config["classes"]),
        "size": list(size),
    }


def _fitted(images: Sequence[np.ndarray], size: Size) -> Iterator[np.ndarray]:
    """Yields the frames to compare on [H, W, 3] uint8 at the size of the graph; drawn ones where none are given."""
    if images:
        yield from (image if image.shape[:2] == size else resize_image(image, (size,)) for image in images)
        return
    for scene in range(_COMPARED):
        drawn = film(np.random.default_rng(scene), scene=scene, height=size[0], width=size[1], frames=1)
        yield from (image for image, _ in drawn)


def _compare(name: str, run: Run, engine: Engine, images: Sequence[np.ndarray]) -> str:
    """Returns in words how far the file is from the engine.

    Raises:
        UserError: too far.
    """
    largest, other, pixels = 0.0, 0, 0
    for image in images:
        expected = engine.probabilities(image).numpy()
        found = run(np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32))[0]
        largest = max(largest, float(np.abs(found - expected).max()))
        other += int((found.argmax(0) != expected.argmax(0)).sum())
        pixels += expected[0].size
    text = (
        f"on {counted(len(images), 'frame')} its largest difference from the engine is {largest:.1e}, "
        f"labels differ at {other:,} of {pixels:,} pixels"
    )
    if not other <= _MOST_OTHER_LABELS * pixels or not np.isfinite(largest):
        raise UserError(f"{name}: the exported file predicts something else: {text}; it was not kept")
    return text


def _save_torch(program: torch.export.ExportedProgram, path: Path, facts: dict[str, Any]) -> None:
    torch.export.save(program, path, extra_files={"vss.json": json.dumps(facts)})


def _load_torch(path: Path) -> Run:
    graph = torch.export.load(path).module()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return graph(torch.from_numpy(images)).numpy()

    return run


def _save_onnx(program: torch.export.ExportedProgram, path: Path, facts: dict[str, Any]) -> None:
    try:
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["probabilities"],
            verbose=False,
        )
    except Exception as error:  # the converter raises many types
        raise UserError(
            f"{facts['model']}: cannot be written as ONNX opset {OPSET} ({one_line(str(error))[:300]})"
        ) from error
    assert converted is not None
    converted.model.metadata_props["vss"] = json.dumps(facts)
    converted.save(path)


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def _text(size: Size) -> str:
    return f"{size[0]} {size[1]}"
