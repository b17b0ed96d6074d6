"""Hostile config.json and training.json of checkpoint folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.reference.hostile import Case, config_of, lay_checkpoint

NAN, INFINITY = float("nan"), float("inf")
DEEP = b'{"a":' * 100_000

TEXTS: list[tuple[str, str, bytes]] = [
    ("empty", "can't read", b""),
    ("not json", "can't read", b"architecture: resnet10t"),
    ("cut", "can't read", json.dumps(config_of()).encode()[:-20]),
    ("not utf-8", "can't read", b'{"architecture": "\xff"}'),
    ("brackets", "nested too deeply", b"[" * 100_000),
    ("deep objects", "nested too deeply", DEEP),
    ("a list", "expected an object", b"[1, 2]"),
    ("null", "expected an object", b"null"),
    ("long number", "can't read", b'{"num_classes": ' + b"9" * 10_000 + b"}"),
    ("nothing said", "architecture", b"{}"),
    ("twice the same key", "num_classes", json.dumps(config_of())[:-1].encode() + b', "num_classes": -1}'),
]

CHANGES: list[tuple[str, str, Any]] = [
    *(("architecture", "architecture", value) for value in (None, 3, ["resnet18"], {}, "", "resnet18x", "a\nb")),
    *(("architecture", "architecture", value) for value in ("../../x:f", "/etc/passwd", "hf-hub:a/b", "file.py:f")),
    ("architecture", "in model_args is nothing", "vit_giant_patch14_224"),
    ("architecture", "don't fit", "resnet18"),
    *(("num_classes", "num_classes", value) for value in (0, -1, 10**7, 10**30, "10", 10.5, True, None, [10], NAN)),
    ("num_classes", "label_names", 9),
    ("model_args", "model_args", [1]),
    ("model_args", "nothing that a checkpoint may say", {"checkpoint_path": "/etc/passwd"}),
    ("model_args", "nothing that a checkpoint may say", {"pretrained_cfg": {"file": "x"}}),
    ("model_args.stem_type", "path or an address", "/etc/passwd"),
    ("model_args.act_layer", "resnet10t", "nonsense"),
    ("model_args.act_layer", "resnet10t", 3),
    ("model_args.block", "resnet10t", "nonsense"),
    ("model_args.channels", "model_args", [10**12, 24, 32, 48]),
    ("model_args.channels", "more than", [2**20, 2**20, 2**20, 2**20]),
    ("model_args.channels", "resnet10t", [-16, 24, 32, 48]),
    ("model_args.channels", "resnet10t", []),
    ("model_args.channels", "resnet10t", "wide"),
    ("model_args.stem_width", "don't fit", None),
    ("model_args.layers", "blocks", [10**6, 1, 1, 1]),
    ("model_args.layers", "blocks", [1] * 10_000),
    ("model_args.cardinality", "resnet10t", 0),
    ("model_args.drop_path_rate", "model_args", NAN),
    ("model_args.in_chans", "don't fit", 4),
    ("model_args.output_stride", "resnet10t", 7),
    ("model_args.zero_init_last", "nested too deeply", "DEEP"),
    ("pretrained_cfg", "pretrained_cfg", "x"),
    *(
        ("pretrained_cfg.input_size", "input_size", value)
        for value in (None, 64, "64", [64, 64], [3, 0, 64], [3, -1, 64])
    ),
    *(("pretrained_cfg.input_size", "input_size", value) for value in ([3, 64.5, 64], [3, 64, 10**9], [10**9, 64, 64])),
    ("pretrained_cfg.input_size", "input_size", [True, 64, 64]),
    ("pretrained_cfg.input_size", "channels", [1, 64, 64]),
    ("pretrained_cfg.input_size", "does not divide", [3, 63, 64]),
    *(("pretrained_cfg.interpolation", "interpolation", value) for value in ("cubist", 3, [], {})),
    *(("pretrained_cfg.crop_pct", "crop_pct", value) for value in (0, -1, NAN, INFINITY, 1e-9, 1e9, "all", True, [1])),
    *(("pretrained_cfg.crop_mode", "crop_mode", value) for value in ("round", 3)),
    *(("pretrained_cfg.mean", "mean", value) for value in ([0.5, 0.5], [], 0.5, "gray", [NAN] * 3, [None] * 3)),
    *(("pretrained_cfg.std", "std", value) for value in ([0, 1, 1], [-1, 1, 1], [1, 1], [INFINITY] * 3, ["a"] * 3)),
    ("pretrained_cfg.file", "nothing that a checkpoint may say", "/etc/passwd"),
    ("pretrained_cfg.classifier", "", [1, 2]),
    ("pretrained_cfg.fixed_input_size", "fixed_input_size", "perhaps"),
    ("label_names", "label_names", "0123456789"),
    ("label_names", "label_names", ["0"]),
    ("label_names", "label_names", list(range(10))),
    ("label_names", "label_names", [["0"]] * 10),
    ("label_names", "other classes", ["0"] * 10),
    ("label_names", "other classes", ["a\nb"] * 10),
    ("label_names", "", None),
    ("deletion", "deletion", 3),
    ("deletion", "grid", {}),
    *(
        ("deletion.grid", "grid", value)
        for value in (4, [4], [0, 4], [-1, 4], [4.0, 4], "44", [10**9, 10**9], [INFINITY, 4])
    ),
    ("deletion.grid", "does not divide", [5, 4]),
    *(("deletion.fill", "fill", value) for value in ("nothing", 3, None, [], {})),
    *(("deletion.probability", "probability", value) for value in (2, -0.5, NAN, "half", None, [1])),
    ("deletion.more", "", 3),
    ("composite", "composite", [1]),
    ("composite", "", {"share": NAN, "scale": -1, "setting": {"a": "b"}}),
    *(("task", "task", value) for value in ("detection", 3, ["segmentation"])),
    ("task", "eval.dea", "segmentation"),
    ("own", "own", "yes"),
    ("own", "--model-args alone", True),
    ("auto_map", "nothing that a checkpoint may say", {"AutoModel": "evil.py"}),
    ("\x1b[2J", "nothing that a checkpoint may say", 1),
]
"""Where in the config, what is said, the value."""

HUGE = json.dumps(
    {
        **{key: value for key, value in config_of().items() if key != "model_args"},
        "architecture": "vit_giant_patch14_224",
    }
)
OWN: list[tuple[str, str]] = [
    ("../../x:f", "name of a function"),
    ("file.py:f", "name of a function"),
    ("__import__('os').system('touch code_has_run')", "name of a function"),
    ("exit", "name the code that makes it"),
]
"""Architectures of a network of one's own."""

SEGMENTERS: list[tuple[str, str, Any]] = [
    ("task", "in model_args is nothing", None),
    ("num_classes", "num_classes", 10**8),
    ("num_classes", "num_classes", 0),
    ("architecture", "in model_args is nothing", "vit_giant_patch14_224"),
    ("architecture", "in model_args is nothing", "fcn_resnet50"),
    ("model_args.skip", "nowhere", "nowhere"),
    ("model_args.skip", "skip", 3),
    ("pretrained_cfg.input_size", "squares", [3, 32, 64]),
    ("pretrained_cfg.mean", "mean", [1, 1]),
    ("pretrained_cfg.std", "std", [0, 0, 0]),
    ("pretrained_cfg.interpolation", "interpolation", "cubist"),
    ("deletion", "deletion", {"grid": [4, 4]}),
]

TRAINING: list[tuple[str, str, bytes]] = [
    ("not json", "can't read", b"{"),
    ("deep", "nested too deeply", DEEP),
    ("a list", "expected an object", b"[]"),
    ("digest of another file", "sha256", b'{"sha256": "00"}'),
    ("digest that is a number", "sha256", b'{"sha256": 3}'),
    ("garbled", "", b'{"settings": [NaN], "metrics": 3, "data": null}'),
]


def changed(key: str, value: Any, segmenter: bool = False) -> bytes:
    """The config with a value changed, as JSON; a dot leads inside."""
    config = config_of(segmenter)
    place, *names = config, *key.split(".")
    for name in names[:-1]:
        place = place[name]
    place[names[-1]] = value
    return json.dumps(config).replace('"DEEP"', "[" * 400 + "]" * 400).encode()


def with_config(content: bytes, segmenter: bool = False):
    return lambda folder: lay_checkpoint(folder, {"config.json": content}, segmenter)


def own(architecture: str):
    config = {key: value for key, value in config_of().items() if key != "model_args"}
    return with_config(json.dumps({**config, "own": True, "architecture": architecture}).encode())


def unusual(name: str, make: Any):
    """A checkpoint one of whose small files is no regular file."""

    def lay(folder: Path) -> list[str]:
        arguments = lay_checkpoint(folder, {name: None})
        make(folder / "checkpoint" / name)
        return arguments

    return lay


CASES = [
    *(Case(f"config: {name}", says, with_config(content)) for name, says, content in TEXTS),
    *(
        Case(f"config: {key!r} {str(value)[:24]!r}", says, with_config(changed(key, value)))
        for key, says, value in CHANGES
    ),
    *(Case(f"config of one's own: {name[:20]}", says, own(name)) for name, says in OWN),
    *(
        Case(
            f"config of a segmenter: {key} {str(value)[:24]}", says, with_config(changed(key, value, True), True), "dea"
        )
        for key, says, value in SEGMENTERS
    ),
    *(
        Case(
            f"training.json: {name}",
            says,
            lambda folder, content=content: lay_checkpoint(folder, {"training.json": content}),
        )
        for name, says, content in TRAINING
    ),
    Case("config: a network of a billion numbers", "more than", with_config(HUGE.encode())),
    Case("config: a pipe", "lacks config.json", unusual("config.json", os.mkfifo)),
    Case("config: a folder", "lacks config.json", unusual("config.json", Path.mkdir)),
    Case(
        "README: long and deep, training.json: a pipe",
        "",
        unusual("training.json", lambda path: (os.mkfifo(path), (path.parent / "README.md").write_bytes(DEEP))),
    ),
]
