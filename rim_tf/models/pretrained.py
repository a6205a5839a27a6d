"""Trained networks as files: NAME.json, which describes one, beside NAME.weights.h5, plain arrays in HDF5.

The description holds the network's settings, checksums of both, and where the weights come from. Nothing large is read
before it is known to belong to it. Weights that ship are in `rim_tf/models/weights/`, each with a card, NAME.md, which
`training.cards` writes; those too large to ship are fetched by `rim_tf.models.remote`.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable

import h5py
import humanize
import numpy as np

from rim_tf.config import EstimatorConfig, JointConfig, RIMConfig, SourceErrorsConfig, model_from_json
from rim_tf.errors import InputError
from rim_tf.files import read_json, write_json, written_whole
from rim_tf.models import remote
from rim_tf.models.estimator import Estimator
from rim_tf.models.flops import convolutions
from rim_tf.models.joint import N_MAPS, N_PUT_OUT, N_SEEN_BY_CELL, JointRIM, n_figures, n_moves
from rim_tf.models.mixture import n_columns
from rim_tf.models.networks import AlexNet
from rim_tf.models.rim import RIM
from rim_tf.models.source_errors import N_OF_WAVELETS, N_SEEN, SourceErrors
from rim_tf.physics.mass.model import MassModel
from rim_tf.validation import to_json

WEIGHTS = pathlib.Path(__file__).parent / "weights"
# HDF5 puts its own tables around the numbers: some kilobytes for each array.
_OVERHEAD = 1_000_000


def _rim_shapes(config):
    """The shape of each array in the weights file of a RIM, by its name there."""
    shapes = {}
    for layer in convolutions(config, config.stride):
        channels = (layer.outputs, layer.inputs) if layer.transpose else (layer.inputs, layer.outputs)
        arrays = f"cell/{layer.name.replace('.', '/')}/vars"
        shapes |= {f"{arrays}/0": (layer.kernel, layer.kernel, *channels), f"{arrays}/1": (layer.outputs,)}
    return shapes


def _estimator_shapes(config):
    """Likewise of an estimator."""
    layers = _alexnet_layers if config.network == "alexnet" else _residual_layers
    shapes, n_last = layers(config)
    n_outputs = config.components * n_columns(MassModel(config.mass).size)
    for i, n in enumerate((*config.hidden, n_outputs)):
        name = f"dense/{_numbered('dense', i)}" if i < len(config.hidden) else "output_layer"
        shapes |= {f"head/{name}/vars/0": (n_last, n), f"head/{name}/vars/1": (n,)}
        n_last = n
    return {f"body/{name}": shape for name, shape in shapes.items()}


def _alexnet_layers(config):
    """The convolutions of `networks.AlexNet`, and how many numbers come out of them."""
    shapes, channels, side = {}, len(config.inputs), config.pixels
    layers = zip(config.features, AlexNet.KERNELS, AlexNet.STRIDES, AlexNet.POOLED, strict=True)
    for i, (n, kernel, stride, pooled) in enumerate(layers):
        arrays = f"convolutions/{_numbered('conv2d', i)}/vars"
        shapes |= {f"{arrays}/0": (kernel, kernel, channels, n), f"{arrays}/1": (n,)}
        channels, side = n, -(-side // (stride * (1 + pooled)))
    return shapes, channels * side**2


def _residual_layers(config):
    """Likewise of `networks.ResidualNetwork`."""
    channels = config.features[0]
    shapes = {"stem/vars/0": (5, 5, len(config.inputs), channels), "stem/vars/1": (channels,)}
    for i in range(len(config.features) * config.blocks):
        n, block = config.features[i // config.blocks], f"stages/{_numbered('residual_block', i)}"
        for norm, width in (("norm_1", channels), ("norm_2", n)):
            shapes |= {f"{block}/{norm}/vars/{j}": (width,) for j in (0, 1)}
        shapes |= {f"{block}/conv_1/vars/0": (3, 3, channels, n), f"{block}/conv_2/vars/0": (3, 3, n, n)}
        if n != channels or (i and i % config.blocks == 0):
            shapes[f"{block}/short_cut/vars/0"] = (1, 1, channels, n)
        channels = n
    shapes |= {f"norm/vars/{j}": (channels,) for j in (0, 1)}
    return shapes, channels * (-(-config.pixels // 2 ** len(config.features))) ** 2


def _source_errors_shapes(config):
    """Likewise of `source_errors.SourceErrors`."""
    n, levels, shapes = config.features, config.levels, {}

    def convolution(name, inputs, outputs, kernel=3):
        shapes.update({f"body/{name}/vars/0": (kernel, kernel, inputs, outputs), f"body/{name}/vars/1": (outputs,)})

    for i in range(levels):
        convolution(f"down/{_numbered('conv2d', i)}", n if i else 4 * N_SEEN, n)
        convolution(f"deep/{_numbered('conv2d', i)}", n, n)
        convolution(f"maps/{_numbered('conv2d', i)}", n, N_OF_WAVELETS * (3 if i else 4), 1)
        if i:
            convolution(f"up/{_numbered('conv2d', i - 1)}", n, n)
    convolution("pixels", n, 4)
    return shapes


def _joint_shapes(config):
    """Likewise of `joint.JointRIM`."""
    n, memory = MassModel(config.mass).size, config.memory
    own = {f"{name}/vars/{i}": shape for name, i, shape in _joint_dense(config, n, memory)}
    cell = RIMConfig(
        kernel=config.kernel, stride=config.stride, features=config.features, hidden=config.hidden, gradient_step=True
    )
    shapes = _rim_shapes(cell)
    (size, _, _, features), (_, _, last, _) = (shapes[f"cell/{name}/vars/0"] for name in ("embed", "output_layer"))
    shapes["cell/embed/vars/0"] = (size, size, N_SEEN_BY_CELL, features)
    shapes |= {"cell/output_layer/vars/0": (size, size, last, N_PUT_OUT), "cell/output_layer/vars/1": (N_PUT_OUT,)}
    return shapes | own


def _joint_dense(config, n, memory):
    """(layer, number, shape) of all arrays beside the cell of a `JointRIM`."""
    channels = N_MAPS + n
    for i, features in enumerate(config.encoder):
        name = f"encoder/convolutions/{_numbered('conv2d', i)}"
        yield from ((name, 0, (3, 3, channels, features)), (name, 1, (features,)))
        channels = features
    n_seen = n_figures(config, n)
    if config.encoder:
        yield from (("encoder/dense", 0, (config.encoder_side**2 * channels, memory)), ("encoder/dense", 1, (memory,)))
        n_seen += memory
    yield from (("controller/recall", i, (rows, 3 * memory)) for i, rows in enumerate((n_seen, memory, 2)))
    yield from (("controller/move", 0, (memory, n_moves(config) * n)), ("controller/move", 1, (n_moves(config) * n,)))
    n_outputs = config.components * n_columns(n)
    yield from (("head/dense/dense", 0, (memory, memory)), ("head/dense/dense", 1, (memory,)))
    yield from (("head/output_layer", 0, (memory, n_outputs)), ("head/output_layer", 1, (n_outputs,)))


def _numbered(name, i):
    """How Keras names the layers of a list in a file of weights."""
    return f"{name}_{i}" if i else name


@dataclasses.dataclass(frozen=True)
class _Network:
    """How the networks of one kind are made.

    Attributes:
      build: settings -> an untrained `keras.Model` with these as its `config`.
      shapes: settings -> the shape of each array in its weights file, by name, without making the network.
    """

    build: Callable
    shapes: Callable


# By the class of their settings, which `rim_tf.config.MODELS` has by name.
_NETWORKS = {
    RIMConfig: _Network(RIM, _rim_shapes),
    EstimatorConfig: _Network(Estimator, _estimator_shapes),
    SourceErrorsConfig: _Network(SourceErrors, _source_errors_shapes),
    JointConfig: _Network(JointRIM, _joint_shapes),
}


def build_model(config, **options):
    """An untrained network of the given settings, one of `rim_tf.config.MODELS`; `options` are those of its class."""
    return _NETWORKS[type(config)].build(config, **options)


def load_pretrained(name="small", kind="rim"):
    """The trained network of that name.

    Args:
      name: of shipped weights ("small") or of those in `remote.FILES`, which are fetched once; the folder of a run of
        training that has ended; or the path of a description NAME.json beside its weights, as `save_trained` writes
        them.
      kind: what network it must be, a key of `rim_tf.config.MODELS`.

    Raises:
      InputError: no such weights, those of another kind, or a file that is damaged or does not belong to its
        description.
    """
    description_path, config, checksum = _described(name, kind)
    path = description_path.with_suffix(".weights.h5")
    if not path.is_file():
        raise InputError(f"{path} is missing; install it again.")
    _check_arrays(path, _NETWORKS[type(config)].shapes(config))
    if sha256(path) != checksum:
        raise InputError(
            f"{path} is truncated or was changed: its checksum is not the one in {description_path.name}. "
            "Install or download it again."
        )
    model = build_model(config)
    model.load_weights(path)
    return model


def kind_of(name):
    """What network trained weights are of, a key of `rim_tf.config.MODELS`; `name` as in `load_pretrained`."""
    return _read_description(_description_of(name))[0].type


def rim_of_errors(config, rim=None):
    """The RIM whose errors a network of the settings `config`, a `SourceErrorsConfig`, knows.

    Args:
      config: the settings.
      rim: a `RIM` that is said to be it; None loads the one that the settings name.

    Raises:
      InputError: another RIM, or no such weights.
    """
    which = "the RIM that was given is" if rim is not None else f"the weights {config.rim} are"
    rim = load_pretrained(config.rim) if rim is None else rim
    if fingerprint(rim) != config.rim_sha256:
        raise InputError(
            f"The errors of a source are known for the RIM {config.rim!r} of the fingerprint "
            f"{config.rim_sha256[:12] or 'none'}, and {which} another; use that RIM, or train errors for this one "
            "(python -m training.train source-errors)."
        )
    return rim


def fingerprint(model):
    """Hexadecimal SHA-256 of a network's settings and weights, wherever it comes from."""
    digest = hashlib.sha256(to_json(model.config).encode())
    for array in model.get_weights():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def checksum_of(name="small", kind="rim"):
    """Hexadecimal SHA-256 of a trained network's settings and weights, as its description has them; nothing is loaded.

    Args:
      name: as in `load_pretrained`.
      kind: likewise.

    Raises:
      InputError: no such weights, those of another kind, or a description that is damaged.
    """
    _, config, checksum = _described(name, kind)
    return hashlib.sha256(f"{_settings_sha256(dataclasses.asdict(config))} {checksum}".encode()).hexdigest()


def provenance_of(name="small", kind="rim"):
    """Where a trained network comes from, as a line of text: its name, how it was trained, and its checksum.

    Args:
      name: as in `load_pretrained`.
      kind: likewise.
    """
    path, _, checksum = _described(name, kind)
    command = read_json(path).get("command", "not stated")
    return f"{path.stem}, SHA-256 {checksum}, trained by: {command}"


def _described(name, kind):
    """The path of a description, and the settings and the checksum of the weights that stand there."""
    path = _description_of(name)
    config, checksum = _read_description(path)
    if config.type != kind:
        raise InputError(f"{path} describes weights of the kind {config.type!r}; wanted are {kind!r}.")
    return path, config, checksum


def _description_of(name):
    """The path of a description, that of a name or in the folder of a run; InputError where there is none."""
    given = pathlib.Path(name)
    if given.is_dir():
        path = given / "weights.json"
        if not path.is_file():
            raise InputError(
                f"{given} holds no weights.json, which a run of training leaves when it has ended; go on with it, or "
                f"make weights of its last checkpoint with: python -m training.publish {given} NAME --out NAME."
            )
        return path
    path = given if given.suffix == ".json" else WEIGHTS / f"{name}.json"
    if not path.is_file() and f"{name}.json" in remote.FILES:
        path = remote.fetched(name)
    if not path.is_file():
        shipped = ", ".join(sorted({each.stem for each in WEIGHTS.glob("*.json")} | remote.names())) or "none"
        raise InputError(f"There are no weights {str(name)!r}; shipped are: {shipped}.")
    return path


def save_trained(model, path, provenance):
    """Write PATH.json and PATH.weights.h5 for `load_pretrained`.

    Args:
      model: a built network of the package, as `build_model` makes them.
      path: without a suffix.
      provenance: JSON-ready dictionary: the command, seed, data and measured figures of these weights.
    """
    path = pathlib.Path(path)
    bare = build_model(model.config)  # a compiled model would write its optimiser's state too, twice its size
    bare.set_weights(model.get_weights())
    with written_whole(path.with_name(path.name + ".weights.h5")) as unfinished:
        # Keras wants this very ending, which an unfinished file has not.
        weights = unfinished.with_suffix(".weights.h5")
        bare.save_weights(weights)
        weights.replace(unfinished)
        checksum = sha256(unfinished)
    settings = dataclasses.asdict(model.config)
    checksums = {"sha256": checksum, "model_sha256": _settings_sha256(settings)}
    write_json(path.with_name(path.name + ".json"), {"model": settings, **checksums, **provenance})


def sha256(path):
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settings_sha256(settings):
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _read_description(path):
    """The settings of a network and the checksum of its weights, from NAME.json."""
    advice = "install it again"
    try:
        values = read_json(path)
        if missing := [name for name in ("model", "sha256", "model_sha256") if name not in values]:
            raise InputError(f"it lacks {', '.join(missing)}.")
        config = model_from_json(values["model"], "its network")
    except (InputError, TypeError) as error:
        raise InputError(f"{path} does not describe weights: {str(error).rstrip('.')}; {advice}.") from None
    if _settings_sha256(values["model"]) != values["model_sha256"]:
        # Most settings change no shape: weights that were trained with others would load, and be wrong without a word.
        raise InputError(f"{path} was changed: its network is not the one that the weights were trained as; {advice}.")
    return config, values["sha256"]


def _check_arrays(path, wanted):
    """InputError where a weights file is not one of arrays of the shapes `wanted`; only its tables are read."""
    n_bytes, size = 4 * sum(map(math.prod, wanted.values())), path.stat().st_size
    if not n_bytes <= size <= n_bytes + _OVERHEAD:
        raise InputError(
            f"{path} is truncated or was changed: it has {humanize.naturalsize(size)}, and the network that it is said "
            f"to belong to has {humanize.naturalsize(n_bytes)} of weights. Install or download it again."
        )
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item.shape

    try:
        with h5py.File(path) as file:
            file.visititems(note)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} is truncated or was changed: it cannot be read as HDF5 ({reason}). Install or download it again."
        ) from None
    for name in sorted({*wanted, *found}):
        if found.get(name) != wanted.get(name):
            raise InputError(
                f"{path} does not belong to its description: {name} has the shape {found.get(name)}, and wanted is "
                f"{wanted.get(name)}. Install or download both again."
            )
