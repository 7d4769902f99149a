"""RAFT's optical flow (Teed & Deng, ECCV 2020) by torchvision, as VSPW_code TC_cal.py runs it: 20 iterations."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch.nn import functional
from torchvision.models.optical_flow import raft_large
from torchvision.models.optical_flow.raft import CorrBlock

from vss.core.device import resolve_device
from vss.core.errors import UserError
from vss.weights.tensor_files import read_tensor_file

_ITERATIONS = 20
_LEAST_SIDE = 128  # pixels; smaller frames have no fourth level of the correlation pyramid


class _Float32Correlation(CorrBlock):
    """Correlates in float32 whatever the rest runs in, as RAFT's own code does under mixed precision."""

    def build_pyramid(self, fmap1: torch.Tensor, fmap2: torch.Tensor) -> None:
        with torch.autocast(fmap1.device.type, enabled=False):
            super().build_pyramid(fmap1.float(), fmap2.float())


class RaftFlow:
    """Estimates optical flow between frames.

    Args:
        weights: of torchvision's `raft_large`. Its C_T_V1 are raft-things, which TC_cal.py takes.
        device: "auto", "cpu", "cuda" or "cuda:N".
        half: whether to run in half precision where the device is a GPU; correlations stay in float32.

    Attributes:
        device: what it runs on.
        precision: "float32" or "float16".

    Raises:
        UserError: the file cannot be read, or holds no weights of that network.
    """

    def __init__(self, weights: str | os.PathLike, device: str = "auto", *, half: bool = False) -> None:
        self.device = resolve_device(device)
        self.precision = "float16" if half and self.device.type == "cuda" else "float32"
        self._model = raft_large(weights=None, progress=False, corr_block=_Float32Correlation())
        try:
            self._model.load_state_dict(read_tensor_file(weights).tensors)
        except RuntimeError:
            raise UserError(
                f"{weights}: not the weights of torchvision's raft_large (raft_large_C_T_V1-22a6c225.pth)"
            ) from None
        self._model.eval().to(self.device)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, next_image: np.ndarray) -> np.ndarray:
        """Returns the flow [2, H, W] float32 in pixels, x first, between two RGB frames [H, W, 3] uint8.

        Raises:
            UserError: the frames do not fit into the GPU's memory.
        """
        height, width = image.shape[:2]
        # To whole cells of 8 pixels, half of the padding on each side, as RAFT's own demo does it.
        down, across = (max(_LEAST_SIDE - side, -side % 8) for side in (height, width))
        top, left = down // 2, across // 2
        frames = torch.from_numpy(np.stack([image, next_image])).to(self.device).permute(0, 3, 1, 2).float()
        frames = functional.pad(frames / 127.5 - 1, (left, across - left, top, down - top), mode="replicate")
        try:
            with torch.autocast(self.device.type, torch.float16, enabled=self.precision == "float16"):
                flow = self._model(frames[:1], frames[1:], num_flow_updates=_ITERATIONS)[-1][0]
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"flow raft: two frames of {width}x{height} do not fit into the memory of {self.device}; use flow: dis"
            ) from error
        return flow[:, top : top + height, left : left + width].float().cpu().numpy()
