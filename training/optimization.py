"""What a recipe is made of in torch: the optimizer and its schedule, the loss."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from training.recipe import Loss, Recipe


def make_optimizer(
    recipe: Recipe, model: nn.Module, total_steps: int, steps_per_epoch: int
) -> tuple[Optimizer, LRScheduler]:
    """The optimizer, and a schedule that is stepped once per batch."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.optimizer == "sgd":
        optimizer: Optimizer = SGD(parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    else:
        optimizer = AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay)
    if recipe.schedule == "step":
        return optimizer, StepLR(optimizer, recipe.step_epochs * steps_per_epoch, gamma=0.1)
    return optimizer, OneCycleLR(optimizer, recipe.lr, total_steps=max(total_steps, 1), cycle_momentum=False)


def loss_function(name: Loss) -> nn.Module:
    """`binary_cross_entropy` takes one-hot targets, as B-cos networks are trained."""
    return nn.CrossEntropyLoss() if name == "cross_entropy" else OneHotBinaryCrossEntropy()


class OneHotBinaryCrossEntropy(nn.BCEWithLogitsLoss):
    """Binary cross entropy of logits (B, classes) with one-hot targets: the mean over batch and classes.

    Source: the published `BCEWithLogitsLoss()` of B-cos networks (Hesse et al. 2024, appendix).
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (B, classes) and labels (B,)."""
        return super().forward(input, nn.functional.one_hot(target, input.shape[1]).to(input.dtype))
