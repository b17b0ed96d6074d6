"""Names and shapes of the published weights, written from the definitions of the published networks.

Each is a dict of name -> shape as the network itself has them, before a training script wraps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

Names = dict[str, tuple[int, ...]]
Norm = Callable[[str, int], Names]
LAYERS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
VGG = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    13: ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
}


def batch_norm(name: str, channels: int) -> Names:
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (channels,) for kind in vectors} | {f"{name}.num_batches_tracked": ()}


def uncentered_norm(name: str, channels: int) -> Names:
    """Of B-cos networks: torch's layer with its bias taken away."""
    return {key: shape for key, shape in batch_norm(name, channels).items() if not key.endswith("bias")}


def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> Names:
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def stages(
    layers: tuple[int, ...],
    norm: Norm | None,
    *,
    base: int = 64,
    wide: int = 1,
    deep: bool = True,
    numbers: tuple[str, ...] = (),
    bag: bool = False,
) -> Iterator[Names]:
    """Blocks of a ResNet. `numbers` are scalars of each block; in a bag only first blocks see beyond a pixel."""
    inputs = base
    for stage, blocks in enumerate(layers):
        planes = base * 2**stage
        width, outputs = (planes * wide, 4 * planes) if deep else (planes, planes)
        for block in range(blocks):
            at, side = f"layer{stage + 1}.{block}", 3 if not bag or block == 0 else 1
            shapes = [(width, inputs, 1), (width, width, side), (outputs, width, 1)]
            if not deep:
                shapes = [(planes, inputs, 3), (planes, planes, 3)]
            for i, (after, before, kernel) in enumerate(shapes, 1):
                yield {f"{at}.conv{i}.weight": (after, before, kernel, kernel)}
                yield norm(f"{at}.bn{i}", after) if norm else {}
            yield {f"{at}.{number}": (1,) for number in numbers}
            if inputs != outputs:
                yield {f"{at}.downsample.{'0.' if norm else ''}weight": (outputs, inputs, 1, 1)}
                yield norm(f"{at}.downsample.1", outputs) if norm else {}
            inputs = outputs


def merged(*parts: Names | Iterator[Names]) -> Names:
    names: Names = {}
    for part in parts:
        for group in [part] if isinstance(part, dict) else part:
            names |= group
    return names


def resnet(layers: tuple[int, ...], classes: int, deep: bool = True, wide: int = 1) -> Names:
    """torchvision's."""
    stem = {"conv1.weight": (64, 3, 7, 7)} | batch_norm("bn1", 64)
    return merged(stem, stages(layers, batch_norm, deep=deep, wide=wide), linear("fc", classes, 2048 if deep else 512))


def vgg(convolutions, classes: int, norm: bool = False, bias: bool = True, side: int = 7, hidden: int = 4096) -> Names:
    """torchvision's: convolution, normalization and ReLU, and a pooling layer, have a number each."""
    names, place, inputs = {}, 0, 3
    for widths in convolutions:
        for width in widths:
            names[f"features.{place}.weight"] = (width, inputs, 3, 3)
            names |= {f"features.{place}.bias": (width,)} if bias else {}
            names |= batch_norm(f"features.{place + 1}", width) if norm else {}
            place, inputs = place + (3 if norm else 2), width
        place += 1
    sizes = ((0, inputs * side**2, hidden), (3, hidden, hidden), (6, hidden, classes))
    return merged(names, (linear(f"classifier.{i}", after, before, bias) for i, before, after in sizes))


def vit(width: int, depth: int, classes: int) -> Names:
    """timm's as Chefer et al. copied it, of 224 pixels in patches of 16."""
    names = {"cls_token": (1, 1, width), "pos_embed": (1, 197, width), "patch_embed.proj.weight": (width, 3, 16, 16)}
    names |= {"patch_embed.proj.bias": (width,), "norm.weight": (width,), "norm.bias": (width,)}
    for i in range(depth):
        at = f"blocks.{i}"
        names |= {f"{at}.norm{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}
        names |= linear(f"{at}.attn.qkv", 3 * width, width) | linear(f"{at}.attn.proj", width, width)
        names |= linear(f"{at}.mlp.fc1", 4 * width, width) | linear(f"{at}.mlp.fc2", width, 4 * width)
    return names | linear("head", classes, width)


def bagnet33(classes: int, base: int = 64, layers: tuple[int, ...] = LAYERS[50]) -> Names:
    stem = {"conv1.weight": (base, 3, 1, 1), "conv2.weight": (base, base, 3, 3)} | batch_norm("bn1", base)
    return merged(stem, stages(layers, batch_norm, base=base, bag=True), linear("fc", classes, 32 * base))


def fixup(classes: int, bias: bool, base: int = 64, layers: tuple[int, ...] = LAYERS[50]) -> Names:
    """Fixup's ResNet, or X-ResNet where there is no bias."""
    scalars = {"bias1": (1,), "bias2": (1,)} if bias else {}
    numbers = ("bias1a", "bias1b", "bias2a", "bias2b", "bias3a", "scale", "bias3b") if bias else ()
    blocks = stages(layers, None, base=base, numbers=numbers)
    return merged({"conv1.weight": (base, 3, 7, 7)}, scalars, blocks, linear("fc", classes, 32 * base, bias))


def bcos_resnet50(classes: int, inner: bool = False) -> Names:
    """As the IDSDS code has it; with a layer `linear` in each convolution (`inner`) as B-cos v2 does."""
    stem = {"conv1.weight": (64, 6, 7, 7)} | uncentered_norm("bn1", 64)
    names = merged(stem, stages(LAYERS[50], uncentered_norm), {"fc.weight": (classes, 2048, 1, 1)})
    layer = {
        name: name.replace(".weight", ".linear.weight") if len(shape) == 4 else name for name, shape in names.items()
    }
    return {layer[name] if inner else name: shape for name, shape in names.items()}


def bcos_vit(width: int, depth: int, hidden: int, classes: int, stem: tuple[int, ...] = (), side: int = 16) -> Names:
    names, inputs, at = {}, 6, "to_patch_embedding"
    for i, channels in enumerate(stem):
        names[f"{at}.conv_stem.{3 * i}.linear.weight"] = (channels, inputs, 3, 3)
        names[f"{at}.conv_stem.{3 * i + 1}.weight"] = (channels,)
        inputs = channels
    names[f"{at}.linear.linear.weight"] = (width, inputs * side**2)
    for i in range(depth):
        attn, net = f"transformer.encoder_{i}.attn", f"transformer.encoder_{i}.ff.net"
        names |= {f"{attn}.norm.weight": (width,), f"{attn}.to_qkv.weight": (3 * width, width)}
        names |= {f"{attn}.to_out.linear.weight": (width, width), f"{net}.norm.weight": (width,)}
        names |= {f"{net}.linear1.linear.weight": (hidden, width), f"{net}.linear2.linear.weight": (width, hidden)}
    return names | {"linear_head.norm.weight": (width,), "linear_head.linear.linear.weight": (classes, width)}


TABLE: dict[str, Callable[[int], Names]] = {
    "resnet18": lambda classes: resnet(LAYERS[18], classes, deep=False),
    "resnet50": lambda classes: resnet(LAYERS[50], classes),
    "resnet101": lambda classes: resnet(LAYERS[101], classes),
    "resnet152": lambda classes: resnet(LAYERS[152], classes),
    "wide_resnet50_2": lambda classes: resnet(LAYERS[50], classes, wide=2),
    "fixup_resnet50": lambda classes: fixup(classes, bias=True),
    "x_resnet50": lambda classes: fixup(classes, bias=False),
    **{f"vgg{n}": lambda classes, n=n: vgg(VGG[n], classes) for n in VGG},
    **{f"vgg{n}_bn": lambda classes, n=n: vgg(VGG[n], classes, norm=True) for n in VGG},
    "x_vgg16": lambda classes: vgg(VGG[16], classes, bias=False),
    "vit_base_patch16_224": lambda classes: vit(768, 12, classes),
    "bcos_resnet50": bcos_resnet50,
    "bagnet33": bagnet33,
    "bcos_simple_vit_b_patch16_224": lambda classes: bcos_vit(768, 12, 3072, classes),
    "bcos_vitc_s_patch1_14": lambda classes: bcos_vit(384, 11, 1536, classes, (48, 96, 192, 384), 1),
}
"""Every architecture of the published table, the other VGGs with normalization, and two of B-cos v2's transformers."""
