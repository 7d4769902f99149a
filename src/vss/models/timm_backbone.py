"""Any backbone of `timm` (an extra) that gives feature maps, without its weights."""

from __future__ import annotations

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from vss.core.errors import UserError

LEVELS = 4  # the last ones, of strides 4 to 32 where the backbone is a pyramid


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """The last four feature maps of a backbone of timm with drawn weights; nothing is loaded from a hub.

    Args:
        name: as `timm.list_models()` has it.
        drop_path_rate: of stochastic depth, where the backbone has it.
        with_cp: gradient checkpointing, where the backbone has it.
        init_cfg: MMEngine's.

    Raises:
        UserError: timm has no such backbone, or it gives no feature maps.
    """

    def __init__(
        self, *, name: str, drop_path_rate: float = 0.0, with_cp: bool = False, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        import timm

        # A name with a prefix (hf-hub:, local-dir:) would have timm fetch or read files.
        if not timm.is_model(name):
            raise UserError(f"timm:{name}: timm {timm.__version__} has no such backbone; timm.list_models() lists them")
        options = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
        try:
            self.model = timm.create_model(
                name, pretrained=False, features_only=True, out_indices=tuple(range(-LEVELS, 0)), **options
            )
        except (RuntimeError, AssertionError, AttributeError, TypeError, IndexError, ValueError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(f"timm:{name}: gives no {LEVELS} feature maps ({why}); choose another backbone") from error
        if with_cp and hasattr(self.model, "set_grad_checkpointing"):
            self.model.set_grad_checkpointing(True)

    @property
    def channels(self) -> list[int]:
        """Returns the channels of the feature maps."""
        return self.model.feature_info.channels()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the feature maps of normalised images [N, 3, H, W], the largest first."""
        return tuple(self.model(images))
