"""River's estimators, learned by forward gradients: `Classifier`, `Regressor` and `Forecaster`.

They are used as any estimator of River is, one sample at a time, alone or at the end of a pipeline:

    >>> from river import datasets, evaluate, metrics, preprocessing  # doctest: +SKIP
    >>> import onward.river  # doctest: +SKIP
    >>> model = preprocessing.StandardScaler() | onward.river.Classifier(seed=0)  # doctest: +SKIP
    >>> evaluate.progressive_val_score(datasets.Phishing(), model, metrics.Accuracy())  # doctest: +SKIP
    Accuracy: 87.43%
"""

from ..support.extras import needed

needed("river", "river")

from .classifier import Classifier as Classifier  # noqa: E402
from .forecaster import Forecaster as Forecaster  # noqa: E402
from .regressor import Regressor as Regressor  # noqa: E402
