"""LRP relevance of the attention of a vision transformer, weighted by its gradient (Chefer et al., CVPR 2021).

The rules are those of the published code, image by image in a batch, each division with its ε of 1e-9:

- a linear layer shares by its positive contributions, x⁺w⁺ + x⁻w⁻ (α = 1), its bias taking no share;
- a product of two maps (attention × values, queries × keys) shares by contribution, half to each factor;
- a skip connection u + v shares by contribution, then each branch is scaled to its part of the sum,
  |Σu| : |Σv| of what they got (section 3.1, equation 9);
- normalization, GELU, softmax and layer scale pass relevance on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from timm.layers.attention import Attention as SelfAttention
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from faithfulness.attribution.base import Passes, register_attribution, select_logits, upcast
from faithfulness.attribution.transformers import AttentionRelevance, accumulate, watched_attention
from faithfulness.core.errors import InputError

EPSILON = 1e-9


def safe_divide(a: Tensor, b: Tensor) -> Tensor:
    """a / (b + ε), and 0 where b is 0."""
    below = b + EPSILON
    return torch.where(b == 0, 0, a / torch.where(below == 0, EPSILON, below))


def linear_rule(x: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of x (…, inputs) from that of the outputs (…, outputs), by positive contributions."""
    above, below, right, left = weight.clamp(min=0), weight.clamp(max=0), x.clamp(min=0), x.clamp(max=0)
    shares = safe_divide(relevance, right @ above.T + left @ below.T)
    return right * (shares @ above) + left * (shares @ below)


def product_rule(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of the factors of a @ b, half of it each."""
    shares = safe_divide(relevance, a @ b)
    return a * (shares @ b.mT) / 2, b * (a.mT @ shares) / 2


def skip_rule(u: Tensor, v: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of the branches of u + v, (B, N, D) each."""

    def total(x: Tensor) -> Tensor:
        return x.sum(dim=(1, 2), keepdim=True)

    shares = safe_divide(relevance, u + v)
    parts = u * shares, v * shares
    sums = [total(part) for part in parts]
    both = sums[0].abs() + sums[1].abs()
    first, second = (
        part * safe_divide(safe_divide(own.abs(), both) * total(relevance), own)
        for part, own in zip(parts, sums, strict=True)
    )
    return first, second


def branching_rule(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Relevance of x that goes into two branches."""
    return x * (safe_divide(first, x) + safe_divide(second, x))


@contextmanager
def recorded(places: dict[str, tuple[nn.Module, bool]], kept: dict[str, Tensor]) -> Iterator[None]:
    """Inside the block, each module's first input, or its output if the flag says so, is kept under its name."""

    def keep(name: str, of_output: bool) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kept[name] = upcast((output if of_output else inputs[0]).detach())

        return hook

    hooks = [module.register_forward_hook(keep(name, of_output)) for name, (module, of_output) in places.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def block_places(block: Any) -> dict[str, tuple[nn.Module, bool]]:
    """What has to be kept of a block: name -> module, and whether its output is meant."""
    attention = block.attn
    return {
        "tokens": (block.norm1, False),
        "normed": (attention.qkv, False),
        "qkv": (attention.qkv, True),
        "queries": (attention.q_norm, True),
        "keys": (attention.k_norm, True),
        "mixed": (attention.proj, False),
        "attended": (block.drop_path1, True),
        "middle": (block.norm2, False),
        "narrow": (block.mlp.fc1, False),
        "wide": (block.mlp.fc2, False),
        "changed": (block.drop_path2, True),
    }


def attention_relevance(
    block: Any, kept: dict[str, Tensor], attention: Tensor, relevance: Tensor
) -> tuple[Tensor, Tensor]:
    """From relevance (B, N, D) of a block's output: that of its attention (B, heads, N, N) and of its input."""
    layer = block.attn
    direct, branch = skip_rule(kept["middle"], kept["changed"], relevance)
    branch = linear_rule(kept["wide"], upcast(block.mlp.fc2.weight), branch)
    branch = linear_rule(kept["narrow"], upcast(block.mlp.fc1.weight), branch)
    middle = branching_rule(kept["middle"], direct, branch)

    direct, branch = skip_rule(kept["tokens"], kept["attended"], middle)
    branch = linear_rule(kept["mixed"], upcast(layer.proj.weight), branch)
    branch = branch.unflatten(2, (layer.num_heads, -1)).transpose(1, 2)
    values = kept["qkv"].unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)[2]
    of_attention, of_values = product_rule(attention, values, branch)
    of_queries, of_keys = product_rule(kept["queries"], kept["keys"].mT, of_attention)
    of_qkv = torch.stack([of_queries, of_keys.mT, of_values]).permute(1, 3, 0, 2, 4).flatten(2)
    branch = linear_rule(kept["normed"], upcast(layer.qkv.weight), of_qkv)
    return of_attention, branching_rule(kept["tokens"], direct, branch)


@register_attribution("cheferlrp", aliases=("transformer-attribution",))
class CheferLRP(AttentionRelevance):
    """Transformer attribution (Chefer et al., CVPR 2021): rolled-out LRP relevance of attention × its gradient.

    R ← (1 + Ā) R with Ā = mean over heads of (∇A ⊙ relevance of A)⁺, the relevance starting at 1 for the target.
    The rule for skip connections divides by sums of signed tokens, which cross 0: it is ill-conditioned, so that
    maps in single and double precision can differ by percents. Under autocast it runs in single precision.

    Args:
        start: the first block that counts, from 0; 1 as published.
    Raises:
        InputError: a model that isn't a timm ViT of plain blocks with one head, a layer other than the input.
    """

    paper = "Chefer et al. 2021 (CVPR)"
    needs = "a ViT of plain blocks"
    logits_only = True

    def __init__(self, model: nn.Module, layer: str | None = None, *, start: int = 1, **common: Any):
        super().__init__(model, layer, **common)
        name = getattr(self.model, "name", type(model).__name__)
        blocks = list(self.transformer.blocks)
        plain = all(
            type(block) is Block
            and type(block.mlp) is Mlp
            and type(block.attn) is SelfAttention
            and getattr(block.attn, "gate", None) is None
            for block in blocks
        )
        head = getattr(self.transformer, "head", None)
        if not plain or not isinstance(head, nn.Linear) or hasattr(self.transformer, "head_dist"):
            raise InputError(f"cheferlrp needs {self.needs} and one linear head, got {name}")
        self.start = self.check_start(start)

    def relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        """R − 1 after the last block; holds the activations of one sub-batch."""
        transformer = self.transformer
        maps: list[Tensor] = []
        blocks = list(transformer.blocks)
        kept: list[dict[str, Tensor]] = [{} for _ in blocks]
        ends: dict[str, Tensor] = {}

        def visit(attention: Tensor) -> None:
            self.check(attention, images)
            maps.append(attention)

        exactly = torch.autocast(images.device.type, enabled=False)
        with torch.enable_grad(), exactly, _all_recorded(transformer, kept, ends):
            with watched_attention(transformer, visit):
                logits = self.split.rest(images.detach().requires_grad_(True))
            gradients = torch.autograd.grad(select_logits(logits, targets).sum(), maps)
        with torch.no_grad(), exactly:
            wanted = nn.functional.one_hot(targets, logits.shape[1]).to(ends["pooled"].dtype)
            relevance = self.pooled_relevance(
                ends["last"], linear_rule(ends["pooled"], upcast(transformer.head.weight), wanted)
            )
            weighted = []
            for block in reversed(range(self.start, len(blocks))):
                attention = upcast(maps[block].detach())
                own, relevance = attention_relevance(blocks[block], kept[block], attention, relevance)
                weighted.append((upcast(gradients[block]) * own).clamp(min=0).mean(dim=1))
            result: Tensor | None = None
            for step in reversed(weighted):
                result = accumulate(result, step)
        return cast(Tensor, result)

    def pooled_relevance(self, tokens: Tensor, relevance: Tensor) -> Tensor:
        """Relevance (B, N, D) of the last tokens from that of what the head reads of them, (B, D)."""
        read = tokens[:, self.rows]
        shares = safe_divide(relevance, read.mean(dim=1)) / read.shape[1]
        result = torch.zeros_like(tokens)
        result[:, self.rows] = read * shares[:, None]
        return result

    @property
    def passes(self) -> Passes:
        """One each way, besides the relevance, which takes about as much again."""
        return Passes(1, 1)


@contextmanager
def _all_recorded(transformer: Any, kept: list[dict[str, Tensor]], ends: dict[str, Tensor]) -> Iterator[None]:
    with ExitStack() as stack:
        for block, store in zip(transformer.blocks, kept, strict=True):
            stack.enter_context(recorded(block_places(block), store))
        stack.enter_context(recorded({"last": (transformer.norm, True), "pooled": (transformer.head, False)}, ends))
        yield
