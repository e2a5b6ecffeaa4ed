# %% [markdown]
# # A pipeline of River
#
# `onward.river.Regressor` is a recurrent network behind River's interface: it takes its place in a pipeline after a
# scaler, and remembers without lag features.

# %%
import math
import random

import matplotlib.pyplot as plt
from river import compose, linear_model, metrics, preprocessing

import onward.river


def events(count):
    """The load of a machine: it follows what was asked of it three events ago, and the time of day."""
    chance, asked = random.Random(0), [0.0] * 4
    for t in range(count):
        asked = [*asked[1:], chance.gauss(0, 1)]
        clock = {"sin": math.sin(t / 24 * math.tau), "cos": math.cos(t / 24 * math.tau)}
        yield {"asked": asked[-1], **clock}, 10 * asked[0] + 5 * clock["sin"] + 50


# %% [markdown]
# A linear model sees only the present event. The network sees the past through its state.


# %%
def scaled(model):
    """The model with its inputs and its target scaled by running moments."""
    return preprocessing.TargetStandardScaler(compose.Pipeline(preprocessing.StandardScaler(), model))


models = {
    "River's linear regression": scaled(linear_model.LinearRegression()),
    "onward.river.Regressor": scaled(onward.river.Regressor(hidden_size=32, seed=0)),
}
curves = {}
for name, model in models.items():
    recent, curve = metrics.MAE(), []
    for t, (x, y) in enumerate(events(8_000)):
        recent.update(y, model.predict_one(x))
        model.learn_one(x, y)
        if (t + 1) % 1_000 == 0:
            curve.append(recent.get())
            recent = metrics.MAE()
    curves[name] = curve
    print(f"{name}: mean absolute error {curve[-1]:.2f} over the last 1,000 events")

# %%
figure, axes = plt.subplots(num="mean absolute error against events for a linear model and the recurrent network")
for name, curve in curves.items():
    axes.plot([1_000 * (i + 1) for i in range(len(curve))], curve, label=name)
axes.set(xlabel="events", ylabel="mean absolute error of the last 1,000 events", ylim=(0, None))
axes.legend()
