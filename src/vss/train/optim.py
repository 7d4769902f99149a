"""Learning rates and weight decay by parameter, and the optimizer wrapper for bfloat16.

ConvNeXt's stage-wise decay and Swin's norm rule are MMSeg's and MMEngine's own constructors, named in the row files.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from torch import nn

_BLOCK = re.compile(r"backbone\.levels\.(\d+)\.(?:blocks|post_norms)\.(\d+)\.")
_STAGE_END = re.compile(r"backbone\.levels\.(\d+)\.(?:downsample|norm)\.")
_VIT_LAYER = re.compile(r"(backbone|decode_head)\.layers\.(\d+)\.")
# Parameters of the Mask2Former head that InternImage's constructor takes for embeddings of the input.
_HEAD_EMBEDDINGS = ("mask_embed", "cls_embed", "level_embed", "query_embed", "query_feat")
_NO_DECAY = ("norm", "relative_position", "sampling_offsets")


def internimage_layer(name: str, depths: tuple[int, ...], *, head_embeddings: str) -> int:
    """Returns the layer 0..sum(depths)+1 that a parameter counts as; deeper layers learn faster.

    0 is the patch embedding, b the b-th block from the input, sum(depths)+1 everything behind the backbone. As in
    InternImage's CustomLayerDecayOptimizerConstructor, stage 2's post norm i counts as its block i, and a stage's
    norm and downsampling as the block after it (the last stage's norm: as that stage's first block).

    Args:
        name: parameter name in the segmentor.
        depths: blocks by stage.
        head_embeddings: "last": Mask2Former's query, class and mask embeddings learn at the full rate, like the rest
            of the head they are part of; "first": they count as layer 0 and learn slowest, as published, although
            nothing has trained them before (at 50 layers and decay 0.95: 0.073 of the base rate).
    """
    last = sum(depths) + 1
    if match := _BLOCK.match(name):
        stage, block = int(match[1]), int(match[2])
        return sum(depths[:stage]) + block + 1
    if match := _STAGE_END.match(name):
        return min(sum(depths[: int(match[1]) + 1]), sum(depths[:-1])) + 1
    if name.startswith("backbone.patch_embed."):
        return 0
    if head_embeddings == "first" and name.startswith("decode_head.") and name.split(".")[1] in _HEAD_EMBEDDINGS:
        return 0
    return last


def vit_layer(name: str, depths: tuple[int, int]) -> int:
    """Returns the layer 0..sum(depths)-1 that a parameter of an EoMT counts as; deeper layers learn faster.

    The embeddings count as layer 0, and all that is no layer of the transformer as the last one, as in tue-mps/eomt.

    Args:
        name: parameter name in the segmentor.
        depths: layers in the backbone, and in the head.
    """
    if name.startswith("backbone.embeddings."):
        return 0
    if match := _VIT_LAYER.match(name):
        return int(match[2]) + (0 if match[1] == "backbone" else depths[0])
    return sum(depths) - 1


class _LayerDecay(DefaultOptimWrapperConstructor):
    """Multiplies the learning rate by decay_rate^(last layer - layer), in one group per (layer, decay or not)."""

    def _layer(self, name: str) -> int:
        raise NotImplementedError

    def _last_layer(self) -> int:
        raise NotImplementedError

    def _decays(self, name: str, parameter: nn.Parameter) -> bool:
        return True

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: object) -> None:
        """Appends one group for every (layer, decay or not) to `params`; parameters that are not trained have none."""
        rate, last = self.paramwise_cfg["decay_rate"], self._last_layer()
        groups: dict[tuple[int, bool], dict] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            layer, decays = self._layer(name), self._decays(name, parameter)
            if (layer, decays) not in groups:
                groups[layer, decays] = {
                    "params": [],
                    "lr": self.base_lr * rate ** (last - layer),
                    "weight_decay": self.base_wd if decays else 0.0,
                }
            groups[layer, decays]["params"].append(parameter)
        params.extend(groups.values())


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class InternImageLayerDecay(_LayerDecay):
    """The rates of `internimage_layer`; `paramwise_cfg` holds depths, decay_rate and head_embeddings.

    No weight decay for one-dimensional parameters, biases, and names with norm, relative_position, sampling_offsets.
    """

    def _layer(self, name: str) -> int:
        depths = tuple(self.paramwise_cfg["depths"])
        return internimage_layer(name, depths, head_embeddings=self.paramwise_cfg["head_embeddings"])

    def _last_layer(self) -> int:
        return sum(self.paramwise_cfg["depths"]) + 1

    def _decays(self, name: str, parameter: nn.Parameter) -> bool:
        return parameter.ndim > 1 and not name.endswith(".bias") and not any(word in name for word in _NO_DECAY)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ViTLayerDecay(_LayerDecay):
    """The rates of `vit_layer`; `paramwise_cfg` holds decay_rate."""

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: object) -> None:
        """Appends the groups of an EoMT; see `_LayerDecay`."""
        self._depths = len(module.backbone.layers), len(module.decode_head.layers)
        super().add_params(params, module, **kwargs)

    def _layer(self, name: str) -> int:
        return vit_layer(name, self._depths)

    def _last_layer(self) -> int:
        return sum(self._depths) - 1


@OPTIM_WRAPPERS.register_module()
class FiniteOptimWrapper(OptimWrapper):
    """Refuses a step along gradients that are not finite, which clipping would make NaN and write into the weights.

    float16's gradient scaler skips such steps and goes on, so that it is not for this wrapper.
    """

    def step(self, **kwargs: object) -> None:
        """Clips where it is requested, and takes the step.

        Raises:
            FloatingPointError: the norm of all gradients is not finite.
        """
        if not (self.clip_grad_kwargs and self.clip_func is torch.nn.utils.clip_grad_norm_):
            gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            self._refuse_unless_finite(float(torch.nn.utils.get_total_norm(gradients)))
        super().step(**kwargs)

    def _clip_grad(self) -> None:
        super()._clip_grad()
        if self.clip_func is torch.nn.utils.clip_grad_norm_:
            self._refuse_unless_finite(self.message_hub.get_scalar(f"train/{self.grad_name}").current())

    @staticmethod
    def _refuse_unless_finite(norm: float) -> None:
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm is {norm}")


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(FiniteOptimWrapper):
    """Runs the forward pass under bfloat16 autocast, on GPU or CPU.

    MMEngine's AmpOptimWrapper needs a GPU and scales the loss, which bfloat16's range makes needless.
    """

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enters accumulation (no gradient exchange before the last accumulation step) and autocast."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
