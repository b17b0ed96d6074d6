"""Attention-based relevance for vision transformers: attention rollout, gradient-weighted attention.

Both read the attention maps of a timm transformer at the model's input and give one value per patch
token. A forward hook on the attention's dropout sees the maps, once fused attention is off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness.attribution.base import Attribution, Passes, pull_back, register_attribution, select_logits, upcast
from faithfulness.attribution.switches import switched
from faithfulness.backbones.timm_models import tokens_to_map
from faithfulness.core.errors import InputError

FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda attention: attention.mean(dim=1),
    "max": lambda attention: attention.amax(dim=1),
    "min": lambda attention: attention.amin(dim=1),
}
"""How the heads' attention (B, heads, N, N) becomes one matrix (B, N, N)."""


def find_transformer(model: nn.Module) -> Any:
    """The timm transformer inside a model, or None.

    It has `blocks`, each with an `attn` whose softmax over tokens can be seen.
    """
    for module in model.modules():
        blocks, embed = getattr(module, "blocks", None), getattr(module, "patch_embed", None)
        if not isinstance(blocks, nn.Module) or not hasattr(module, "num_prefix_tokens"):
            continue
        if not hasattr(embed, "grid_size"):
            continue
        attentions = [getattr(block, "attn", None) for block in blocks.children()]
        if attentions and all(_shows_softmax(attention) for attention in attentions):
            return module
    return None


def _shows_softmax(attention: Any) -> bool:
    names = ("fused_attn", "num_heads", "qkv")
    return isinstance(getattr(attention, "attn_drop", None), nn.Dropout) and all(hasattr(attention, n) for n in names)


@contextmanager
def watched_attention(transformer: Any, visit: Callable[[Tensor], None]) -> Iterator[None]:
    """Inside the block, every attention map (B, heads, N, N) goes to `visit`, from the first block on.

    Fused attention and gradient checkpointing are off meanwhile; all is as before after it.
    """
    attentions = [block.attn for block in transformer.blocks]
    hooks = [a.attn_drop.register_forward_hook(lambda module, args, output: visit(output)) for a in attentions]
    try:
        with switched(attentions, "fused_attn", False), switched([transformer], "grad_checkpointing", False):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def rollout_step(
    relevance: Float[Tensor, "b n n"] | None,
    attention: Float[Tensor, "b h n n"],
    fusion: str = "mean",
    discard: float = 0.0,
    residual: float = 0.5,
) -> Float[Tensor, "b n n"]:
    """One block of attention rollout: relevance (B, N, N) of the tokens so far, None for the first block.

    The heads are fused, the share `discard` of the smallest entries of each image set to 0, the skip
    connection added with weight `residual`, and the rows brought to sum 1.
    Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3.
    """
    fused = FUSIONS[fusion](upcast(attention))
    smallest = int(fused.shape[1] * fused.shape[2] * discard)
    if smallest:
        flat = fused.flatten(1)
        fused = flat.scatter(1, flat.topk(smallest, largest=False).indices, 0).view_as(fused)
    mixed = (1 - residual) * fused + residual * torch.eye(fused.shape[-1]).to(fused)
    mixed = mixed / mixed.sum(dim=-1, keepdim=True)
    return mixed if relevance is None else mixed @ relevance


def chefer_step(
    relevance: Float[Tensor, "b n n"] | None, attention: Float[Tensor, "b h n n"], gradient: Float[Tensor, "b h n n"]
) -> Float[Tensor, "b n n"]:
    """One block of R ← R + Ā R, Ā = mean over heads of (∇A ⊙ A)⁺, on R − 1; None before the first block.

    The unit matrix with which R starts is left out: a class token's row never shows it, and pooled rows
    would show it as a constant. Source: Chefer, Gur and Wolf, ICCV 2021, equations 5 and 6.
    """
    return accumulate(relevance, (upcast(gradient) * upcast(attention)).clamp(min=0).mean(dim=1))


def accumulate(relevance: Float[Tensor, "b n n"] | None, weighted: Float[Tensor, "b n n"]) -> Float[Tensor, "b n n"]:
    """R ← (1 + Ā) R, on R − 1; None before the first block."""
    return weighted if relevance is None else relevance + weighted @ relevance + weighted


class AttentionRelevance(Attribution):
    """Base: relevance of every token for every token, read at the tokens that become the logits."""

    needs = "attention"

    def __init__(self, model: nn.Module, layer: str | None = None, **common: Any):
        super().__init__(model, layer, **common)
        name = getattr(self.model, "name", type(model).__name__)
        if self.layer != "input":
            raise InputError(f"attention relevance exists at layer 'input' only, got {self.layer!r}")
        self.transformer = find_transformer(self.model)
        if self.transformer is None:
            raise InputError(f"attention relevance needs a timm transformer whose attention maps show, got {name}")
        pooling = getattr(self.transformer, "global_pool", None)
        if pooling not in ("token", "avg"):
            raise InputError(f"attention relevance needs global_pool 'token' or 'avg', {name} has {pooling!r}")

    @property
    def upsample(self) -> str:
        """One value per patch token: nearest."""
        return "nearest"

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        pairs = zip(activations.split(self.chunk), targets.split(self.chunk), strict=True)
        return torch.cat([self._read(self.relevance(part, indices), part) for part, indices in pairs])

    def relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        """Relevance (B, N, N) of token j (column) for token i (row) after the last block."""
        raise NotImplementedError

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patch tokens that images of this size have."""
        embed = self.transformer.patch_embed
        size = embed.dynamic_feat_size(images.shape[-2:]) if hasattr(embed, "dynamic_feat_size") else embed.grid_size
        return cast(tuple[int, int], tuple(size))

    def check_start(self, start: int) -> int:
        """The first block that counts, if there is one of that number."""
        if not 0 <= start < len(self.transformer.blocks):
            raise InputError(f"start must lie in 0 … {len(self.transformer.blocks) - 1}, got {start}")
        return start

    def check(self, attention: Tensor, images: Tensor) -> None:
        """Raise unless a map is (B, heads, N, N), for these images and all their tokens."""
        rows, cols = self.grid(images)
        tokens = int(self.transformer.num_prefix_tokens) + rows * cols
        if attention.dim() != 4 or len(attention) != len(images) or attention.shape[2:] != (tokens, tokens):
            raise InputError(
                f"expected attention ({len(images)}, heads, {tokens}, {tokens}), got {tuple(attention.shape)}; "
                "attention relevance explains whole images with all their tokens, not a grid of images"
            )

    def _read(self, relevance: Tensor, images: Tensor) -> Tensor:
        """The rows of the tokens that the head reads, without prefix tokens, as maps (B, 1, h, w)."""
        rows = relevance[:, self.rows].mean(dim=1)
        return tokens_to_map(rows[..., None], int(self.transformer.num_prefix_tokens), self.grid(images))

    @property
    def rows(self) -> slice:
        """The tokens that the head reads."""
        if self.transformer.global_pool == "token":
            # A distilled transformer averages the logits of its first two tokens.
            return slice(2 if hasattr(self.transformer, "head_dist") else 1)
        return slice(
            0 if getattr(self.transformer, "pool_include_prefix", False) else self.transformer.num_prefix_tokens, None
        )


@register_attribution("rollout", aliases=("attention-rollout",))
class Rollout(AttentionRelevance):
    """Attention rollout (Abnar and Zuidema 2020): attention multiplied over the blocks; blind to the target.

    Args:
        fusion: over heads, `mean` (as in the paper), `max` or `min`.
        discard: share of the smallest attention values that are set to 0, in [0, 1).
        residual: weight of the skip connection, in [0, 1]; 0.5 in the paper.
        start: the first block that counts, from 0; 1 in Hesse et al. 2024 (after the code of Chefer et al.).
    Raises:
        InputError: a model without visible attention, a layer other than the input.
    """

    paper = "Abnar and Zuidema 2020"

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        fusion: str = "mean",
        discard: float = 0.0,
        residual: float = 0.5,
        start: int = 0,
        **common: Any,
    ):
        super().__init__(model, layer, **common)
        self.start = self.check_start(start)
        if fusion not in FUSIONS:
            raise InputError(f"unknown head fusion {fusion!r}; known: {', '.join(FUSIONS)}")
        if not (0 <= discard < 1 and 0 <= residual <= 1):
            raise InputError(f"expected discard in [0, 1) and residual in [0, 1], got {discard} and {residual}")
        if discard and not residual:
            raise InputError("discard needs a residual above 0: a row whose attention is all discarded has no sum")
        self.fusion, self.discard, self.residual = fusion, discard, residual

    def relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        """The product of the blocks' mixed attention, made while the network runs: one matrix in memory."""
        relevance: Tensor | None = None
        block = 0

        def visit(attention: Tensor) -> None:
            nonlocal relevance, block
            self.check(attention, images)
            block += 1
            if block <= self.start:
                return
            with torch.autocast(attention.device.type, enabled=False):
                relevance = rollout_step(relevance, attention, self.fusion, self.discard, self.residual)

        with torch.no_grad(), watched_attention(self.transformer, visit):
            self.split.rest(images)
        return cast(Tensor, relevance)

    @property
    def passes(self) -> Passes:
        return Passes(1, 0)


@register_attribution("chefer", aliases=("generic-attention",))
class Chefer(AttentionRelevance):
    """Attention weighted by its gradient and rolled out (Chefer et al., ICCV 2021, self-attention).

    All images of a batch at once: the gradient of the sum of their logits is each image's own. It starts at
    the first block, as published; `cheferlrp` is the earlier method with LRP relevance of the attention.

    Raises:
        InputError: a model without visible attention, a layer other than the input.
    """

    paper = "Chefer et al. 2021 (ICCV)"

    def relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        """R − 1 after the last block; holds the attention maps of one sub-batch."""
        maps: list[Tensor] = []

        def visit(attention: Tensor) -> None:
            self.check(attention, images)
            maps.append(attention)

        with torch.enable_grad():
            with watched_attention(self.transformer, visit):
                logits = select_logits(self.split.rest(images.detach().requires_grad_(True)), targets)
            gradients = pull_back(logits, maps)
        relevance: Tensor | None = None
        with torch.autocast(images.device.type, enabled=False):
            for attention, gradient in zip(maps, gradients, strict=True):
                relevance = chefer_step(relevance, attention.detach(), gradient)
        return cast(Tensor, relevance)

    @property
    def passes(self) -> Passes:
        return Passes(1, 1)


@register_attribution("gradcam-attention", aliases=("ViT-Grad-CAM", "attention-gradcam"))
class AttentionGradCAM(AttentionRelevance):
    """Grad-CAM on the last block's attention, as Chefer et al. (CVPR 2021) and Hesse et al. 2024 have it for ViTs.

    Each head's attention from the class token to the patches is weighted by its mean gradient over the patches,
    the heads averaged, then ReLU. The published scaling of each map to [0, 1] is left out. With pooled tokens,
    the rows of all tokens that are pooled take the place of the class token's (ours).

    Args:
        relu: keep only evidence for the target, as published.
    Raises:
        InputError: a model without visible attention, a layer other than the input.
    """

    paper = "Chefer et al. 2021 (CVPR)"

    def __init__(self, model: nn.Module, layer: str | None = None, *, relu: bool = True, **common: Any):
        super().__init__(model, layer, **common)
        self.relu = relu

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        maps = super().attribute(images, activations, targets)
        return maps.relu() if self.relu else maps

    def relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        """The weighted attention of the last block, averaged over heads."""
        last: Tensor | None = None

        def visit(attention: Tensor) -> None:
            nonlocal last
            self.check(attention, images)
            last = attention

        with torch.enable_grad():
            with watched_attention(self.transformer, visit):
                logits = select_logits(self.split.rest(images.detach().requires_grad_(True)), targets)
            attention = cast(Tensor, last)
            (gradient,) = pull_back(logits, [attention])
        prefix = int(self.transformer.num_prefix_tokens)
        weights = upcast(gradient)[:, :, self.rows, prefix:].mean(dim=(2, 3), keepdim=True)
        return (weights * upcast(attention.detach())).mean(dim=1)

    @property
    def passes(self) -> Passes:
        return Passes(1, 1)
