"""The network behind `published_difull.npz`, with its weights."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from faithfulness.backbones import Backbone

PUBLISHED = np.load(Path(__file__).with_name("published_difull.npz"))


class MeanHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 6)

    def forward(self, x):
        return self.fc(x.mean(dim=(2, 3)))


def published_backbone():
    features = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1),
        nn.ReLU(),
    )
    head = MeanHead()
    weights = {key.removeprefix("weights/"): torch.tensor(PUBLISHED[key]) for key in PUBLISHED if "weights/" in key}
    features.load_state_dict({k.removeprefix("layers."): v for k, v in weights.items() if k.startswith("layers.")})
    head.load_state_dict({k: v for k, v in weights.items() if k.startswith("fc.")})
    return Backbone(features, head, {"middle": "3", "final": "5"}).eval()
