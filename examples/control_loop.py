# %% [markdown]
# # A control loop that learns while it acts
#
# A heater with a lag must follow a set temperature. The controller has a model of the room: a network that predicts
# where each action leads. It picks the action whose predicted outcome is nearest to the goal, acts, and learns from
# what came. Half way through, somebody opens a window; the loop adapts, because it never stops learning.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import onward

STEPS, OPENED = 3_000, 1_500
ACTIONS = jnp.linspace(0.0, 1.0, 11)
model = onward.Model(onward.GRUCell(2, 12, key=jax.random.key(0)), eqx.nn.Linear(12, 1, key=jax.random.key(1)))
learner = onward.Learner(onward.SnAp(), optax.adam(5e-3), loss=onward.losses.squared_error)


def room(temperature, heater, action, t):
    """The world: a heater that follows the action slowly, and a room that loses warmth, more with the window open."""
    heater = heater + 0.3 * (action - heater)
    loss = jnp.where(t < OPENED, 0.05, 0.11)
    return temperature + 0.2 * heater - loss * temperature, heater


# %% [markdown]
# `learner.predict` moves the state by one step and says where the chosen action leads; `learner.learn` takes what came.
# To compare actions, the model looks ahead from the present state without learning. All of it is one compiled scan.


# %%
def step(loop, t):
    """One step of world and controller."""
    carry, temperature, heater, key = loop
    goal = 1.0 + 0.5 * jnp.sign(jnp.sin(t / 120))
    network, hidden = carry.model, carry.hidden

    def outcome(action):
        state = network.cell(hidden, jnp.stack([temperature, action]))
        for _ in range(3):  # hold it for a while: the heater lags
            state = network.cell(state, jnp.stack([temperature + network.predict(state)[0], action]))
        return temperature + 4 * network.predict(state)[0]

    explore_key, pick_key, key = jax.random.split(key, 3)
    best = ACTIONS[jnp.argmin(jnp.abs(jax.vmap(outcome)(ACTIONS) - goal))]
    anything = jax.random.uniform(pick_key)
    action = jnp.where(jax.random.uniform(explore_key) < jnp.where(t < 300, 1.0, 0.1), anything, best)
    carry, said = learner.predict(carry, jnp.stack([temperature, action]))
    after, heater = room(temperature, heater, action, t)
    carry, metrics = learner.learn(carry, said, (after - temperature)[None])  # the change is what it predicts
    return (carry, after, heater, key), (temperature, goal, metrics.losses)


start = learner.init(model, key=jax.random.key(2)), jnp.array(0.0), jnp.array(0.0), jax.random.key(3)
_, (temperatures, goals, losses) = jax.jit(lambda start: jax.lax.scan(step, start, jnp.arange(STEPS)))(start)
miss = np.abs(np.asarray(temperatures - goals))
for name, part in (("at first", slice(0, 300)), ("learned", slice(900, 1_500)), ("window open", slice(2_400, 3_000))):
    print(f"{name:>12}: the temperature misses the goal by {miss[part].mean():.2f} on average")

# %%
figure, axes = plt.subplots(num="temperature and its goal over time; the window is opened half way through")
axes.plot(goals, color="black", linewidth=1, label="goal")
axes.plot(temperatures, label="temperature")
axes.axvline(OPENED, color="0.5", linestyle=":", label="window opened")
axes.set(xlabel="steps", ylabel="temperature")
axes.legend()
