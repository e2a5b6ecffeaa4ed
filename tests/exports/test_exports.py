"""Models that leave and come back: the same numbers in ONNX Runtime, torch and onward; what cannot go is refused.

torch need not be installed: what it documents is written out in NumPy here, and torch itself is asked where it is.
"""

import json
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import onward
from onward.exports.tensors import read_tensors

pytestmark = pytest.mark.product("name", "check")

STEPS, INPUTS, UNITS, OUTPUTS = 1000, 5, 16, 3
X = np.random.default_rng(0).standard_normal((STEPS, INPUTS)).astype(np.float32)


def filled(make, least=-0.25):
    """What `make` makes, with numbers from `least` to 0.25 that took no compiling to draw."""
    draw = np.random.default_rng(1)

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jr.key(1)
        return jnp.asarray(draw.uniform(least, 0.25, leaf.shape), leaf.dtype)

    return jax.tree.map(fill, eqx.filter_eval_shape(make))


def cell_of(kind, inputs=INPUTS, **settings):
    return kind(inputs, UNITS, key=jr.key(0), **settings)


def model_of(make, **settings) -> onward.Model:
    return filled(lambda: onward.Model(make(), eqx.nn.Linear(UNITS, OUTPUTS, key=jr.key(0), **settings)))


def stack(bottom, *others):
    return onward.StackedCell([cell_of(bottom), *(cell_of(kind, UNITS) for kind in others)])


FOR_TORCH = {
    "vanilla": lambda: cell_of(onward.VanillaCell),
    "vanilla relu, activation": lambda: cell_of(onward.VanillaCell, activation=jax.nn.relu, preactivation_state=False),
    "lstm": lambda: cell_of(onward.LSTMCell),
    "gru": lambda: cell_of(onward.GRUCell),
    "two lstm": lambda: stack(onward.LSTMCell, onward.LSTMCell),
}
OTHERS = {
    "leaky": lambda: cell_of(onward.LeakyCell, time_step=0.5),
    "leaky sigmoid, activation": lambda: cell_of(
        onward.LeakyCell, activation=jax.nn.sigmoid, preactivation_state=False
    ),
    "gru over lstm over vanilla": lambda: stack(onward.VanillaCell, onward.LSTMCell, onward.GRUCell),
}
ALL = FOR_TORCH | OTHERS


@eqx.filter_jit
def _stream(model, xs):
    def step(hidden, x):
        hidden = model.cell(hidden, x)
        return hidden, model.predict(hidden)

    return jax.lax.scan(step, model.cell.init_hidden(), xs)


@pytest.fixture(scope="module")
def streamed():
    """The model of a name, and what onward makes of the stream: the states at its end, and the predictions."""
    made = {}

    def get(name):
        if name not in made:
            model = model_of(ALL[name])
            hidden, predictions = _stream(model, X)
            made[name] = model, [np.asarray(leaf) for leaf in jax.tree.leaves(hidden)], np.asarray(predictions)
        return made[name]

    return get


def onnx_stream(model, xs):
    """What ONNX Runtime makes of a batch of streams `[steps, batch, inputs]`: the states at the end, predictions."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    proto = onward.exports.to_onnx(model).SerializeToString()
    session = runtime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    _, *inputs = session.get_inputs()
    states = [np.zeros((xs.shape[1], put.shape[1]), xs.dtype) for put in inputs]
    predictions = []
    for x in xs:
        prediction, *states = session.run(None, {"x": x} | {p.name: s for p, s in zip(inputs, states, strict=True)})
        predictions.append(prediction)
    return states, np.array(predictions)


@pytest.mark.parametrize("name", ALL)
def test_onnx_gives_the_same_stream(name, streamed):
    model, hidden, predictions = streamed(name)
    states, found = onnx_stream(model, X[:, None])
    np.testing.assert_allclose(found[:, 0], predictions, rtol=0, atol=1e-6)
    for state, leaf in zip(states, hidden, strict=True):
        np.testing.assert_allclose(state[0], leaf, rtol=1e-6, atol=1e-6)


def test_onnx_of_a_cell_that_adds_up_its_rounding():
    """Hardly damped, in single precision it strays by 1e-5 from itself in double precision: so it is held there."""
    with jax.enable_x64(True):
        model = model_of(lambda: cell_of(onward.AntisymmetricCell), use_bias=False)
        (hidden,), predictions = onnx_stream(model, X[:, None].astype(np.float64))
        wanted, wanted_predictions = _stream(model, X.astype(np.float64))
    np.testing.assert_allclose(hidden[0], wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(predictions[:, 0], wanted_predictions, rtol=0, atol=1e-12)


def test_onnx_steps_a_batch(streamed):
    model, *_ = streamed("gru")
    states, predictions = onnx_stream(model, np.stack([X[:20], X[20:40]], 1))
    for k in range(2):
        alone_states, alone = onnx_stream(model, X[20 * k : 20 * k + 20, None])
        np.testing.assert_allclose(predictions[:, k], alone[:, 0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(states[0][k], alone_states[0][0], rtol=0, atol=1e-6)


# torch


def sigmoid(u):
    return 1 / (1 + np.exp(-u))


def documented_rnn(activation):
    def step(x, h, w_ih, w_hh, b_ih, b_hh):
        return (activation(w_ih @ x + b_ih + w_hh @ h[0] + b_hh),)

    return step


def documented_lstm(x, state, w_ih, w_hh, b_ih, b_hh):
    h, c = state
    i, f, g, o = np.split(w_ih @ x + b_ih + w_hh @ h + b_hh, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def documented_gru(x, state, w_ih, w_hh, b_ih, b_hh):
    h = state[0]
    (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(w_ih @ x + b_ih, 3), np.split(w_hh @ h + b_hh, 3)
    z = sigmoid(z_x + z_h)
    return ((1 - z) * np.tanh(n_x + sigmoid(r_x + r_h) * n_h) + z * h,)


def documented(name):
    """The step that torch's manual gives for the network of a name."""
    if "vanilla" in name:
        return documented_rnn((lambda u: np.maximum(u, 0)) if "relu" in name else np.tanh)
    return documented_gru if "gru" in name else documented_lstm


@pytest.mark.parametrize("name", FOR_TORCH)
def test_the_torch_layout_is_that_of_torchs_equations(name, streamed):
    model, _, predictions = streamed(name)
    tensors = onward.exports.to_torch(model)
    step = documented(name)
    weights = [
        [tensors[f"rnn.{part}_l{layer}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        for layer in range(len(tensors) // 4)
    ]
    states = [(np.zeros(UNITS, np.float32),) * 2 for _ in weights]
    found = []
    for x in X:
        for layer, parameters in enumerate(weights):
            states[layer] = step(x, states[layer], *parameters)
            x = states[layer][0]
        found.append(tensors["readout.weight"] @ x + tensors["readout.bias"])
    assert found[-1].dtype == np.float32
    np.testing.assert_allclose(found, predictions, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FOR_TORCH)
def test_torch_gives_the_same_stream(name, streamed):
    torch = pytest.importorskip("torch")
    model, hidden, predictions = streamed(name)
    kind = torch.nn.RNN if "vanilla" in name else torch.nn.GRU if "gru" in name else torch.nn.LSTM
    more = {"nonlinearity": "relu"} if "relu" in name else {}

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(INPUTS, UNITS, num_layers=2 if "two" in name else 1, **more)
            self.readout = torch.nn.Linear(UNITS, OUTPUTS)

    net, state, found = Net(), None, []
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in onward.exports.to_torch(model).items()}
    assert {key: value.shape for key, value in net.state_dict().items()} == {k: v.shape for k, v in tensors.items()}
    net.load_state_dict(tensors)
    with torch.no_grad():
        for x in torch.from_numpy(X):
            output, state = net.rnn(x[None], state)
            found.append(net.readout(output)[0].numpy())
    np.testing.assert_allclose(found, predictions, rtol=0, atol=1e-6)
    last = state[0] if kind is torch.nn.LSTM else state
    wanted = np.tanh(hidden[-1]) if name == "vanilla" else hidden[-2 if kind is torch.nn.LSTM else -1]
    np.testing.assert_allclose(last[-1], wanted, rtol=0, atol=1e-6)
    again = onward.from_torch(net.state_dict())
    for array, wanted in zip(jax.tree.leaves(again), jax.tree.leaves(model), strict=True):
        assert np.array_equal(array, wanted)


@pytest.mark.parametrize("name", FOR_TORCH)
def test_what_went_to_torch_comes_back_to_the_bit(name, streamed):
    model, *_ = streamed(name)
    again = onward.from_torch(onward.exports.to_torch(model), activation=jax.nn.relu if "relu" in name else jax.nn.tanh)
    if name == "vanilla":  # torch's state is the activation
        assert not again.cell.preactivation_state
        assert eqx.tree_equal(again.cell.weights, model.cell.weights)
        assert eqx.tree_equal(again.readout, model.readout)
        assert np.array_equal(_stream(again, X)[1], streamed(name)[2])
    else:
        assert eqx.tree_equal(again, model)


def test_torchs_two_biases_are_added_up_and_its_names_are_free(streamed):
    tensors = onward.exports.to_torch(streamed("lstm")[0])
    renamed = {name.replace("rnn.", "").replace("readout", "head.0"): array for name, array in tensors.items()}
    renamed["bias_hh_l0"] = np.arange(4 * UNITS, dtype=np.float32)
    found = onward.from_torch(renamed)
    summed = tensors["rnn.bias_ih_l0"] + renamed["bias_hh_l0"]
    assert np.array_equal(found.cell.weights[0][..., -1], summed.reshape(4, UNITS))
    bare = {name: array for name, array in renamed.items() if "bias" not in name}
    found = onward.from_torch(bare)
    assert found.readout.bias is None
    assert not found.cell.weights[0][..., -1].any()


class TorchTensor:
    """What `from_torch` may ask of a torch tensor on an accelerator: nothing but `dtype`, `detach`, `cpu`, `float`."""

    def __init__(self, array, kind, *, there=False, learns=True):
        self._array, self.dtype, self._there, self._learns = array, f"torch.{kind}", there, learns

    def detach(self):
        return TorchTensor(self._array, self.dtype[6:], there=self._there, learns=False)

    def cpu(self):
        return TorchTensor(self._array, self.dtype[6:], there=True, learns=self._learns)

    def float(self):
        return TorchTensor(self._array, "float32", there=self._there, learns=self._learns)

    def __array__(self, dtype=None, copy=None):
        assert self._there
        assert not self._learns
        assert self.dtype != "torch.bfloat16"
        return self._array.astype(self.dtype[6:])


HALVES = {"float16": np.float16, "bfloat16": jnp.bfloat16}


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("wrap", [lambda array, kind: array, TorchTensor], ids=["NumPy", "torch"])
def test_half_precision_becomes_float32_which_holds_it(kind, wrap, streamed):
    full = onward.exports.to_torch(streamed("gru")[0])
    halved = {name: array.astype(HALVES[kind]) for name, array in full.items()}
    found = onward.exports.from_torch({name: wrap(array, kind) for name, array in halved.items()})
    expected = onward.exports.from_torch({name: array.astype(np.float32) for name, array in halved.items()})
    assert eqx.tree_equal(found, expected)
    mixed = onward.exports.from_torch(full | {"readout.bias": halved["readout.bias"]})
    assert mixed.readout.bias.dtype == np.float32


def test_a_state_dict_is_read_as_torch_gives_it(streamed):
    model, *_ = streamed("lstm")
    tensors = {name: TorchTensor(array, "float32") for name, array in onward.exports.to_torch(model).items()}
    assert eqx.tree_equal(onward.exports.from_torch(tensors), model)


@pytest.mark.usefixtures("as_in_use")
def test_a_module_instead_of_its_state_dict():
    with pytest.raises(ValueError, match=r"tensors must be a state dict, module.state_dict\(\), got object\."):
        onward.exports.from_torch(object())


def harmed(tensors, name, array):
    return {key: value for key, value in (tensors | {name: array}).items() if value is not None}


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("rnn.weight_ih_l0", None, "one weight_ih_l0 .* is needed, got 0 among readout.bias"),
        ("rnn.weight_hh_l0", None, "weight_hh_l0 is missing"),
        ("rnn.bias_hh_l0", None, "bias_hh_l0 is missing"),
        ("readout.weight", None, "the readout must be one torch.nn.Linear"),
        ("rnn.weight_hh_l2", np.zeros((3, 1), np.float32), "weight_hh_l1 is missing"),
        ("rnn.weight_hh_l0", np.zeros((5, 4), np.float32), r"weight_hh_l0 .* 3 or 4 times as many .* got \[5, 4\]"),
        ("rnn.weight_hh_l0", np.zeros(4, np.float32), r"weight_hh_l0 must have the shape \[any, any\], got \[4\]"),
        ("rnn.weight_ih_l0", np.zeros((48, 0), np.float32), "at least one input"),
        ("rnn.weight_ih_l0", np.zeros((47, 5), np.float32), r"weight_ih_l0 .* \[48, any\], got \[47, 5\]"),
        ("rnn.bias_ih_l0", np.zeros((48, 1), np.float32), r"bias_ih_l0 .* \[48\], got \[48, 1\]"),
        ("readout.weight", np.zeros((3, 17), np.float32), r"readout.weight .* \[outputs, 16\], got \[3, 17\]"),
        ("readout.bias", np.zeros(4, np.float32), r"readout.bias must have the shape \[3\], got \[4\]"),
        ("other.weight", np.zeros((3, 16), np.float32), "must be one torch.nn.Linear.*other.weight.*layers in Equinox"),
        ("rnn.weight_ih_l0_reverse", np.zeros((48, 5), np.float32), "bidirectional"),
        ("rnn.weight_hr_l0", np.zeros((48, 5), np.float32), "proj_size"),
        ("readout.bias", np.zeros(3, np.int8), "readout.bias must be float32 or float64, got int8"),
        ("readout.bias", np.zeros(3, np.float64), "readout.bias is float64, .*jax_enable_x64"),
    ],
)
def test_other_tensors_are_refused(name, array, message, streamed):
    tensors = onward.exports.to_torch(streamed("gru")[0])
    with pytest.raises(ValueError, match=message) as error:
        onward.from_torch(harmed(tensors, name, array))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "to_torch", "to_onnx"),
    [
        (OTHERS["leaky"], "no counterpart of LeakyCell", None),
        (lambda: stack(onward.LSTMCell, onward.GRUCell), "LSTMCell of 16 units below GRUCell of 16 units", None),
        (lambda: cell_of(onward.VanillaCell, activation=jax.nn.sigmoid), "jax.nn.tanh or jax.nn.relu", None),
        (lambda: cell_of(onward.VanillaCell, activation=jnp.sin), "jax.nn.tanh or jax.nn.relu", "one of jax.nn.tanh"),
        (lambda: onward.AdaptedCell(eqx.nn.GRUCell(INPUTS, UNITS, key=jr.key(0))), "AdaptedCell", "got AdaptedCell"),
    ],
)
def test_what_cannot_go_is_refused(make, to_torch, to_onnx, tmp_path):
    model = model_of(make)
    with pytest.raises(ValueError, match=to_torch):
        onward.exports.to_torch(model)
    if to_onnx is not None:
        for go in (onward.exports.to_onnx, lambda model: onward.save_model(model, tmp_path / "new")):
            with pytest.raises(ValueError, match=to_onnx):
                go(model)
    assert not list(tmp_path.iterdir())


def test_other_readouts_are_refused(streamed):
    cell = streamed("gru")[0].cell
    with pytest.raises(ValueError, match=r"an eqx\.nn\.Linear to be exported, got"):
        onward.exports.to_onnx(onward.Model(cell, jnp.tanh))
    with pytest.raises(ValueError, match="put 1 where it has 'scalar'"):
        onward.exports.to_torch(onward.Model(cell, filled(lambda: eqx.nn.Linear(UNITS, "scalar", key=jr.key(0)))))
    lost = eqx.tree_at(lambda model: model.readout.bias, streamed("gru")[0], jnp.full(OUTPUTS, jnp.nan))
    with pytest.raises(ValueError, match="a number that is not finite"):
        onward.exports.to_onnx(lost)
    half = eqx.tree_at(lambda model: model.readout.bias, streamed("gru")[0], jnp.zeros(OUTPUTS, jnp.bfloat16))
    with pytest.raises(ValueError, match="float32 or float64 throughout to be exported, got bfloat16 and float32"):
        onward.exports.to_torch(half)


# onward's own layout


@pytest.mark.parametrize("name", ALL)
def test_a_saved_model_comes_back_to_the_bit(name, streamed, tmp_path):
    model, *_ = streamed(name)
    onward.save_model(model, tmp_path, alphabet="abc")
    assert eqx.tree_equal(onward.load_model(tmp_path), model)
    assert json.loads((tmp_path / "card.json").read_text())["alphabet"] == "abc"


def test_double_precision_is_kept_or_refused(tmp_path):
    with jax.enable_x64(True):
        model = model_of(lambda: cell_of(onward.AntisymmetricCell), use_bias=False)
        onward.save_model(model, tmp_path)
        assert eqx.tree_equal(onward.load_model(tmp_path), model)
    with pytest.raises(ValueError, match=r"is float64.*jax_enable_x64"):
        onward.load_model(tmp_path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "card.json").unlink(), "holds no card.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors does not exist"),
        (lambda folder: os.truncate(folder / "model.safetensors", 300), "model.safetensors is damaged"),
        (lambda folder: (folder / "card.json").write_text("{"), "not the card of a model of this version"),
        (lambda folder: edit_card(folder, version=2), "not the card of a model of this version"),
        (lambda folder: edit_card(folder, news=1), "not the card .* `news`"),
        (lambda folder: edit_card(folder, layout="torch"), "in the layout of torch; .* --layout onward"),
        (lambda folder: edit_card(folder, dtype="float16"), "must be float32 or float64, got float16"),
        (lambda folder: edit_card(folder, outputs=4), r"readout.weight is float32\[3, 16\] where float32\[4, 16\]"),
        (lambda folder: edit_card(folder, bias=False), "readout.bias is .* where missing"),
        (lambda folder: edit_cell(folder, hidden_size=0), "not the card of a model .*hidden_size"),
        (lambda folder: edit_cell(folder, activation="sin"), "not the card of a model .*activation"),
    ],
)
def test_other_folders_are_refused(harm, message, streamed, tmp_path):
    onward.save_model(streamed("vanilla")[0], tmp_path)
    harm(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        onward.load_model(tmp_path)
    assert "\n" not in str(error.value)


def edit_card(folder, **fields):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | fields))


def edit_cell(folder, **fields):
    edit_card(folder, cell=json.loads((folder / "card.json").read_text())["cell"] | fields)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F8_E8M0"])
def test_numbers_that_numpy_lacks_are_refused_in_a_sentence(kind, tmp_path):
    header = json.dumps({"weight": {"dtype": kind, "shape": [2, 2], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "small.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match=r"NumPy cannot read \(float8_\w+\); convert them to float32"):
        read_tensors(path)
