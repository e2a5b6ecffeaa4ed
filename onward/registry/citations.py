"""The papers behind each estimator, optimiser, cell and reproduced figure, as BibTeX."""

from collections.abc import Iterable

# The papers behind a name of the registry. A name without a particular author has none.
ESTIMATORS = {
    "tbptt": ("tbptt",),
    "sliding": ("tbptt",),
    "artbp": ("artbp",),
    "rtrl": ("rtrl",),
    "snap": ("snap",),
    "uoro": ("uoro",),
    "nobacktrack": ("nobacktrack",),
    "fpp": ("fpp",),
}
OPTIMIZERS = {"kalman": ("nobacktrack",), "adam": ("adam",), "rmsprop": ("rmsprop",), "fptt": ("fptt", "adam")}
CELLS = {"lstm": ("lstm",), "gru": ("gru",), "antisymmetric": ("antisymmetric",)}
FIGURES = {"nobacktrack": ("nobacktrack",), "fptt": ("fptt",), "rbp": ("rbp",), "fpp": ("fpp",)}

PAPERS = {
    "nobacktrack": """@article{ollivier2015nobacktrack,
  title = {Training recurrent networks online without backtracking},
  author = {Ollivier, Yann and Tallec, Corentin and Charpiat, Guillaume},
  journal = {arXiv preprint arXiv:1507.07680},
  year = {2015},
}""",
    "fptt": """@inproceedings{kag2021fptt,
  title = {Training recurrent neural networks via forward propagation through time},
  author = {Kag, Anil and Saligrama, Venkatesh},
  booktitle = {International Conference on Machine Learning},
  year = {2021},
}""",
    "rbp": """@inproceedings{liao2018rbp,
  title = {Reviving and improving recurrent back-propagation},
  author = {Liao, Renjie and Xiong, Yuwen and Fetaya, Ethan and Zhang, Lisa and Yoon, KiJung and Pitkow, Xaq
            and Urtasun, Raquel and Zemel, Richard},
  booktitle = {International Conference on Machine Learning},
  year = {2018},
}""",
    "fpp": """@mastersthesis{nath2019fpp,
  title = {Fixed point propagation: a new way to train recurrent neural networks using auxiliary variables},
  author = {Nath, Somjit},
  school = {University of Alberta},
  year = {2019},
}""",
    "uoro": """@inproceedings{tallec2018uoro,
  title = {Unbiased online recurrent optimization},
  author = {Tallec, Corentin and Ollivier, Yann},
  booktitle = {International Conference on Learning Representations},
  year = {2018},
}""",
    "artbp": """@article{tallec2017artbp,
  title = {Unbiasing truncated backpropagation through time},
  author = {Tallec, Corentin and Ollivier, Yann},
  journal = {arXiv preprint arXiv:1705.08209},
  year = {2017},
}""",
    "rtrl": """@article{williams1989rtrl,
  title = {A learning algorithm for continually running fully recurrent neural networks},
  author = {Williams, Ronald J. and Zipser, David},
  journal = {Neural Computation},
  volume = {1},
  number = {2},
  pages = {270--280},
  year = {1989},
}""",
    "snap": """@inproceedings{menick2021snap,
  title = {Practical real time recurrent learning with a sparse approximation},
  author = {Menick, Jacob and Elsen, Erich and Evci, Utku and Osindero, Simon and Simonyan, Karen and Graves, Alex},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
}""",
    "tbptt": """@article{williams1990tbptt,
  title = {An efficient gradient-based algorithm for on-line training of recurrent network trajectories},
  author = {Williams, Ronald J. and Peng, Jing},
  journal = {Neural Computation},
  volume = {2},
  number = {4},
  pages = {490--501},
  year = {1990},
}""",
    "adam": """@inproceedings{kingma2015adam,
  title = {Adam: a method for stochastic optimization},
  author = {Kingma, Diederik P. and Ba, Jimmy},
  booktitle = {International Conference on Learning Representations},
  year = {2015},
}""",
    "rmsprop": """@misc{tieleman2012rmsprop,
  title = {Lecture 6.5, RMSProp: divide the gradient by a running average of its recent magnitude},
  author = {Tieleman, Tijmen and Hinton, Geoffrey},
  howpublished = {COURSERA: Neural Networks for Machine Learning},
  year = {2012},
}""",
    "lstm": """@article{hochreiter1997lstm,
  title = {Long short-term memory},
  author = {Hochreiter, Sepp and Schmidhuber, J{\\"u}rgen},
  journal = {Neural Computation},
  volume = {9},
  number = {8},
  pages = {1735--1780},
  year = {1997},
}""",
    "gru": """@inproceedings{cho2014gru,
  title = {Learning phrase representations using {RNN} encoder-decoder for statistical machine translation},
  author = {Cho, Kyunghyun and van Merri{\\"e}nboer, Bart and Gulcehre, Caglar and Bahdanau, Dzmitry and Bougares, Fethi
            and Schwenk, Holger and Bengio, Yoshua},
  booktitle = {Conference on Empirical Methods in Natural Language Processing},
  year = {2014},
}""",
    "antisymmetric": """@inproceedings{chang2019antisymmetric,
  title = {{AntisymmetricRNN}: a dynamical system view on recurrent neural networks},
  author = {Chang, Bo and Chen, Minmin and Haber, Eldad and Chi, Ed H.},
  booktitle = {International Conference on Learning Representations},
  year = {2019},
}""",
}


def papers(
    *, estimators: Iterable[str] = (), optimizers: Iterable[str] = (), cells: Iterable[str] = (), figure: str = ""
) -> list[str]:
    """The BibTeX entries of the papers behind these names of the registry, each once. `figure` is a figure's name, such
    as `fptt/fig1`.

    >>> len(papers(estimators=["nobacktrack"], optimizers=["kalman"], cells=["vanilla"]))
    1
    """
    named = [*(ESTIMATORS.get(name, ()) for name in estimators), *(OPTIMIZERS.get(name, ()) for name in optimizers)]
    named += [*(CELLS.get(name, ()) for name in cells), FIGURES.get(figure.partition("/")[0], ())]
    return [PAPERS[paper] for paper in dict.fromkeys(paper for group in named for paper in group)]
