"""Files of tensors: read without running anything that they bring along, written whole and marked as ours."""

from __future__ import annotations

import os
import pickle
import re
import struct
import textwrap
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vss.core.errors import UserError
from vss.core.files import atomic_path, read_json

_ALLOWED_FILES = "allowed: safetensors, or a dictionary of tensors as torch.save writes it by default"
# Where checkpoints keep their tensors: the first of these keys, else the top level itself.
_TOP_LEVEL_KEYS = ("state_dict", "model", "module", "model_ema")
# How a zip archive starts, which is how torch itself knows one; zipfile.is_zipfile raises over a damaged end.
_ZIP = b"PK\x03\x04"
# Sharded safetensors, as Hugging Face's libraries write them.
_INDEX_SUFFIX = ".safetensors.index.json"
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")
# Marks safetensors that `save_tensors` wrote, in their header. It is the only entry: several come in random order, and
# equal weights would be files of different digests.
_MARK, _VERSION = "vss_weights", "1"


class _Inert:
    """Stands for an object beside the weights that nobody reads; takes any arguments and state, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _plain_dict(*args: Any) -> dict[Any, Any]:
    """Stands for a `defaultdict`, whatever would make missing items: torch fills plain dictionaries only."""
    return {}


def _plain_list(*args: Any) -> list[Any]:
    """Stands for a `deque`: torch appends its items to a list only."""
    return []


# What trainers leave in their checkpoints. Each name is answered by something harmless, so the real class is neither
# needed nor run: MMEngine's log history, numpy scalars and arrays (best score, palette), configs of Swin, ConvNeXt and
# InternImage classifiers, MMCV and MMEngine.
_ALLOWED: list[Callable | tuple[Callable, str]] = [
    (_Inert, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_Inert, "builtins.getattr"),  # the history's methods, by name
    (_Inert, "argparse.Namespace"),
    *((_Inert, f"pathlib{local}.{system}Path") for local in ("", "._local") for system in ("Posix", "Windows")),
    *((_Inert, f"datetime.{name}") for name in ("datetime", "date", "time", "timedelta", "timezone")),
    (_plain_dict, "collections.defaultdict"),
    *((_Inert, f"builtins.{name}") for name in ("int", "float", "str", "list", "dict", "tuple")),  # what it would make
    (_plain_list, "collections.deque"),
    (_Inert, "numpy.ndarray"),
    (_Inert, "numpy.dtype"),
    *((_Inert, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *((OrderedDict, name) for name in ("yacs.config.CfgNode", "addict.addict.Dict", "easydict.EasyDict")),
    *((OrderedDict, name) for name in ("mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict")),
]


@dataclass(frozen=True)
class TensorFile:
    """What is used of a file of weights.

    Attributes:
        tensors: by their names in the file; optimizer, log history and so on are left out.
        classes: class names that the file itself gives (MMCV: meta.CLASSES, MMEngine: meta.dataset_meta), or None.
        is_ours: whether `save_tensors` wrote it. Files that this project wrote before it marked them are not known
            to be; their names are those of our models all the same.
    """

    tensors: dict[str, Tensor]
    classes: list[str] | None = None
    is_ours: bool = False


def read_tensor_file(path: str | os.PathLike) -> TensorFile:
    """Reads safetensors or anything that torch.load reads with weights_only=True, to the CPU, by content not by name.

    Sharded safetensors are named by their index (`model.safetensors.index.json`); the parts lie next to it.

    Raises:
        UserError: no such file, not readable, no tensors in it, one that holds no plain numbers, or a pickle that names
            code outside a short list.
    """
    found = _read(path)
    for name, tensor in found.tensors.items():
        if kind := _why_not_plain(tensor):
            raise UserError(f"{path}: tensor {name!r} is {kind}; weights must be dense, real and have their numbers")
    return found


def _why_not_plain(tensor: Tensor) -> str | None:
    kinds = {
        "sparse": tensor.layout is not torch.strided,
        "quantized": tensor.is_quantized,
        "complex": tensor.is_complex(),
        "without numbers (saved on the device meta)": tensor.is_meta,
    }
    return next((kind for kind, holds in kinds.items() if holds), None)


def _read(path: str | os.PathLike) -> TensorFile:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such weights file")
    if str(path).endswith(_INDEX_SUFFIX):
        return TensorFile(_read_parts(Path(path)))
    if _is_safetensors(path):
        if part := _PART.search(Path(path).name):
            index = Path(path).with_name(Path(path).name[: part.start()] + _INDEX_SUFFIX)
            raise UserError(f"{path}: part {int(part[1])} of {int(part[2])} of the weights; name {index} instead")
        return _read_safetensors(path)
    content = _unpickle(path)
    tensors = _tensors_of(content)
    if not tensors:
        raise UserError(f"{path}: no tensors found at the top level or under {', '.join(_TOP_LEVEL_KEYS)}")
    return TensorFile(tensors, _classes_of(content))


def save_tensors(tensors: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Writes tensors under the names of our models, such as a state dict, as safetensors, whole or not at all."""
    with atomic_path(path) as aside:
        alone = {name: _alone(tensor) for name, tensor in tensors.items()}
        save_file(alone, aside, metadata={_MARK: _VERSION})


def _alone(tensor: Tensor) -> Tensor:
    """Returns a tensor that owns its memory; safetensors refuses views into one storage."""
    plain = tensor.detach().cpu().contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()


def open_safetensors(path: str | os.PathLike) -> safe_open:
    """Opens a safetensors file, of which tensors are then read one by one; anything else is a `UserError`."""
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None


def _read_safetensors(path: str | os.PathLike) -> TensorFile:
    with open_safetensors(path) as file:
        version = (file.metadata() or {}).get(_MARK)
        if version not in (None, _VERSION):
            raise UserError(f"{path}: weights of version {version}, known is {_VERSION}; install a newer vss")
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    return TensorFile(tensors, is_ours=version is not None)


def _read_parts(index: Path) -> dict[str, Tensor]:
    """Reads sharded safetensors: every part that the index names, from the folder of the index and no other.

    Raises:
        UserError: the index or a part cannot be read, or a part lacks a tensor that the index announces.
    """
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(places, Mapping) or not places:
        raise UserError(f"{index}: no index of sharded safetensors; key 'weight_map' is missing or empty")
    tensors: dict[str, Tensor] = {}
    for name in sorted({str(place) for place in places.values()}):
        if name != Path(name).name or not (index.parent / name).is_file():
            raise UserError(f"{index}: names the part {name!r}, which is no file next to it")
        tensors.update(_read_safetensors(index.parent / name).tensors)
    if absent := next((name for name in places if name not in tensors), None):
        raise UserError(f"{index}: tensor {absent!r} is not in the part that should hold it")
    return tensors


def _is_safetensors(path: str | os.PathLike) -> bool:
    """Returns whether a file is safetensors: eight bytes with the header's length, then the header, which is JSON."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _unpickle(path: str | os.PathLike) -> Any:
    try:
        with open(path, "rb") as file, torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickle protocols and storages of old files
            # Memory mapping needs a path, and a path that ends in .safetensors torch would read as such.
            mapped = file.read(len(_ZIP)) == _ZIP and Path(path).suffix != ".safetensors"
            file.seek(0)
            return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        struct.error,
    ) as error:
        raise UserError(f"{path}: {_reason(path, error)}") from None


def _reason(path: str | os.PathLike, error: Exception) -> str:
    """Returns one line that says why torch refused a file; torch's own advice is to run what is in it."""
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return f"refused, reading it would run {named[1]}; a file of weights may hold tensors only"
    return f"not a readable file of weights, but {_form(path, error)}; {_ALLOWED_FILES}"


def _form(path: str | os.PathLike, error: Exception) -> str:
    """Returns what a file is that torch cannot read as weights."""
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "the pointer that Git LFS leaves in place of a file (`git lfs pull` fetches it)"
    if "TorchScript" in str(error):
        return "a TorchScript archive, which holds code"
    for first, form in ((b"PK", "zip archive"), (b"\x80", "pickle")):
        if start.startswith(first):
            found = textwrap.shorten(str(error), 120, placeholder=" ...")
            said = f" ({found})" if isinstance(error, RuntimeError) else ""
            return f"a {form} that is damaged, or holds other things than tensors{said}"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return "a text file"
    return "something unknown"


def _tensors_of(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in _TOP_LEVEL_KEYS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}


def _classes_of(content: Mapping[str, Any]) -> list[str] | None:
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return None
    dataset = meta.get("dataset_meta")
    classes = dataset.get("classes") if isinstance(dataset, Mapping) else meta.get("CLASSES")
    if isinstance(classes, (list, tuple)) and classes and all(isinstance(name, str) for name in classes):
        return list(classes)
    return None
