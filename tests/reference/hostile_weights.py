"""Hostile weight files: torn, lying about their size, of other kinds, code in disguise."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from tests.reference.hostile import SINGLE, Case, checkpoint_files, lay_checkpoint

MARK = "code_has_run"


class Intruder:
    """Leaves a mark in the current folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARK}",)


def state() -> dict[str, torch.Tensor]:
    return load(checkpoint_files()["model.safetensors"])


def safetensors_of(header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A file by the format's specification, whatever the header claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def pickled(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def changed(change: Callable[[dict[str, torch.Tensor]], Any]) -> bytes:
    """The checkpoint's weights after a change of the state dict, as safetensors."""
    weights = state()
    change(weights)
    return save(weights)


def bomb() -> bytes:
    """A zip of 40 KB that unpacks to 40 MB of zeros where a pickle should be."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(40_000_000))
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def lying_zip() -> bytes:
    """A file of torch's whose pickle asks for a storage of a petabyte."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(pickled({"fc.weight": torch.zeros(7)}))) as source,
        zipfile.ZipFile(file, "w") as to,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"K\x07", b"\x8a\x07" + (2**50).to_bytes(7, "little"))
            to.writestr(name, content)
    return file.getvalue()


def _nan(weights: dict[str, torch.Tensor]) -> None:
    weights["fc.bias"][3] = torch.nan


def _infinity(weights: dict[str, torch.Tensor]) -> None:
    weights["conv1.0.weight"][0, 0, 0, 0] = -torch.inf


def _other_type(dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda weights: weights.update({"fc.weight": weights["fc.weight"].to(dtype)})


def _put(name: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda weights: weights.update({name: tensor})


WHOLE = checkpoint_files()["model.safetensors"]
IN_FOLDERS: list[tuple[str, str, bytes]] = [
    ("empty", "can't read weights", b""),
    ("seven bytes", "can't read weights", WHOLE[:7]),
    ("header cut", "can't read weights", WHOLE[:500]),
    ("tensors cut", "can't read weights", WHOLE[:-1000]),
    ("one byte more", "can't read weights", WHOLE + b"\0"),
    ("header of 4 exabytes", "can't read weights", safetensors_of({}, length=2**62)),
    ("header of 2 to the 64", "can't read weights", safetensors_of({}, length=2**64 - 1)),
    ("offsets beyond the file", "can't read weights", safetensors_of({"fc.bias": entry([10], [0, 40])}, bytes(8))),
    ("a tensor of terabytes", "can't read weights", safetensors_of({"a": entry([2**40], [0, 2**42])}, bytes(8))),
    ("overflowing shape", "can't read weights", safetensors_of({"a": entry([2**62, 2**62], [0, 8])}, bytes(8))),
    (
        "overlapping",
        "can't read weights",
        safetensors_of({"a": entry([2], [0, 8]), "b": entry([2], [4, 12])}, bytes(12)),
    ),
    ("negative offsets", "can't read weights", safetensors_of({"a": entry([2], [-8, 0])}, bytes(8))),
    ("negative shape", "can't read weights", safetensors_of({"a": entry([-2], [0, 8])}, bytes(8))),
    ("deep header", "can't read weights", safetensors_of(b"[" * 100_000)),
    ("header of text", "can't read weights", safetensors_of(b"not json")),
    ("header without names", "fit", safetensors_of({})),
    ("unknown type", "can't read weights", safetensors_of({"a": entry([2], [0, 8], "F99")}, bytes(8))),
    ("not a number", "fc.bias holds NaN or infinity", changed(_nan)),
    ("infinite", "conv1.0.weight holds NaN or infinity", changed(_infinity)),
    ("complex", "fc.weight", changed(_other_type(torch.complex64))),
    ("whole numbers", "fc.weight", changed(_other_type(torch.int64))),
    ("booleans", "fc.weight", changed(_other_type(torch.bool))),
    ("eight bits", "16 bits or more", changed(_other_type(torch.float8_e4m3fn))),
    ("half", "", changed(_other_type(torch.bfloat16))),
    ("wrong shape", "fc.weight", changed(_put("fc.weight", torch.zeros(10, 7)))),
    (
        "transposed",
        "fc.weight",
        changed(lambda weights: _put("fc.weight", weights["fc.weight"].T.contiguous())(weights)),
    ),
    ("missing name", "fc.bias", changed(lambda weights: weights.pop("fc.bias"))),
    ("extra name", "evil", changed(_put("evil", torch.zeros(3)))),
    ("name of two lines", "two lines", changed(_put("two\nlines", torch.zeros(3)))),
    ("escape sequences", "evil", changed(_put("\x1b[2Jevil", torch.zeros(3)))),
    ("a pickle in disguise", "can't read weights", pickle.dumps(Intruder())),
    ("torch's file in disguise", "can't read weights", pickled({"fc.bias": torch.zeros(3)})),
]
"""Files called model.safetensors in a folder: name, what is said, content."""

SPARSE = torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.tensor([1.0]), (10, 48))
QUANTIZED = torch.quantize_per_tensor(torch.zeros(10, 48), 0.1, 0, torch.qint8)
AS_FILES: list[tuple[str, str, str, Callable[[], bytes]]] = [
    ("empty", "0 bytes", "w.pth", lambda: b""),
    ("text", "w.pth", "w.pth", lambda: b"weights\n"),
    ("torn", "w.pth", "w.pth", lambda: pickled(state())[:-2000]),
    ("torn old format", "w.pth", "w.pth", lambda: pickled(state(), _use_new_zipfile_serialization=False)[:-2000]),
    ("whole old format", "", "w.pth", lambda: pickled(state(), _use_new_zipfile_serialization=False)),
    ("code in pickle", "never code", "w.pth", lambda: pickle.dumps(Intruder())),
    ("code in torch's file", "never code", "w.pth", lambda: pickled({"state_dict": {"a": Intruder()}})),
    ("code as bin", "never code", "w.bin", lambda: pickle.dumps({"fc.bias": Intruder()})),
    ("code without a suffix", "never code", "weights", lambda: pickle.dumps([Intruder()])),
    ("code as safetensors", "can't read weights", "w.safetensors", lambda: pickled(Intruder())),
    ("a whole network", "never code", "w.pth", lambda: pickled(torch.nn.Linear(2, 2))),
    ("a bomb", "unpacks to", "w.pth", bomb),
    ("a petabyte of storage", "w.pth", "w.pth", lying_zip),
    ("a number", "no state dict", "w.pth", lambda: pickled(3)),
    ("a tensor", "no state dict", "w.pth", lambda: pickled(torch.zeros(3))),
    ("a list", "no state dict", "w.pth", lambda: pickled([torch.zeros(3)])),
    ("nothing in it", "w.pth", "w.pth", lambda: pickled({})),
    ("whole numbers as names", "names", "w.pth", lambda: pickled(dict(enumerate(state().values())))),
    ("scalars as tensors", "no state dict", "w.pth", lambda: pickled({"fc.weight": 1.0, "fc.bias": 2})),
    ("no dimensions", "fc.weight", "w.pth", lambda: pickled(state() | {"fc.weight": torch.tensor(1.0)})),
    ("nested dicts", "no state dict", "w.pth", lambda: pickled({"net": {"net": state()}})),
    ("wrapped 300 times", "no state dict", "w.pth", lambda: pickled(wrap(300))),
    ("strided", "", "w.pth", lambda: pickled(state() | {"fc.weight": state()["fc.weight"].T.contiguous().T})),
    ("expanded", "fc.weight", "w.pth", lambda: pickled(state() | {"fc.weight": torch.zeros(1).expand(2**40)})),
    ("sparse", "fc.weight", "w.pth", lambda: pickled(state() | {"fc.weight": SPARSE})),
    ("quantized", "fc.weight", "w.pth", lambda: pickled(state() | {"fc.weight": QUANTIZED})),
    (
        "on no device",
        "fc.weight",
        "w.pth",
        lambda: pickled(state() | {"fc.weight": torch.empty(10, 48, device="meta")}),
    ),
    (
        "many classes",
        "more than the file holds",
        "w.pth",
        lambda: pickled({"fc.weight": torch.zeros(1).expand(2**30, 48)}),
    ),
]
"""Single weight files: name, what is said, file name, content."""


def wrap(times: int) -> dict[str, Any]:
    content: dict[str, Any] = dict(state())
    for _ in range(times):
        content = {"state_dict": content}
    return content


def weight_file(name: str, content: Callable[[], bytes], folder: Path) -> list[str]:
    shape = {"channels": "[16,24,32,48]", "stem_width": "8", "zero_init_last": "false"}
    (folder / name).write_bytes(content())
    more = [word for key, value in shape.items() for word in (f"--model-args.{key}", value)]
    return ["--model", str(folder / name), "--arch", "resnet10t", "--input-size", "64", *more, *SINGLE]


def unusual(folder: Path, make: Callable[[Path], object]) -> list[str]:
    """A checkpoint whose weights are no regular file."""
    arguments = lay_checkpoint(folder, {"model.safetensors": None})
    make(folder / "checkpoint" / "model.safetensors")
    return arguments


def _linked(path: Path) -> None:
    (path.parent.parent / "elsewhere").write_bytes(WHOLE)
    path.symlink_to("../elsewhere")


UNUSUAL: list[tuple[str, str, Callable[[Path], object]]] = [
    ("a folder", "lacks model.safetensors", Path.mkdir),
    ("a pipe", "lacks model.safetensors", os.mkfifo),
    ("a dangling link", "lacks model.safetensors", lambda path: path.symlink_to("nowhere")),
    ("a link loop", "lacks model.safetensors", lambda path: path.symlink_to(path.name)),
    ("a device", "lacks model.safetensors", lambda path: path.symlink_to("/dev/zero")),
    ("a link to a file", "", _linked),
]

CASES = [
    *(
        Case(
            f"weights of a folder: {name}",
            says,
            lambda folder, content=content: lay_checkpoint(folder, {"model.safetensors": content}),
        )
        for name, says, content in IN_FOLDERS
    ),
    *(
        Case(
            f"weight file: {name}", says, lambda folder, file=file, content=content: weight_file(file, content, folder)
        )
        for name, says, file, content in AS_FILES
    ),
    *(
        Case(f"instead of weights: {name}", says, lambda folder, make=make: unusual(folder, make))
        for name, says, make in UNUSUAL
    ),
    Case(
        "a digest that differs",
        "recorded",
        lambda folder: lay_checkpoint(
            folder, {"model.safetensors": changed(_put("fc.bias", torch.ones(10)))}, training=True
        ),
    ),
    Case(
        "a segmenter: tensors cut",
        "can't read weights",
        lambda folder: lay_checkpoint(
            folder, {"model.safetensors": checkpoint_files(True)["model.safetensors"][:-1000]}, True
        ),
        "dea",
    ),
    Case(
        "a segmenter: empty",
        "can't read weights",
        lambda folder: lay_checkpoint(folder, {"model.safetensors": b""}, True),
        "dea",
    ),
]
