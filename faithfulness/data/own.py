"""A data set of the user's own: any torch `Dataset` of (image, label) or (image, mask) as the suite's data.

It is given as an object, as a dict of one per split, as a function of the split, or by `path/to/file.py:function`.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import index as as_integer
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from faithfulness.core.checks import kind_of
from faithfulness.core.errors import InputError, unknown_name
from faithfulness.core.plugin_files import call_function, is_in_file, load_function, own_code, own_failure
from faithfulness.data.base import CorruptImage, ImageData, IndexedData, short_digest
from faithfulness.data.pictures import to_rgb
from faithfulness.data.segmentation import VOID, SegmentationData

Data = TypeVar("Data", bound=IndexedData)
MOST_CLASSES = 1_000_000
"""Of data that names none; each gets a name."""
LOOKS = 64
"""How many samples, evenly spread, the fingerprint is made of."""
CLOSE_LOOKS = 1024
"""How many are looked at before what is known of them is used again."""


def open_own(data: Any, split: str, size: int | None, kind: type[Data], wrap: Callable[..., Data]) -> Data:
    """What a user gives as data, for one split: a `kind` as it is, a torch data set wrapped by `wrap`.

    Raises InputError for anything else.
    """
    made = data
    if is_in_file(data):
        made = call_function(load_function(data), data, {"split": split})
    elif isinstance(data, Mapping):
        if split not in data:
            raise unknown_name("split of the data", split, map(str, data))
        made = data[split]
    elif inspect.isclass(data) or (callable(data) and not hasattr(data, "__getitem__")):
        made = call_function(data, _name(data), {"split": split})
    if isinstance(made, kind):
        return made if size is None else made.at_size(size)
    if isinstance(made, IndexedData):
        raise InputError(f"{made.name} is {type(made).__name__}, expected {kind.__name__}")
    if not hasattr(made, "__getitem__") or not hasattr(made, "__len__") or isinstance(made, str | Mapping):
        expected = f"a data set with a length and samples by index, or {kind.__name__}"
        raise InputError(f"{_name(data)} gives {type(made).__name__}, expected {expected}")
    reopen = partial(open_own, data, split, size, kind, wrap) if is_in_file(data) else None
    return wrap(made, split, data if is_in_file(data) else None, reopen)


def _name(data: Any) -> str:
    return data if isinstance(data, str) else str(getattr(data, "name", None) or _class_name(data))


def _class_name(data: Any) -> str:
    return getattr(data, "__name__", type(data).__name__)


def _is_picture(image: Any) -> bool:
    """Whether it is a tensor (3, H, W) with values, of any type."""
    shaped = isinstance(image, Tensor) and image.dim() == 3 and len(image) == 3 and image.numel() > 0
    return shaped and image.layout is torch.strided and not image.is_meta


def _class_names(source: Any, name: str) -> list[str] | None:
    """The names of the classes, where the source has them."""
    named = getattr(source, "classes", None)
    if named is not None and (isinstance(named, str) or not isinstance(named, Iterable)):
        raise InputError(f"{name}.classes is {type(named).__name__}, expected a list of names")
    return None if named is None else [str(each) for each in named]


class _Own:
    """What images with labels and images with masks share: reading the source, and checking what it gives."""

    workers = 0  # in this process: what lives in a notebook or a file of one's own can't always go to another one
    source: Any
    reopen: Callable[[], Any] | None
    classes: list[str]
    name: str
    kind: str | None = None
    """What its images are, by the first that was read: all of one data set are of one kind."""

    def __init__(self, source: Any, split: str, text: str | None, reopen: Callable[[], Any] | None):
        self.source, self.split, self.reopen = source, split, reopen
        self.name = str(getattr(source, "name", None) or text or type(source).__name__)
        with own_code(self.name):
            count = len(self)
        if not count:
            raise InputError(f"{self.name} ({split}) is empty")

    def __len__(self) -> int:
        return len(self.source)

    @property
    def default_size(self) -> int | None:  # type: ignore[override]
        """The side of float images, which are taken as they are; others are resized to whatever a model takes."""
        try:
            image = self.read(0)[0]
        except CorruptImage:
            return None
        if not isinstance(image, Tensor) or not image.is_floating_point() or image.shape[-1] != image.shape[-2]:
            return None
        return image.shape[-1]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A loader process opens what a file of the user's names by itself."""
        return super().__reduce_ex__(protocol) if self.reopen is None else (self.reopen, ())

    def read(self, index: int) -> tuple[Image.Image | Tensor, Any]:
        """Image and label (or mask) as the source has them; the image checked."""
        try:
            with own_code(f"{self.name}[{index}]"):
                sample = self.source[index]
        except OSError as error:
            raise CorruptImage(f"sample {index} of {self.name} can't be read ({error})") from error
        except Exception as error:  # which tells no file and line any more once it has left a loader's process
            if get_worker_info() is None:
                raise
            raise InputError(own_failure(error)) from error
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            got = f"{len(sample)} values" if isinstance(sample, tuple | list) else type(sample).__name__
            raise InputError(f"sample {index} of {self.name} is {got}, expected two, an image and its label")
        return self._checked(sample[0], index), sample[1]

    def _checked(self, image: Any, index: int) -> Image.Image | Tensor:
        if isinstance(image, Image.Image):
            kind, image = "PIL images", to_rgb(image)
        elif _is_picture(image) and image.dtype == torch.uint8:
            kind = "pixels, uint8"
        elif _is_picture(image) and image.is_floating_point():
            kind, image = "normalized images, float", image.float()
        else:
            raise InputError(
                f"sample {index} of {self.name} has {kind_of(image)} as its image, expected a PIL image or a torch "
                "tensor, uint8 or float (3, H, W)"
            )
        self.kind = self.kind or kind
        if kind != self.kind:
            raise InputError(f"{self.name} mixes {self.kind}, and {kind} (sample {index}); expected one kind")
        return image

    def identity(self) -> Iterable[str]:
        """Class, length, and digests of up to 64 samples, evenly spread."""
        yield f"{type(self.source).__name__}/{len(self)}/{','.join(self.classes)}"
        yield from self._looks(_spread(len(self)))

    def state(self, count: int) -> str:
        """By the content of up to 1024 samples, evenly spread."""
        return short_digest(self._looks(_spread(count, CLOSE_LOOKS)))

    def _looks(self, indices: Iterable[int]) -> Iterator[str]:
        for index in indices:
            try:
                yield from map(_digest, self.read(index))
            except CorruptImage:
                yield "can't be read"


def _spread(count: int, most: int = LOOKS) -> list[int]:
    """Up to `most` indices from the first to the last."""
    looks = min(count, most)
    return [place * (count - 1) // max(looks - 1, 1) for place in range(looks)]


def _digest(value: Any) -> str:
    if isinstance(value, Image.Image):
        return hashlib.sha256(value.tobytes()).hexdigest() + str(value.size)
    if isinstance(value, Tensor) and value.dim():
        pixels = value.detach().cpu().contiguous().numpy()
        return hashlib.sha256(pixels.tobytes()).hexdigest() + f"{pixels.dtype}{pixels.shape}"
    return str(value.item() if hasattr(value, "item") else value)


class OwnImages(_Own, ImageData):
    """A torch data set of (image, label).

    Its classes are named by `classes`, else numbered up to the largest label: of `targets` if the data set
    has them, or of one pass over all samples.
    """

    def __init__(
        self, source: Any, split: str = "val", text: str | None = None, reopen: Callable[[], Any] | None = None
    ):
        super().__init__(source, split, text, reopen)
        targets = None if getattr(source, "target_transform", None) else getattr(source, "targets", None)
        self._classes: list[str] | None = None
        self._labels = (
            [self._label(label, index) for index, label in enumerate(targets)]
            if targets is not None and len(targets) == len(self)
            else None
        )
        self._classes = _class_names(source, self.name)

    @property
    def classes(self) -> list[str]:  # type: ignore[override]
        """Names by label; where the source has none, numbers up to the largest label, for which all are read once."""
        if self._classes is None:
            if self._labels is None:
                self._labels = [self._found_label(index) for index in range(len(self))]
            self._classes = [str(number) for number in range(max(self._labels) + 1)]
        return self._classes

    def suits(self, classes: int) -> bool:
        """Whether a model of that many classes fits; where the source names none, not every label need occur."""
        unnamed = getattr(self.source, "classes", None) is None
        read = self._classes is not None or self._labels is not None
        if unnamed and (not read or len(self.classes) < classes):
            self._classes = [str(number) for number in range(classes)]
        return super().suits(classes)

    def _found_label(self, index: int) -> int:
        """The label of a sample, -1 of one that can't be read."""
        try:
            return self._label(self.read(index)[1], index)
        except CorruptImage:
            return -1

    def _label(self, value: Any, index: int) -> int:
        try:
            label = as_integer(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError, RuntimeError):
            got = f"{type(value).__name__} {value!r}"[:60]
            raise InputError(f"sample {index} of {self.name} has {got} as its label, expected an integer") from None
        most = MOST_CLASSES if self._classes is None else len(self._classes)
        if not 0 <= label < most:
            known = f"0 … {most - 1}"
            raise InputError(f"sample {index} of {self.name} has label {label}, expected {known}")
        return label

    def image(self, index: int) -> Image.Image | Tensor:
        return self.read(index)[0]

    def label(self, index: int) -> int:
        return self.example(index)[1] if self._labels is None else self._label(self._labels[index], index)

    def example(self, index: int) -> tuple[Image.Image | Tensor, int]:
        image, label = self.read(index)
        return image, self._label(label, index)


class OwnMasks(_Own, SegmentationData):
    """A torch data set of (image, mask), masks int64 (H, W) with 255 as void.

    Its classes are named by `classes`, else numbered up to the largest in one pass over all masks.
    """

    def __init__(
        self, source: Any, split: str = "val", text: str | None = None, reopen: Callable[[], Any] | None = None
    ):
        super().__init__(source, split, text, reopen)
        named = _class_names(source, self.name)
        if named is None:
            named = range(max(self._highest_label(index) for index in range(len(self))) + 1)
        self.classes = [str(name) for name in named]

    def example(self, index: int) -> tuple[Image.Image | Tensor, Tensor]:
        image, mask = self.read(index)
        size = (image.height, image.width) if isinstance(image, Image.Image) else tuple(image.shape[1:])
        if not isinstance(mask, Tensor) or mask.dtype != torch.int64 or tuple(mask.shape) != size:
            got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise InputError(
                f"sample {index} of {self.name} has {got} as its mask, expected int64 {size}, as its image"
            )
        if int(mask.min()) < 0 or int(mask[mask != VOID].max() if (mask != VOID).any() else 0) >= self._most:
            raise InputError(f"sample {index} of {self.name} has labels beyond its {len(self.classes)} classes")
        return image, mask

    def _highest_label(self, index: int) -> int:
        """The highest class in a mask; 0 of one that can't be read or is void."""
        try:
            mask = self.example(index)[1]
        except CorruptImage:
            return 0
        return int(mask[mask != VOID].max()) if (mask != VOID).any() else 0

    @property
    def _most(self) -> int:
        return len(getattr(self, "classes", ())) or VOID
