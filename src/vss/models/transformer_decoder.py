"""Mask2Former's transformer decoder: queries that look only where their last mask prediction says."""

from __future__ import annotations

from torch import Tensor, nn

from vss.models.attention import FeedForward, MultiheadAttention
from vss.models.layers import maybe_checkpoint


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward, each followed by a LayerNorm (arXiv 2112.01527, figure 2).

    Shape:
        query, query_position [N, Q, C]; memory [N, S, C]; memory_position [S, C];
        blocked [N, Q, S] bool, True where a query may not look, never a whole row; output [N, Q, C].
    """

    def __init__(self, *, channels: int, num_heads: int, ffn_channels: int) -> None:
        super().__init__()
        self.cross_attn = MultiheadAttention(channels, num_heads)
        self.self_attn = MultiheadAttention(channels, num_heads)
        self.ffn = FeedForward(channels, ffn_channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))

    def forward(
        self, query: Tensor, query_position: Tensor, memory: Tensor, memory_position: Tensor, blocked: Tensor
    ) -> Tensor:
        attended = self.cross_attn(
            query,
            memory,
            memory,
            query_position=query_position,
            key_position=memory_position,
            blocked=blocked,
        )
        query = self.norms[0](attended)
        attended = self.self_attn(query, query, query, query_position=query_position, key_position=query_position)
        query = self.norms[1](attended)
        return self.norms[2](self.ffn(query))


class TransformerDecoder(nn.Module):
    """The decoder layers and the norm before every prediction; the loop over levels is the head's.

    Args:
        num_layers: number of `DecoderLayer`s.
        channels, num_heads, ffn_channels: of each layer.
        with_cp: gradient checkpointing of every layer.
    """

    def __init__(self, *, num_layers: int, channels: int, num_heads: int, ffn_channels: int, with_cp: bool) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.layers = nn.ModuleList(
            DecoderLayer(channels=channels, num_heads=num_heads, ffn_channels=ffn_channels) for _ in range(num_layers)
        )
        self.post_norm = nn.LayerNorm(channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws every matrix from Xavier's uniform distribution."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def run_layer(self, index: int, *inputs: Tensor) -> Tensor:
        """Applies one layer, see `DecoderLayer.forward`."""
        return maybe_checkpoint(self.with_cp, self.layers[index], *inputs)
