"""Documents that cite each other. Predict the subject of each; it is known for one document in a hundred."""

import io
import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.random as jr
import numpy as np
from jaxtyping import Bool, Float32, Int32, PRNGKeyArray

from onward.equilibria.graph import Graph
from onward.support.arguments import whole

from .datasets import DataSet

# Planetoid's own files are pickles, which are never loaded. These files hold the same arrays.
PLANETOID = DataSet(
    "Planetoid",
    "planetoid",
    {
        "cora.npz": "f688d7488494e1cbc1219a18be7b35f90867b5223e9feaf9d5f804d689a5ef8d",
        "pubmed.npz": "c48dfc5c04c1740f6936928e4f87d9753ce99c51b3672023f7f7c5de37284e35",
    },
    None,
)


class Split(NamedTuple):
    """Which documents are for training, validation and testing. No two sets share one."""

    train: Bool[np.ndarray, " nodes"]
    validation: Bool[np.ndarray, " nodes"]
    test: Bool[np.ndarray, " nodes"]


@dataclass(frozen=True)
class NodeTask:
    """Nodes of a graph to classify.

    * `name`: what to call it; `graph`: which nodes are connected;
    * `features`: a row for each node; `labels`: its class, from 0; `classes`: how many there are;
    * `trained`, `validated`: the parts of the nodes for training and validation, those of Liao et al. 2018 by default.

    Raises `ValueError`, with the name, for features or labels of another number of nodes, or labels outside the
    classes.
    """

    name: str
    graph: Graph
    features: Float32[np.ndarray, "_nodes features"]
    labels: Int32[np.ndarray, " _nodes"]
    classes: int
    trained: float = 0.01
    validated: float = 0.49

    def __post_init__(self):
        whole("classes", self.classes, least=2)
        for name, values in (("features", self.features), ("labels", self.labels)):
            if len(values) != self.graph.nodes:
                raise ValueError(f"{name} must be of the graph's {self.graph.nodes} nodes, got {len(values)}.")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= self.classes))
        if wrong.size:
            raise ValueError(
                f"labels must lie between 0 and {self.classes - 1}, got {self.labels[wrong[0]]} for node {wrong[0]}, "
                "counting from 0."
            )

    @property
    def naive_accuracy(self) -> float:
        """The accuracy of always naming the most frequent class."""
        return float(np.bincount(self.labels).max() / len(self.labels))

    def split(self, *, key: PRNGKeyArray) -> Split:
        """A random split into nodes for training, for validation and, the rest, for testing.

        Raises `ValueError` if the part for training is less than one node.
        """
        count = len(self.labels)
        order = np.asarray(jr.permutation(key, count))
        trained, validated = int(self.trained * count), int(self.validated * count)
        if not trained:
            raise ValueError(f"a task must have at least {math.ceil(1 / self.trained)} nodes to be split, got {count}.")
        place = np.empty(count, int)
        place[order] = np.arange(count)
        return Split(place < trained, (place >= trained) & (place < trained + validated), place >= trained + validated)


def cora() -> NodeTask:
    """Cora: 2,708 papers on machine learning in 7 classes, with 5,278 citations. Features are the 64 main components of
    1,433 words.

    Raises `UserError` if the data are missing or wrong.
    """
    return _citations("Cora", "cora.npz", components=64)


def pubmed() -> NodeTask:
    """Pubmed: 19,717 papers on diabetes in 3 classes, with 44,324 citations. Features are the 16 main components of 500
    words.

    Raises `UserError` if the data are missing or wrong.
    """
    return _citations("Pubmed", "pubmed.npz", components=16)


def principal_components(rows: np.ndarray, count: int) -> np.ndarray:
    """The rows, centred, along the `count` directions in which they vary most, in that order, as float32.

    Each direction points where its largest component is above 0.

        >>> principal_components(np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]), 1).ravel().tolist()
        [-2.0, 0.0, 2.0]
    """
    centred = np.asarray(rows, float) - np.mean(rows, 0)
    directions = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :count]
    largest = directions[np.abs(directions).argmax(0), np.arange(count)]
    return (centred @ (directions * np.sign(largest))).astype(np.float32)


def _citations(name: str, file: str, *, components: int) -> NodeTask:
    held = np.load(io.BytesIO(PLANETOID.read(file)), allow_pickle=False)
    words = np.zeros(held["feat_shape"], np.float32)
    rows = np.repeat(np.arange(len(words)), np.diff(held["feat_indptr"]))
    words[rows, held["feat_indices"]] = held["feat_data"]
    labels = held["labels"].astype(np.int32)
    graph = Graph.undirected(held["edges"], nodes=len(words))
    return NodeTask(name, graph, principal_components(words, components), labels, int(labels.max()) + 1)
