"""Estimators compute a gradient from each chunk of a stream."""

from .artbp import ARTBP as ARTBP
from .backward import AbstractBackwardEstimator as AbstractBackwardEstimator
from .base import AbstractEstimator as AbstractEstimator
from .base import AbstractForwardEstimator as AbstractForwardEstimator
from .base import Chunk as Chunk
from .base import Estimate as Estimate
from .base import Replay as Replay
from .base import Said as Said
from .bptt import BPTT as BPTT
from .continued import ContinuedBPTT as ContinuedBPTT
from .dropout import DropoutBPTT as DropoutBPTT
from .fpp import FPP as FPP
from .layerwise import Layerwise as Layerwise
from .nobacktrack import NoBackTrack as NoBackTrack
from .norms import AbstractNorms as AbstractNorms
from .norms import EuclideanNorms as EuclideanNorms
from .norms import HalfInvariantNorms as HalfInvariantNorms
from .norms import InvariantNorms as InvariantNorms
from .online_artbp import OnlineARTBP as OnlineARTBP
from .posing import AbstractPosingEstimator as AbstractPosingEstimator
from .posing import AbstractReplayEstimator as AbstractReplayEstimator
from .regularised import RegularisedBPTT as RegularisedBPTT
from .rtrl import RTRL as RTRL
from .sliding import SlidingBPTT as SlidingBPTT
from .snap import SnAp as SnAp
from .uoro import UORO as UORO
