"""The benchmark measures what the models call, and writes the form all benchmarks of this repository share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import vss_ops
from torch import Tensor
from vss_ops import reference
from vss_ops.geometry import Window

from benchmarks import ops as bench
from vss.models.attention import MultiScaleDeformableAttention
from vss.models.dcnv3 import DCNv3


def _calls_of_models(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[list[torch.dtype], bool]]:
    """Returns the dtypes of the float tensors and `softmax` of the calls the two layers make under autocast."""
    calls = {}

    def note(name: str, op):
        def noted(*tensors: Tensor, softmax: bool = False, **numbers):
            calls[name] = [t.dtype for t in tensors if t.is_floating_point()], softmax
            return op(*tensors, softmax=softmax, **numbers)

        return noted

    for name in ("dcnv3", "ms_deform_attn"):
        monkeypatch.setattr(vss_ops, name, note(name, getattr(vss_ops, name)))
    with torch.autocast("cpu", dtype=torch.bfloat16), vss_ops.backend("reference"):
        DCNv3(channels=8, group=2)(torch.zeros(1, 4, 4, 8))
        layer = MultiScaleDeformableAttention(8, 2, num_levels=1)
        arguments = dict(position=torch.zeros(4, 8), reference=torch.zeros(4, 2), sizes=torch.tensor([[2, 2]]))
        layer(torch.zeros(1, 4, 8), **arguments)
    return calls


def test_cases_are_calls_of_the_models(monkeypatch: pytest.MonkeyPatch):
    expected = _calls_of_models(monkeypatch)
    seen = {}
    for name in expected:
        monkeypatch.setattr(
            bench.ops, name, lambda *t, softmax=False, name=name, **_: seen.update({name: softmax}) or t[0]
        )
    for case in (
        bench._dcnv3_case("dcnv3", 4, 5, 64, 2),
        bench._attention_case("ms_deform_attn", [(2, 3), (4, 5)], 2, 8),
    ):
        tensors = case.tensors(torch.device("cpu"), torch.bfloat16)
        case.run(*tensors)
        assert ([t.dtype for t in tensors], seen[case.name]) == expected[case.name]


def test_the_public_op_gets_weights_of_one_dtype():
    case = bench._dcnv3_case("dcnv3", 4, 5, 64, 2)
    tensors = bench.in_the_public_form(case.tensors(torch.device("cpu"), torch.float16), case.window)
    assert [t.dtype for t in tensors] == [torch.float16] * 3
    torch.testing.assert_close(
        tensors[2].float().view(1, 4, 5, 2, 9).sum(-1), torch.ones(1, 4, 5, 2), rtol=0, atol=2e-3
    )


class _PublicOp:
    """The public op's two functions, computed by the reference."""

    @staticmethod
    def _window(numbers: tuple) -> Window:
        pairs = (tuple(numbers[i : i + 2]) for i in (0, 2, 4, 6))
        return Window(*pairs, *numbers[8:11], False)

    def dcnv3_forward(self, input: Tensor, offset: Tensor, mask: Tensor, *numbers) -> Tensor:
        assert numbers[11:] == (256,)
        return reference.dcnv3(input, offset, mask, self._window(numbers))

    def dcnv3_backward(self, input: Tensor, offset: Tensor, mask: Tensor, *numbers) -> tuple[Tensor, ...]:
        *_, grad, images = numbers
        assert len(numbers) == 13 and images == 256
        return reference.dcnv3_backward(grad, input, offset, mask, self._window(numbers))


def test_the_public_op_is_compared_on_the_same_numbers():
    case = bench._dcnv3_case("dcnv3", 4, 5, 64, 2)
    tensors = bench.in_the_public_form(case.tensors(torch.device("cpu"), torch.float32), case.window)
    numbers = case.window._asdict()
    ours = bench._measured(lambda *t: vss_ops.dcnv3(*t, **numbers), tensors, "reference", lambda run: 0.0)
    theirs = bench._measured_public(_PublicOp(), tensors, case.window, lambda run: 0.0)
    assert bench._equal(ours.results, theirs.results, torch.float32)


def test_writes_what_it_prints(cpp_kernels: None, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "ops.json"
    assert bench.main(["--device", "cpu", "--only", "stage 4 480x853", "--seconds", "0", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [row["case"] for row in rows] == [
        f"dcnv3 H stage 4 480x853 {direction} float32 vs PyTorch" for direction in ("forward", "backward")
    ]
    assert all(row.keys() == {"case", "ours", "peer", "unit", "ratio", "equal", "floor"} for row in rows)
    assert all(row["equal"] is True and row["unit"] == "ms" for row in rows)
    assert rows[0]["case"] in capsys.readouterr().out
