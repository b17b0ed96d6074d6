import numpy as np
import torch
from scipy import stats

from faithfulness.core.keyed import content_keys, keyed_integers, keyed_normal, keyed_uniform, make_keys


def splitmix64(state, draws):
    """The published generator, in Python integers."""
    mask, out = (1 << 64) - 1, []
    for _ in range(draws):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(z ^ (z >> 31))
    return out


def test_draws_are_splitmix64():
    keys = torch.tensor([0, 1, -5, 2**62])
    draws = keyed_uniform(keys, (7,))
    for key, row in zip(keys.tolist(), draws, strict=True):
        expected = [(z >> 40) / 2**24 for z in splitmix64(key % 2**64, 7)]
        np.testing.assert_array_equal(row.numpy(), np.array(expected, dtype=np.float32))


def test_a_key_draws_the_same_in_any_batch():
    keys = make_keys(3, 1, torch.arange(50))
    assert torch.equal(keyed_uniform(keys, (2, 3))[17], keyed_uniform(keys[17:18], (2, 3))[0])


def test_distributions():
    keys = make_keys(0, torch.arange(200))
    assert stats.kstest(keyed_uniform(keys, (100,)).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(keyed_normal(keys, (100,)).flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.chisquare(np.bincount(keyed_integers(keys, 16, (100,)).flatten().numpy(), minlength=16)).pvalue > 1e-3


def test_neighboring_keys_are_uncorrelated():
    draws = keyed_uniform(make_keys(0, torch.arange(2)), (20000,))
    assert abs(np.corrcoef(draws.numpy())[0, 1]) < 0.03


def test_content_keys_follow_the_pixels():
    images = torch.randn(3, 3, 8, 8)
    keys = content_keys(images)
    assert torch.equal(content_keys(images[1:2])[0], keys[1])
    changed = images.clone()
    changed[0, 0, 0, 0] += 1e-6
    assert content_keys(changed)[0] != keys[0]
    assert len(set(keys.tolist())) == 3
