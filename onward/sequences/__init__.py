"""Training on data sets of sequences: data, objectives, `fit` and `evaluate`."""

from ..targets import Masked as Masked
from .averaged import averaged as averaged
from .buckets import Buckets as Buckets
from .callbacks import Callback as Callback
from .callbacks import DivergenceWarning as DivergenceWarning
from .callbacks import Epoch as Epoch
from .callbacks import InfluenceWarning as InfluenceWarning
from .callbacks import Progress as Progress
from .data import AbstractData as AbstractData
from .data import AbstractSequences as AbstractSequences
from .data import Block as Block
from .data import Minibatch as Minibatch
from .drawn import Drawn as Drawn
from .evaluate import evaluate as evaluate
from .fit import Fitted as Fitted
from .fit import fit as fit
from .fit import reset_to_average as reset_to_average
from .in_memory import Sequences as Sequences
from .objectives import AbstractObjective as AbstractObjective
from .objectives import EveryStep as EveryStep
from .objectives import Terminal as Terminal
from .objectives import TerminalClasses as TerminalClasses
from .objectives import window_length as window_length
from .predict import predict as predict
from .streamed import Streamed as Streamed
from .tracks import Tracks as Tracks
