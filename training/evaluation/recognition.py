"""Recognition of classes by a linear classifier of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluation.distances import Features, Indices

RIDGE = 0.1  # of the squared weights, for each item; features have unit variance
FOLDS = 4


class Classifier:
    """Ridge regression from features to classes: it has a closed form and needs few items.

    Args:
        features: float (N, d).
        labels: class of each.
    """

    def __init__(self, features: Features, labels: Indices) -> None:
        self.classes = np.unique(labels)
        self.mean, self.spread = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
        x = self._scaled(features)
        wanted = (labels[:, None] == self.classes).astype(np.float64)
        self.shares = wanted.mean(axis=0)
        y, penalty, (count, width) = wanted - self.shares, RIDGE * len(x), x.shape
        if count < width:  # both forms are equal: the smaller system is solved
            self.weights = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(count), y)
        else:
            self.weights = np.linalg.solve(x.T @ x + penalty * np.eye(width), x.T @ y)

    def __call__(self, features: Features) -> Indices:
        """Return the class of each item, int64 (N)."""
        return self.classes[(self._scaled(features) @ self.weights + self.shares).argmax(axis=1)].astype(np.int64)

    def _scaled(self, features: Features) -> NDArray[np.float64]:
        return (features.astype(np.float64) - self.mean) / self.spread


def classifier_of_views(views: Sequence[Features], labels: Indices) -> Classifier:
    """Return a classifier of several views of the same items.

    Samples of a generator are decoded by its tokenizer, which smooths fine texture. A classifier of real items alone
    may know a class by that texture, and then does not recognise even reconstructions that show all objects of the
    class. So the views may be the items and their reconstructions.

    Args:
        views: each float (N, d), of the same items in the same order.
        labels: class of each item.
    """
    return Classifier(np.concatenate(views), np.tile(labels, len(views)))


@dataclass(frozen=True)
class Recognition:
    """Shares of what one classifier recognises.

    Args:
        samples: of each class, by its name.
        real, reconstructions: of real items and of their reconstructions, by classifiers of the other items in four
            folds, the means over classes; None for too few.
    """

    samples: dict[str, float]
    real: float | None
    reconstructions: float | None


def recognise(
    taught: Sequence[Features],
    pairs: tuple[Features, Features],
    samples: Features,
    labels: Indices,
    names: Sequence[str],
    seed: int,
) -> Recognition:
    """Return the shares of a classifier of the views `taught`.

    Args:
        taught: as `views` of `classifier_of_views`.
        pairs: real items and their reconstructions, both float (N, d).
        samples: float (N, d), of the same classes.
        labels: class of each real item and of each sample.
        names: of the classes.
        seed: of the folds.
    """
    right = classifier_of_views(taught, labels)(samples) == labels
    shares = {name: float(right[labels == label].mean()) for label, name in enumerate(names) if (labels == label).any()}
    real, reconstructions = held_out_accuracy(taught, pairs, labels, seed) or (None, None)
    return Recognition(shares, real, reconstructions)


def held_out_accuracy(
    taught: Sequence[Features], judged: Sequence[Features], labels: Indices, seed: int
) -> tuple[float, ...] | None:
    """Return the share of items that a classifier of the others recognises, in four folds: the means over classes.

    Args:
        taught: as `views` of `classifier_of_views`.
        judged: views of the same items that are recognised; all views of an item are in one fold.
        labels: class of each item.
        seed: of the folds.

    Returns:
        The share of each judged view; None where a class has fewer items than folds.
    """
    if np.unique(labels, return_counts=True)[1].min() < FOLDS:
        return None
    fold = np.empty(len(labels), np.int64)
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    for label in classes:
        own = rng.permutation(np.flatnonzero(labels == label))
        fold[own] = np.arange(len(own)) % FOLDS
    right = np.zeros((len(judged), len(labels)), bool)
    for index in range(FOLDS):
        out = fold == index
        classify = classifier_of_views([view[~out] for view in taught], labels[~out])
        for row, view in zip(right, judged, strict=True):
            row[out] = classify(view[out]) == labels[out]
    return tuple(float(np.mean([row[labels == label].mean() for label in classes])) for row in right)
