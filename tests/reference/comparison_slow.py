"""Paired differences, one image and one resample after the other, and Kendall's τ-b pair by pair."""

import numpy as np


def slow_difference(a, b, images, equal=False):
    """Means of a, b and a − b over the pairs that both have; with `equal`, of the images' own means."""
    kept = [(image, x, y) for image, x, y in zip(images, a, b, strict=True) if not (np.isnan(x) or np.isnan(y))]
    if equal:
        numbers = sorted({image for image, _, _ in kept})
        kept = [(n, *np.mean([(x, y) for image, x, y in kept if image == n], axis=0)) for n in numbers]
    if not kept:
        return (np.nan, np.nan, np.nan)
    return tuple(float(np.mean([pick(x, y) for _, x, y in kept])) for pick in (first, second, lambda x, y: x - y))


def first(x, y):
    return x


def second(x, y):
    return y


def slow_draws(a, b, images, seed, resamples, equal=False):
    """The mean difference of images drawn with replacement, each with all its pairs."""
    numbers, generator, found = np.unique(images), np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = generator.integers(len(numbers), size=len(numbers))
        places = [np.flatnonzero(images == numbers[place]) for place in drawn]
        rows = np.concatenate(places)
        copies = np.concatenate([np.full(len(place), number) for number, place in enumerate(places)])
        found.append(slow_difference(a[rows], b[rows], copies, equal)[2])
    return np.array(found)


def slow_kendall(a, b):
    """Concordant minus discordant pairs, over the pairs that don't tie in either, as τ-b has it."""
    agree = ties_a = ties_b = pairs = 0
    for i in range(len(a)):
        for j in range(i):
            pairs += 1
            ties_a += a[i] == a[j]
            ties_b += b[i] == b[j]
            agree += int(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]))
    below = np.sqrt(float((pairs - ties_a) * (pairs - ties_b)))
    return agree / below if below else np.nan
