"""Which pixels each value of a computation was made from, followed operation by operation without any data.

Every tensor carries labels, element by element as long as it is only cut, copied and put together, and one
label over all its elements after any other operation. So a label may say too much, never too little.
The tensors are fakes that hold no values: the operations that run can't depend on any.
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

Labels = int | NDArray[np.int64]
"""One label of bits for all elements, or one for each."""

aten = torch.ops.aten
COPIES = {aten.clone, aten._to_copy, aten.lift_fresh_copy, aten.alias_copy}
SHAPES_ONLY = {
    *(aten.empty_like, aten.zeros_like, aten.ones_like, aten.full_like, aten.rand_like, aten.randn_like),
    *(aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty_strided),
}
"""Operations that read the shape of a tensor and none of its values."""
UNWRITTEN = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
"""Operations that give memory as it was left, by this call or an earlier one."""
OVERWRITES = {aten.fill_, aten.zero_, aten.bernoulli_, aten.uniform_, aten.normal_, aten.random_, aten.exponential_}
"""Operations that leave nothing of what was in the tensor they write."""
DECISIONS = {aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select, aten.item}
"""Operations that hand values, or a number of them, to the code that runs next."""


@no_type_check  # every operation of a network comes by here: checked types would take most of the time
class Dataflow(TorchDispatchMode):
    """Follows labels through all operations inside the block; enter it after a `FakeTensorMode`.

    Args:
        constant: modules whose parameters and buffers are read as constants; whoever writes one is recorded.
        earlier: the label of whatever an earlier call has left behind.
    Attributes:
        doubts: why the trace shows less than it should, in words.
        decided: labels of the values that the code of this call has looked at.
    """

    def __init__(self, constant: list[nn.Module], earlier: int):
        super().__init__()
        self.earlier, self.doubts, self.decided = earlier, dict[str, None](), 0
        self._storages: dict[int, tuple[StorageWeakRef, int, Labels]] = {}
        tensors = [tensor for module in constant for tensor in (*module.parameters(), *module.buffers())]
        self._constants = {_key(tensor): tensor for tensor in tensors}

    def label(self, tensor: Tensor, labels: Labels) -> None:
        """Say where a tensor's values come from; an array is shaped like the tensor."""
        storage = tensor.untyped_storage()
        width, known = tensor.element_size(), self._storages.get(_key(tensor))
        if isinstance(labels, np.ndarray) and (labels.size == 0 or (labels == labels.flat[0]).all()):
            labels = int(labels.flat[0]) if labels.size else 0
        whole = tensor.numel() * width == storage.nbytes()
        if not isinstance(labels, np.ndarray) and (known is None or whole):
            self._storages[_key(tensor)] = (StorageWeakRef(storage), width, labels)
            return
        content = np.zeros(storage.nbytes() // width, dtype=np.int64)
        if known is not None:
            content[:] = known[2] if known[1] == width else _union(known[2])
        _view(content, tensor)[...] = labels
        self._storages[_key(tensor)] = (StorageWeakRef(storage), width, content)

    def labels(self, tensor: Tensor) -> Labels:
        """Where a tensor's values come from: one label, or an array shaped like the tensor."""
        known = self._storages.get(_key(tensor))
        if known is None:
            if isinstance(tensor, FakeTensor) or _key(tensor) in self._constants:
                return 0
            self.doubts.setdefault("it reads a tensor that is neither parameter nor buffer, which may be a memory")
            return 0
        _, width, labels = known
        if isinstance(labels, int):
            return labels
        return _view(labels, tensor) if width == tensor.element_size() else _union(labels)

    def union(self, tensor: Tensor) -> int:
        """All labels of a tensor's elements together."""
        return _union(self.labels(tensor))

    def forget(self) -> None:
        """From here on, whatever was labeled came from an earlier call."""
        self._storages = {
            key: (storage, width, self.earlier if _union(labels) else 0)
            for key, (storage, width, labels) in self._storages.items()
            if not storage.expired()
        }
        self.decided = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = {**dict(zip((a.name for a in func._schema.arguments), args, strict=False)), **(kwargs or {})}
        inputs = [tensor for value in arguments.values() for tensor in _tensors(value)]
        packet = func.overloadpacket
        read = inputs[1:] if packet in OVERWRITES else inputs
        everything = 0 if packet in SHAPES_ONLY else _union_of(self.union(tensor) for tensor in read)
        written = [t for a in func._schema.arguments if _writes(a) for t in _tensors(arguments.get(a.name))]
        if arguments.get("training") is True or arguments.get("train") is True:
            self.doubts.setdefault(f"{packet.__name__} runs in training mode")
        if any(isinstance(value, torch.UntypedStorage | torch.TypedStorage) for value in arguments.values()):
            self.doubts.setdefault(f"{packet.__name__} reads a storage past its tensors")
        if packet in DECISIONS and everything:
            self.decided |= everything
            self.doubts.setdefault("its code decides by values of the input")
        made = self.earlier if packet in UNWRITTEN else self._moved(packet, arguments, inputs)
        result = _shortcut(packet, arguments)
        result = func(*args, **(kwargs or {})) if result is None else result
        for tensor in written:
            if _key(tensor) in self._constants or not isinstance(tensor, FakeTensor):
                self.doubts.setdefault("it writes into a parameter, a buffer, or another tensor of its own")
            self.label(tensor, everything if made is None else made)
        for tensor in _tensors(result):
            if _key(tensor) not in self._storages and not any(tensor is each for each in written):
                self.label(tensor, everything if made is None else made)
        return result

    def _moved(self, packet: Any, arguments: dict[str, Any], inputs: list[Tensor]) -> Labels | None:
        """Labels, element by element, of what is merely copied or put together; None for the rest."""
        if packet in COPIES:
            return _copy(self.labels(inputs[0]))
        if packet is aten._unsafe_view:
            labels = self.labels(inputs[0])
            return labels if isinstance(labels, int) else labels.reshape(arguments["size"])
        if packet is aten.copy_:
            target, source = arguments["self"], self.labels(arguments["src"])
            return source if isinstance(source, int) else np.broadcast_to(source, target.shape).copy()
        if packet in (aten.cat, aten.stack):
            parts = [self._full(tensor) for tensor in inputs if tensor.shape != (0,)]
            join = np.concatenate if packet is aten.cat else np.stack
            return join(parts, axis=arguments.get("dim", 0)) if parts else None
        return None

    def _full(self, tensor: Tensor) -> NDArray[np.int64]:
        labels = self.labels(tensor)
        return np.full(tuple(tensor.shape), labels) if isinstance(labels, int) else labels


@no_type_check
def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for each in value for t in _tensors(each)] if isinstance(value, (list, tuple)) else []


@no_type_check
def _shortcut(packet: Any, arguments: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor] | None:
    """What normalization by constants returns, without torch's slow way to find its shape; None for the rest."""
    if packet is not aten.native_batch_norm or arguments.get("training") is not False:
        return None
    empty = torch.empty_like(arguments["input"])
    return empty, empty.new_empty(0), empty.new_empty(0)


@no_type_check
def _writes(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


@no_type_check
def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@no_type_check
def _view(content: NDArray[np.int64], tensor: Tensor) -> NDArray[np.int64]:
    """The part of a storage's elements that a tensor shows."""
    strides = [stride * content.itemsize for stride in tensor.stride()]
    return np.lib.stride_tricks.as_strided(content[tensor.storage_offset() :], tuple(tensor.shape), strides)


@no_type_check
def _copy(labels: Labels) -> Labels:
    return labels if isinstance(labels, int) else labels.copy()


@no_type_check
def _union(labels: Labels) -> int:
    return labels if isinstance(labels, int) else int(np.bitwise_or.reduce(labels, axis=None)) if labels.size else 0


@no_type_check
def _union_of(labels: Any) -> int:
    found = 0
    for label in labels:
        found |= label
    return found
