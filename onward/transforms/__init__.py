"""Gradient transformations for every estimator. Each is an Optax `GradientTransformation`."""

from .dynamic_rms import DynamicRMSState as DynamicRMSState
from .dynamic_rms import MeanSquaresState as MeanSquaresState
from .dynamic_rms import dynamic_rms as dynamic_rms
from .dynamic_rms import mean_squares as mean_squares
from .feature_rms import FeatureRMSState as FeatureRMSState
from .feature_rms import scale_by_feature_rms as scale_by_feature_rms
from .fptt import FPTTExactState as FPTTExactState
from .fptt import FPTTState as FPTTState
from .fptt import adopt_average as adopt_average
from .fptt import fptt as fptt
from .fptt import fptt_exact as fptt_exact
from .fptt import settle as settle
from .fptt_filter import FPTTFilter as FPTTFilter
from .fptt_filter import largest_fptt_rate as largest_fptt_rate
from .in_proportion import in_proportion as in_proportion
from .informed import Informed as Informed
from .kalman import quasi_diagonal_kalman as quasi_diagonal_kalman
from .quasi_diagonal import QuasiDiagonal as QuasiDiagonal
from .weight_average import TriggeredAverageState as TriggeredAverageState
from .weight_average import WeightAverageState as WeightAverageState
from .weight_average import averaged_weights as averaged_weights
from .weight_average import start_average as start_average
from .weight_average import triggered_average as triggered_average
from .weight_average import weight_average as weight_average
