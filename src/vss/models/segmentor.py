"""The segmentor of the project: MMSegmentation's EncoderDecoder with the two calls that inference is built on."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
import vss_ops
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import OptSampleList, SampleList, add_prefix
from torch import Tensor

from vss.core.errors import UserError
from vss.models.negatives import negatives_loss


@functools.cache
def _check_ops(device: torch.device) -> None:
    """Compares the ops with their reference once per device, so that a kernel that cannot run stops the work.

    Raises:
        UserError: a kernel does not run or its numbers differ; the message says what to do.
    """
    if device.type == "meta":
        return
    try:
        vss_ops.self_check(device)
    except RuntimeError as error:
        raise UserError(" ".join(str(error).split())) from error


@MODELS.register_module()
class Segmentor(EncoderDecoder):
    """An encoder-decoder whose class scores and probabilities are two separate, head-independent calls.

    The view path of inference is `class_logits` -> bilinear resize -> `probabilities` -> mean over views. A head whose
    scores are not plain logits (Mask2Former) has methods `class_logits(features)` and `probabilities(resized,
    protocol)`; every other MMSegmentation head is taken to give logits for a softmax.

    `test_cfg.protocol` ("paper" by default) is the protocol of `predict`, that is of MMSegmentation's own validation
    and test-time augmentation.
    """

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Returns the backbone's (or neck's) feature maps of normalised RGB images [N, 3, H, W]."""
        if self._uses_ops:
            _check_ops(inputs.device)
        return super().extract_feat(inputs)

    @functools.cached_property
    def _uses_ops(self) -> bool:
        return any(getattr(module, "uses_vss_ops", False) for module in self.modules())

    def class_logits(self, images: Tensor) -> Tensor:
        """Returns the quantity that is resized bilinearly on its way to the frame size.

        Args:
            images: [N, 3, h, w] float, RGB normalised with ImageNet mean and deviation.

        Returns:
            [N, C, h / 4, w / 4] (rounded up): logits of UperNet; for Mask2Former the class scores
            sum_q softmax(class logits)[c] * sigmoid(mask logits), which are non-negative.
        """
        head, features = self.decode_head, self.extract_feat(images)
        return head.class_logits(features) if hasattr(head, "class_logits") else head(features)

    def probabilities(self, resized: Tensor, protocol: str = "paper") -> Tensor:
        """Returns class probabilities [N, C, H, W] in float32; they sum to 1 over C.

        Args:
            resized: class logits [N, C, H, W] after all resizing.
            protocol: "paper": Mask2Former scores are divided by their sum; "as_published": they are softmaxed a second
                time, as the paper's code did. The same for heads with logits: softmax.
        """
        if hasattr(self.decode_head, "probabilities"):
            return self.decode_head.probabilities(resized, protocol)
        return resized.float().softmax(1)

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Returns class logits at the size of `inputs`: [N, C, H, W]."""
        return F.interpolate(
            self.class_logits(inputs), size=inputs.shape[-2:], mode="bilinear", align_corners=self.align_corners
        )

    def postprocess_result(self, seg_logits: Tensor, data_samples: OptSampleList = None) -> SampleList:
        """Fills data samples as MMSegmentation does; `softmax(seg_logits)` always gives the probabilities.

        MMSegmentation's SegTTAModel softmaxes what it finds in `seg_logits`. A head with its own normalisation
        therefore leaves log-probabilities there, whose softmax is the probabilities themselves: nothing is softmaxed
        twice unless the protocol requests it.
        """
        data_samples = super().postprocess_result(seg_logits, data_samples)
        if hasattr(self.decode_head, "probabilities"):
            protocol = (self.test_cfg or {}).get("protocol", "paper")
            for sample in data_samples:
                log_probabilities = self.probabilities(sample.seg_logits.data[None], protocol)[0].log()
                sample.set_data({"seg_logits": PixelData(data=log_probabilities)})
        return data_samples

    def _decode_head_forward_train(self, inputs: tuple[Tensor, ...], data_samples: SampleList) -> dict[str, Tensor]:
        """Returns the decode head's losses, and where data samples have `negatives` that of surely wrong classes."""
        if "negatives" not in data_samples[0]:
            return super()._decode_head_forward_train(inputs, data_samples)
        head = self.decode_head
        outputs = head(inputs)
        logits = head.last_class_logits(outputs) if hasattr(head, "last_class_logits") else outputs
        size = data_samples[0].gt_sem_seg.shape
        resized = F.interpolate(logits, size=size, mode="bilinear", align_corners=self.align_corners)
        losses = head.loss_by_feat(outputs, data_samples)
        losses["loss_negatives"] = negatives_loss(self.probabilities(resized), data_samples)
        return add_prefix(losses, "decode")

    def _dump_init_info(self) -> None:
        """Logs nothing, where MMEngine logs three lines for each of up to 1,600 parameters."""

    def _forward(self, inputs: Tensor, data_samples: OptSampleList = None) -> Tensor:
        return self.class_logits(inputs)
