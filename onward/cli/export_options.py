"""The options of `onward export`, each with its check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .options import one_of, option

LAYOUTS = ("onward", "torch", "onnx")


@dataclass(frozen=True)
class ExportOptions:
    """Export the model in the newest checkpoint of a run of onward train or onward stream.

    One file holds the model's numbers. A card beside it describes them: the alphabet or the scales of the columns, the
    settings, and how to pass the state in and out.

    The numbers are safetensors or ONNX, and the card is JSON; nothing is pickled. Needs: pip install 'onward[export]'.
    """

    run: Annotated[Path | None, *option("RUN", "none; it must be given", Path, positional=True)] = None
    """The folder of a run."""
    to: Annotated[Path | None, *option("FOLDER", "none; it must be given", Path)] = None
    """The folder for the files, new or empty."""
    layout: Annotated[str, *option("NAME", "onward", one_of("layout", LAYOUTS))] = "onward"
    """onward: read it with onward.load_model; torch: the state dict of a torch.nn.RNN, LSTM or GRU and a Linear; onnx:
    a graph of one step, with the states as inputs and outputs.
    """
