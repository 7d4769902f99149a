"""Every full-size family member that fits 24 GB runs forward on a CPU, in float32, on a small image."""

from __future__ import annotations

import pytest
import torch

from vss.models import rows
from vss.models.build import build_on_meta, build_segmentor

BYTES = 24e9

UPERNET = [name for name in rows.BACKBONES if "nano" not in name]
MASK2FORMER = ["authors", "opengvlab"]


def config(backbone: str, head: str) -> dict:
    if head == "upernet":
        heads = rows.upernet_config(backbone, num_classes=124)
    else:
        heads = rows.mask2former_config(backbone, num_classes=124, size=head)
    return rows.segmentor_config(backbone, heads)


@pytest.mark.long
@pytest.mark.large
@pytest.mark.parametrize(
    ("backbone", "head"), [*((name, "upernet") for name in UPERNET), *(("internimage-h", size) for size in MASK2FORMER)]
)
def test_one_forward_pass(backbone, head):
    model = config(backbone, head)
    needed = sum(p.nbytes for p in build_on_meta(model).parameters())
    if needed > 0.9 * BYTES or needed > 0.8 * _free_memory():
        pytest.skip(f"needs {needed / 1e9:.1f} GB for its weights")
    torch.manual_seed(0)
    segmentor = build_segmentor(model).eval()
    with torch.no_grad():
        logits = segmentor.class_logits(torch.randn(1, 3, 64, 96))
        probabilities = segmentor.probabilities(logits)
    assert logits.shape == (1, 124, 16, 24)
    assert logits.isfinite().all()
    assert logits.std() > 0
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1, 16, 24))


def _free_memory() -> float:
    with open("/proc/meminfo") as file:
        lines = dict(line.split(":", 1) for line in file)
    return 1024 * float(lines["MemAvailable"].split()[0])
