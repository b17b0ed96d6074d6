import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from eval.frame.correlations import correlate
from eval.mlatt import REFERENCE


def test_correlation_is_scipys():
    rng = np.random.default_rng(0)
    names = [("gradcam", "final"), ("ixg", "input")]
    frames = [
        pd.DataFrame(
            {"index": np.repeat(np.arange(30), 4), "cell": np.tile(np.arange(4), 30), "localization": rng.random(120)}
        )
        for _ in names
    ]
    frames = [
        frame.assign(setting="gridpg", scale=2, attribution=name, layer=layer, kernel=1, kernel_of_map=1)
        for frame, (name, layer) in zip(frames, names, strict=True)
    ]
    found = correlate(pd.concat(frames).sample(frac=1, random_state=0), REFERENCE, 0)
    expected = spearmanr(frames[0].localization, frames[1].localization).statistic
    by_name = {row["attribution"]: row for row in found}
    assert by_name["ixg"]["spearman"] == pytest.approx(expected, abs=1e-12)
    assert by_name["ixg"]["ci95"][0] < expected < by_name["ixg"]["ci95"][1]
