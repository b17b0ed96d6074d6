"""A moving average of the weights: it is validated, chosen and exported, and the training goes on without it."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

CURRENT = "current_model_state"
"""What a checkpoint calls the weights that are trained, as Lightning does; its `state_dict` is the average."""
_PREFIX = "backbone."


class MovingAverage(L.Callback):
    """Exponential moving average of the network's weights and of BatchNorm's statistics, step by step.

    It begins as the weights after the first step w_1; each further one gives decay · average + (1 − decay) · w.
    Whole numbers (how many batches BatchNorm has seen) aren't averaged. Lightning's own `EMAWeightAveraging` would copy
    the module with its data, average whole numbers, and keep statistics that differ from process to process, so that
    a resumed run would be another one.

    Source: torch.optim.swa_utils.AveragedModel; Polyak and Juditsky 1992.
    """

    def __init__(self, decay: float):
        self.decay, self._update = decay, get_ema_multi_avg_fn(decay)
        self._weights: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}
        self._kept: list[Tensor] = []
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """The weights are where they stay; an average that a checkpoint held goes there as well."""
        state = pl_module.backbone.state_dict()
        self._weights = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
        self._average = {name: tensor.to(self._weights[name]) for name, tensor in self._average.items()}
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:  # a part of a batch, no step yet
            return
        self._step = trainer.global_step
        if self._average:
            self._update(list(self._average.values()), list(self._weights.values()), 0)
        else:
            self._average = {name: tensor.clone() for name, tensor in self._weights.items()}

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Put the average in place of the weights: that of the first process, as the checkpoint has it."""
        if trainer.world_size > 1:
            for tensor in self._average.values():
                torch.distributed.broadcast(tensor, 0)
        self._kept = [tensor.clone() for tensor in self._weights.values()]
        self._put(list(self._average.values()))

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Put the weights back."""
        self._put(self._kept)
        self._kept = []

    def _put(self, values: list[Tensor]) -> None:
        for tensor, value in zip(self._weights.values(), values, strict=True):
            tensor.copy_(value)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Both: what is exported, and what the training goes on with."""
        checkpoint[CURRENT] = checkpoint["state_dict"]
        average = {_PREFIX + name: tensor for name, tensor in self._average.items()}
        checkpoint["state_dict"] = {**checkpoint[CURRENT], **average}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Lightning has loaded the average by now, and the weights follow."""
        self._average = {
            name.removeprefix(_PREFIX): tensor.clone()
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith(_PREFIX) and tensor.is_floating_point()
        }
        pl_module.load_state_dict(checkpoint[CURRENT])
