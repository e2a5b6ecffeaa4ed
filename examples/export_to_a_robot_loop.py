# %% [markdown]
# # Export to a robot's loop through ONNX
#
# A network learns online to predict the position of a pendulum from noisy readings. Then it leaves onward as an ONNX
# graph of one step, and runs in a loop that knows neither JAX nor onward.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import optax

import onward

rng = np.random.default_rng(0)
angle, speed, angles = 1.0, 0.0, []
for _ in range(6_001):  # a damped pendulum that is pushed now and then
    push = rng.normal() * (rng.random() < 0.02)
    speed += 0.1 * (-np.sin(angle) - 0.05 * speed) + push
    angle += 0.1 * speed
    angles.append(angle)
truth = np.sin(np.array(angles, np.float32))
readings = truth + 0.3 * rng.normal(size=len(truth)).astype(np.float32)
xs, ys = jnp.asarray(readings[:-1, None]), jnp.asarray(truth[1:, None])

# %%
model = onward.Model(onward.LSTMCell(1, 16, key=jax.random.key(0)), eqx.nn.Linear(16, 1, key=jax.random.key(1)))
learner = onward.Learner(onward.SnAp(), optax.adam(5e-3), loss=onward.losses.squared_error)
carry, metrics = learner.run(learner.init(model, key=jax.random.key(2)), xs, ys)
print(f"mean squared error {metrics.losses[:500].mean():.3f} at first, {metrics.losses[-500:].mean():.3f} at the end")

proto = onward.exports.to_onnx(carry.model)
with open("pendulum.onnx", "wb") as file:
    file.write(proto.SerializeToString())
print([each.name for each in proto.graph.input], "->", [each.name for each in proto.graph.output])

# %% [markdown]
# The robot's loop: one reading in, one estimate out, and the states fed back.

# %%
session = onnxruntime.InferenceSession("pendulum.onnx", providers=["CPUExecutionProvider"])
states = {each.name: np.zeros((1, 16), np.float32) for each in session.get_inputs()[1:]}
estimates = []
for reading in readings[-400:-1]:
    prediction, *after = session.run(None, {"x": np.array([[reading]]), **states})
    states = dict(zip(states, after, strict=True))
    estimates.append(prediction[0, 0])
here = onward.sequences.predict(carry.model, xs[None, -399:])[0, :, 0]
print(
    "largest difference from onward's own predictions:", f"{np.abs(np.array(estimates) - np.asarray(here)).max():.1e}"
)

# %%
figure, axes = plt.subplots(num="noisy readings, the true position and the estimate of the exported network over time")
axes.plot(readings[-200:], ".", markersize=4, color="0.6", label="readings")
axes.plot(truth[-199:], label="truth")
axes.plot(estimates[-200:], linestyle="--", label="the exported network")
axes.set(xlabel="steps", ylabel="sine of the angle")
axes.legend()
