"""The options of `onward import`, each with its check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .options import one_of, option

torch_activation = one_of("activation", ("tanh", "relu"))


@dataclass(frozen=True)
class ImportOptions:
    """Import the weights of a torch.nn.RNN, LSTM or GRU with a torch.nn.Linear as its readout.

    The input is a safetensors file with the module's state dict. The output is a model that onward.load_model reads.

    Needs: pip install 'onward[export]'.
    """

    file: Annotated[Path | None, *option("FILE", "none; it must be given", Path, positional=True)] = None
    """The safetensors file."""
    to: Annotated[Path | None, *option("FOLDER", "none; it must be given", Path)] = None
    """The folder for the model, new or empty."""
    activation: Annotated[str | None, *option("NAME", "the file's, else tanh", torch_activation)] = None
    """The activation of a torch.nn.RNN, tanh or relu. The weights do not contain it."""
