"""Pictures and labels in parquet files, as data sets on the Hugging Face Hub keep them, looked up by row.

Read with pyarrow, a row group at a time, and not by timm's `ReaderHfds`: that needs `datasets`, which copies the data
into a cache of its own, asserts where a row has no picture, and says nothing of where a row lies. Nothing that a file
says of its size is believed before memory is taken for it. A picture costs its row group unless that is kept: with the
Hub's 100 rows of some 110 kB about 1 ms in order, and 14 ms at random, as in training on more than fits `KEPT`.
"""

from __future__ import annotations

import json
import stat
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faithfulness.core.errors import InputError, shown

OF_PARQUET = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises where a file isn't what it says."""
LARGEST_GROUP = 1 << 30
"""Bytes of pictures in a row group; the Hub's have some 10 million in 100 rows."""
_AT_ONCE = 1 << 28
KEPT = 1 << 28
"""Bytes of row groups that a process keeps."""
MOST_ROWS, MOST_NAMES, LONGEST_NAME = 50_000_000, 100_000, 1000
_MOST_OPEN = 8
_PICTURES = ("image", "img", "picture", "photo", "jpg", "png")
_LABELS = ("label", "labels", "fine_label", "class", "target")


class Columns(NamedTuple):
    """Which columns hold pictures and labels.

    `picture` is the path of the encoded bytes, such as `image.bytes`; `names` are the classes that the labels'
    type has, or None.
    """

    picture: str
    label: str
    names: list[str] | None


def open_parquet(path: Path) -> pq.ParquetFile:
    """A parquet file; InputError for anything else, a pipe or a cut one too."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("not a regular file")
        return pq.ParquetFile(path)
    except OF_PARQUET as error:
        raise InputError(f"{path} is no parquet file: {shown(str(error), 200)}") from error


def find_columns(schema: pa.Schema, features: dict[str, Any] | None, where: object) -> Columns:
    """The columns of pictures and labels, by their type where the data says it, and by the usual names.

    Args:
        schema: of a file; what `datasets` wrote beside it comes before `features`.
        features: name -> {"_type": ..., "names": ...}, from the card of the data set.
        where: the file, for messages.
    Raises:
        InputError: no such column, or several and none with a usual name.
    """
    features = _features_beside(schema, where) or features or {}
    kinds = {field.name: field.type for field in schema if "." not in field.name}
    typed = {name: _type_of(features.get(name)) for name in kinds}
    pictures = [name for name, kind in kinds.items() if _leaf(name, kind)]
    pictures = [name for name in pictures if typed[name] == "Image"] or pictures
    labels = [name for name, kind in kinds.items() if _is_label(kind)]
    usual = [name for name in labels if name in _LABELS]
    labels = [name for name in labels if typed[name] == "ClassLabel"] or usual
    picture = _choose("pictures, {bytes, path} or bytes,", pictures, _PICTURES, kinds, where)
    label = _choose("labels, numbers or texts,", labels, _LABELS, kinds, where)
    names = features[label].get("names") if typed[label] == "ClassLabel" else None
    if names is not None and not pa.types.is_integer(kinds[label]):
        names = None
    return Columns(_leaf(picture, kinds[picture]), label, None if names is None else _checked_names(names, where))


def _features_beside(schema: pa.Schema, where: object) -> dict[str, Any] | None:
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        features = json.loads(text)["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{where}: what datasets wrote of its columns can't be read ({type(error).__name__})"
        ) from error
    if not isinstance(features, dict):
        raise InputError(
            f"{where}: what datasets wrote of its columns is {type(features).__name__}, expected a mapping"
        )
    return features


def _type_of(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, dict) else None


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _leaf(name: str, kind: pa.DataType) -> str:
    """The path of the encoded pictures in a column; empty if it holds none."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type):
        return f"{name}.bytes"
    return name if _is_bytes(kind) else ""


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_label(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or _is_text(kind)


def _choose(what: str, found: list[str], usual: Sequence[str], columns: Iterable[str], where: object) -> str:
    for name in usual:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    have = shown(", ".join(found or columns), 200) or "none"
    raise InputError(f"{where}: expected a column of {what} named {', '.join(usual[:3])}; there are {have}")


def _checked_names(names: Any, where: object) -> list[str]:
    """Class names as a list, or as the card of a data set numbers them."""
    if isinstance(names, dict):
        names = [names.get(str(number), names.get(number)) for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: the names of its classes are no list of texts")
    _check_names(names, where)
    return names


def _check_names(names: Collection[str], where: object) -> None:
    """Raise InputError for what can't be names of classes."""
    if len(names) > MOST_NAMES or any(len(name) > LONGEST_NAME for name in names):
        raise InputError(
            f"{where}: expected at most {MOST_NAMES} names of classes, each of at most {LONGEST_NAME} letters"
        )


def read_labels(files: Sequence[Path], column: str) -> tuple[NDArray[np.int64], list[str] | None]:
    """The labels of all rows (N,), int64, and what they stand for where they are texts: names sorted, or None.

    Raises InputError for a row without one.
    """
    parts, names = [np.empty(0, np.int64)], {}
    for path in files:
        try:
            parts += _labels_of(path, column, names)
        except OF_PARQUET as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: can't read the labels in {column} ({shown(str(error), 200)})") from error
    labels = np.concatenate(parts)
    if not names:
        return labels, None
    ordered = sorted(names)
    place = {name: number for number, name in enumerate(ordered)}
    return np.array([place[name] for name in names])[labels], ordered


def _labels_of(path: Path, column: str, names: dict[str, int]) -> list[NDArray[np.int64]]:
    """Of one file, in parts; texts are numbered by `names`, which grows, and each is unpacked once."""
    parts = []
    with open_parquet(path) as plain:
        texts = _is_text(plain.schema_arrow.field(column).type)
    with pq.ParquetFile(path, read_dictionary=[column] if texts else None) as file:
        for batch in file.iter_batches(65_536, columns=[column], use_threads=False):
            values = batch.column(0)
            if values.null_count:
                raise InputError(f"{path}: {values.null_count} rows have no {column}")
            if not texts:
                parts.append(values.cast(pa.int64()).to_numpy())
                continue
            codes = [names.setdefault(name, len(names)) for name in values.dictionary.to_pylist()]
            _check_names(names, f"{path}, {column}")
            parts.append(np.array(codes, np.int64)[values.indices.to_numpy()])
    return parts


class PictureRows:
    """The encoded pictures of parquet files by row, over all files in their order.

    A process keeps what it has read, up to `KEPT` bytes. Copies that go to loader processes hold no open file.

    Raises:
        InputError: files with other columns than the first, a row group too large to be held, no rows.
    """

    def __init__(self, files: Sequence[Path], columns: Columns):
        self.files, self.columns = list(files), columns
        groups, lengths, self._first = [], [], []
        kinds = None
        for number, path in enumerate(files):
            with open_parquet(path) as file:
                fields = [_field(file.schema_arrow, name, path) for name in (columns.picture, columns.label)]
                kinds = kinds or fields
                if fields != kinds:
                    raise InputError(f"{path} has other types of columns than {files[0]}")
                self._first.append(sum(lengths))
                for group, (rows, batch) in enumerate(_sizes(file, path)):
                    groups.append((number, group, batch))
                    lengths.append(rows)
            if sum(lengths) > MOST_ROWS:
                raise InputError(f"{path}: expected at most {MOST_ROWS} rows, got {sum(lengths)}")
        self._groups, self._starts = groups, np.cumsum([0, *lengths])
        if not len(self):
            raise InputError(f"no rows in {', '.join(map(str, files[:3]))}")
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        """Without open files and what was read."""
        return {**self.__dict__, "_open": OrderedDict(), "_kept": OrderedDict()}

    def where(self, row: int) -> str:
        """The file that a row is in, and its number there, from 0."""
        file = int(np.searchsorted(self._first, row, side="right")) - 1
        return f"{self.files[file]}, row {row - self._first[file]}"

    def read(self, row: int) -> bytes:
        """The encoded picture of a row; ValueError, or an error of `OF_PARQUET`, says why there is none."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group not in self._kept:
            self._kept[group] = self._read_group(group)
        self._kept.move_to_end(group)
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > KEPT:
            self._kept.popitem(last=False)
        content = self._kept[group][row - int(self._starts[group])].as_py()
        if not content:
            raise ValueError("the row holds no bytes")
        return content

    def _read_group(self, number: int) -> pa.ChunkedArray:
        file_number, group, batch = self._groups[number]
        if file_number not in self._open:
            self._open[file_number] = open_parquet(self.files[file_number])
        self._open.move_to_end(file_number)
        if len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        parts, size = [], 0
        for found in self._open[file_number].iter_batches(batch, [group], [self.columns.picture], use_threads=False):
            values = found.column(0)
            parts.append(values.flatten()[0] if pa.types.is_struct(values.type) else values)
            size += parts[-1].nbytes
            if size > LARGEST_GROUP:
                raise ValueError(f"its row group unpacks to more than {LARGEST_GROUP >> 20} MiB")
        expected, got = int(self._starts[number + 1] - self._starts[number]), sum(map(len, parts))
        if got != expected:
            raise ValueError(f"its row group has {got} rows, and {expected} when the data was opened")
        return pa.chunked_array(parts)


def _field(schema: pa.Schema, name: str, path: Path) -> pa.DataType:
    """The type of a column, or of the bytes in it."""
    top, _, inner = name.partition(".")
    place = schema.get_field_index(top)
    kind = schema.field(place).type if place >= 0 else None
    if inner and kind is not None:
        kind = kind.field(inner).type if pa.types.is_struct(kind) and kind.get_field_index(inner) >= 0 else None
    if kind is None:
        raise InputError(f"{path} has no column {name}; there are {shown(', '.join(schema.names), 200)}")
    return kind


def _sizes(file: pq.ParquetFile, path: Path) -> list[tuple[int, int]]:
    """Of each row group the rows, and how many of them may be unpacked at once.

    One entry of a dictionary may stand for every row, so that what unpacks to terabytes takes kilobytes. What is said
    of the group's columns isn't looked at: there pyarrow (26.0) ends the process over a damaged footer.
    """
    sizes = []
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        size, rows = group.total_byte_size, group.num_rows
        if not 0 <= size <= LARGEST_GROUP or rows < 0:
            raise InputError(
                f"{path}: row group {number} says that it holds {size >> 20} MiB, expected at most "
                f"{LARGEST_GROUP >> 20}; write it again with smaller ones, as the Hub has them (100 rows)"
            )
        sizes.append((rows, max(1, min(rows, _AT_ONCE // max(size, 1)))))
    return sizes
