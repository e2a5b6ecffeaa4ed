"""onward: recurrent networks trained without unrolling them back through time."""

from . import losses as losses
from .cells import AbstractAffineGatedCell as AbstractAffineGatedCell
from .cells import AbstractCell as AbstractCell
from .cells import AdaptedCell as AdaptedCell
from .cells import AntisymmetricCell as AntisymmetricCell
from .cells import GRUCell as GRUCell
from .cells import LeakyCell as LeakyCell
from .cells import LSTMCell as LSTMCell
from .cells import LSTMState as LSTMState
from .cells import RowGroup as RowGroup
from .cells import StackedCell as StackedCell
from .cells import VanillaCell as VanillaCell
from .estimators import ARTBP as ARTBP
from .estimators import BPTT as BPTT
from .estimators import RTRL as RTRL
from .estimators import UORO as UORO
from .estimators import AbstractEstimator as AbstractEstimator
from .estimators import AbstractForwardEstimator as AbstractForwardEstimator
from .estimators import Estimate as Estimate
from .estimators import NoBackTrack as NoBackTrack
from .estimators import SlidingBPTT as SlidingBPTT
from .estimators import SnAp as SnAp
from .learner import Carry as Carry
from .learner import Learner as Learner
from .learner import Metrics as Metrics
from .model import Model as Model
from .rollout import rollout as rollout

__version__ = "0.1.0"
