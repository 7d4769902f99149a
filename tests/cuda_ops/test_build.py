"""Building, finding and refusing kernels; choosing a path; the self-check."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import vss_ops
from vss_ops import build, library, paths, selfcheck
from vss_ops.geometry import Window


@pytest.fixture
def no_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty build folder, and nothing remembered about kernels."""
    monkeypatch.setenv("VSS_OPS_BUILD_DIR", str(tmp_path))
    monkeypatch.setattr(paths, "_logged", set())
    library.load.cache_clear()
    yield tmp_path
    library.load.cache_clear()


def test_without_kernels_pure_pytorch_runs_and_says_so_once(no_kernels: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="vss_ops"), vss_ops.backend("auto"):
        assert vss_ops.self_check("cpu") == "reference"
        assert vss_ops.self_check("cpu") == "reference"
    assert len(caplog.records) == 1
    assert "python -m vss_ops.build" in caplog.text
    status = vss_ops.status()
    assert status["cpu"]["path"] == "reference"
    assert status["cpu"]["reason"] == "it has not been built"


def test_insisting_on_kernels_that_are_not_there_is_an_error(no_kernels: Path):
    with vss_ops.backend("cpp"), pytest.raises(RuntimeError, match="it has not been built; build it with"):
        vss_ops.self_check("cpu")


def test_a_build_of_other_sources_is_not_loaded(no_kernels: Path):
    (no_kernels / "cpu-0123456789abcdef.so").write_bytes(b"not even a library")
    assert library.find("cpu") == (
        None,
        "the build is of other sources, machine or CUDA version (stale)",
    )
    assert "stale" in library.load("cpu")


def test_a_broken_build_is_told_not_loaded(no_kernels: Path):
    (no_kernels / f"cpu-{library.key('cpu')}.so").write_bytes(b"not a library")
    assert "cannot be loaded" in library.load("cpu")


def test_the_key_follows_sources_and_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = shutil.copytree(library.PACKAGE, tmp_path / "vss_ops", ignore=shutil.ignore_patterns("_kernels"))
    before = library.key("cpu")
    monkeypatch.setattr(library, "PACKAGE", package)
    monkeypatch.setattr(library, "SOURCES", package / "csrc")
    assert library.key("cpu") == before
    for name in ("csrc/problem.h", "csrc/cpu/kernels.cpp", "recipe.py"):
        path = package / name
        text = path.read_text()
        path.write_text(text + "\n")
        assert library.key("cpu") != before
        path.write_text(text)


def test_the_installed_package_holds_the_sources():
    listed = (library.PACKAGE.parent / "pyproject.toml").read_text()
    patterns = re.search(r"vss_ops = \[(.*?)\]", listed)[1].replace('"', "").split(", ")
    found = {p for pattern in patterns for p in library.PACKAGE.glob(pattern) if p.is_file()}
    assert found == {p for p in library.SOURCES.rglob("*") if p.is_file()}


def test_no_compiler_is_one_line_and_no_failure(no_kernels: Path, monkeypatch, capsys: pytest.CaptureFixture):
    monkeypatch.setenv("PATH", str(no_kernels))
    monkeypatch.delenv("CXX", raising=False)
    assert build.main(["--parts", "cpu"]) == 0
    assert build.main(["--parts", "cpu", "--require", "cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "no C++ compiler" in lines[0]


@pytest.mark.parametrize(
    ("text", "archs", "flags"),
    [
        ("8.0;9.0+PTX", ["8.0", "9.0+PTX"], ["sm_80", "sm_90", "compute_90"]),
        ("9.0a, 12.0", ["9.0a", "12.0"], ["sm_90a", "sm_120"]),
        ("7.5 8.6", ["7.5", "8.6"], ["sm_75", "sm_86"]),
    ],
)
def test_architectures(monkeypatch: pytest.MonkeyPatch, text: str, archs: list[str], flags: list[str]):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", text)
    assert build.architectures() == archs
    assert [flag.partition("code=")[2] for flag in build.gencode(archs)[1::2]] == flags


def test_unknown_architecture_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;Hopper")
    with pytest.raises(build.BuildError, match="'Hopper'"):
        build.architectures()


def test_backend_names_are_checked():
    with pytest.raises(ValueError, match="choice is 'fast'"), vss_ops.backend("fast"):
        pass
    done = subprocess.run(
        [sys.executable, "-c", "import vss_ops"], env={**os.environ, "VSS_OPS": "gpu"}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "VSS_OPS is 'gpu', must be one of auto, reference, cpp, cuda" in done.stderr


def test_self_check_passes_and_tells_the_path(path: str, device: str):
    assert vss_ops.self_check(device) == path


@pytest.mark.parametrize("broken", ["dcnv3", "dcnv3_backward", "ms_deform_attn", "ms_deform_attn_backward"])
def test_self_check_stops_on_a_wrong_result(cpp_kernels: None, monkeypatch: pytest.MonkeyPatch, broken: str):
    right = getattr(selfcheck.ops.compiled, broken)

    def wrong(*arguments):
        result = right(*arguments)
        first = result[0] if isinstance(result, tuple) else result
        first.flatten()[-1] += 0.1
        return result

    monkeypatch.setattr(selfcheck.ops.compiled, broken, wrong)
    with vss_ops.backend("cpp"), pytest.raises(RuntimeError, match=r"(?s)is wrong: .*VSS_OPS=reference"):
        vss_ops.self_check("cpu")


def test_self_check_tells_a_missing_kernel_image(monkeypatch: pytest.MonkeyPatch):
    def missing(*arguments):
        raise RuntimeError("vss_ops: no kernel image is available for execution on the device; the kernels were not")

    monkeypatch.setattr(selfcheck.ops.reference, "dcnv3_backward", missing)
    with vss_ops.backend("reference"), pytest.raises(RuntimeError, match=r"TORCH_CUDA_ARCH_LIST=.* --force"):
        vss_ops.self_check("cpu")


def test_direct_calls_of_kernels_are_guarded(cpp_kernels: None):
    """What vss_ops.checks would have caught must not read foreign memory either."""
    arguments = [torch.zeros(1, 4, 4, 8), torch.zeros(1, 4, 4, 18), torch.zeros(1, 4, 4, 9)]
    forward, window = torch.ops.vss_ops.dcnv3_forward_out, Window((3, 3), (1, 1), (1, 1), (1, 1), 1, 8, 1.0, False)
    out = torch.zeros(1, 4, 4, 8)
    forward(*arguments, *window, False, out)
    with pytest.raises(RuntimeError, match="weights must be dense with 144 elements"):
        forward(*arguments[:2], torch.zeros(3), *window, False, out)
    for name, value in (("kernel_size", (0, 3)), ("stride", (1, 2**32 + 3)), ("padding", (-1, 1)), ("group", 0)):
        with pytest.raises(RuntimeError, match=f"{name} must be from [01] to 134217727"):
            forward(*arguments, *window._replace(**{name: value}), False, out)
    with pytest.raises(RuntimeError, match="too many points"):
        forward(*arguments, *window._replace(kernel_size=(2**14, 2**14)), False, out)
    with pytest.raises(RuntimeError, match="leaves no point"):
        forward(*arguments, *window._replace(kernel_size=(1, 1), remove_center=True), False, out)
    with pytest.raises(RuntimeError, match="one dtype"):
        forward(arguments[0].double(), *arguments[1:], *window, False, out.double())
    with pytest.raises(RuntimeError, match="nothing to sample"):
        forward(torch.zeros(1, 0, 4, 8), *arguments[1:], *window, False, out)
    value, weights = torch.zeros(1, 16, 1, 8), torch.full((1, 1, 1, 1, 1), float("nan"))
    for shape, start in (((2**32, 2**32), 16), ((4, 4), 2**63 - 1)):
        levels = torch.tensor([shape]), torch.tensor([start])
        locations = torch.zeros(1, 1, 1, 1, 1, 2)
        with pytest.raises(RuntimeError, match="level 0 of spatial_shapes"):
            torch.ops.vss_ops.ms_deform_attn_forward_out(
                value, *levels, locations, weights, False, torch.zeros(1, 1, 8)
            )
    levels = torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    with pytest.raises(RuntimeError, match="nothing to sample"):
        torch.ops.vss_ops.ms_deform_attn_forward_out(
            value, *levels, torch.zeros(1, 1, 1, 0, 1, 2), torch.zeros(1, 1, 1, 0, 1), False, torch.zeros(1, 1, 8)
        )


def test_cuda_home_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(library, "cuda_major", lambda: "13")
    for name, release in (("path", "13.0"), ("home", "13.1"), ("old", "12.4")):
        (tmp_path / name / "bin").mkdir(parents=True)
        nvcc = tmp_path / name / "bin" / "nvcc"
        nvcc.write_text(f"#!/bin/sh\necho release {release}, V{release}\n")
        nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/path/bin:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_HOME", f"{tmp_path}/home")
    assert build.cuda_compiler() == f"{tmp_path}/home/bin/nvcc"
    monkeypatch.setenv("CUDA_HOME", f"{tmp_path}/old")  # of another major version than torch
    assert build.cuda_compiler() == f"{tmp_path}/path/bin/nvcc"
    monkeypatch.setattr(library, "cuda_major", lambda: "11")
    with pytest.raises(build.BuildError, match=r"nvcc is 12\.4, .* majors differ"):
        build.cuda_compiler()


@pytest.mark.long
def test_cuda_sources_compile_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    try:
        build.cuda_compiler()
    except build.BuildError as error:
        pytest.skip(f"needs nvcc: {error}")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")  # each takes half a minute
    made = build.build("cuda", folder=tmp_path)
    assert made.name == f"cuda-{library.key('cuda')}.so"
    assert json.loads(made.with_suffix(".json").read_text())["archs"] == ["9.0"]
    content = made.read_bytes()
    assert _machine_code(content) == {90}
    assert content.count(b"libtorch_python") == 0  # the stable ABI: no Python, any torch from 2.10 on
    torch.ops.load_library(str(made))  # links and registers, GPU or not
    assert _runtime_calls(made) <= CAPTURED, "a CUDA graph could not capture a call that waits or allocates"


# What a library may call of the CUDA runtime inside the capture of a graph: launches, and questions to the host. What a
# kernel was compiled for is one (libraries such as CUB ask it before every first launch); the answer is kept.
CAPTURED = {
    "cudaLaunchKernel",
    "cudaGetLastError",
    "cudaGetErrorString",
    "cudaGetDevice",
    "cudaDeviceGetAttribute",
    "cudaFuncGetAttributes",
}


def _runtime_calls(library: Path) -> set[str]:
    listed = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    return set(re.findall(r" U (cuda\w+)", listed.stdout))


def _machine_code(library: bytes) -> set[int]:
    """Returns the architectures of the machine code in a library: headers of its fat binaries, one entry a code."""
    found = set()
    for match in re.finditer(re.escape(b"\x50\xed\x55\xba"), library):  # magic, version, size of header, of the rest
        _, _, header, size = struct.unpack_from("<IHHQ", library, match.start())
        entry, end = match.start() + header, match.start() + header + size
        while header == 16 and entry < end <= len(library):
            kind, _, head, payload = struct.unpack_from("<HHIQ", library, entry)
            if kind == 2:  # 1 is PTX
                found.add(struct.unpack_from("<I", library, entry + 28)[0])
            entry += head + payload
    return found


def test_a_user_without_a_home_builds_next_to_the_package(monkeypatch) -> None:
    from vss_ops import library

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(library.os.path, "expanduser", lambda path: path)  # what it returns where no home is known
    assert library._cache() == library._inside_package()
