"""Runs an exported model with TensorFlow alone, in both ways of loading it; called by test_export.py: MODEL FOLDER.

FOLDER holds the inputs of each signature, as SIGNATURE.npz or, more than once, as SIGNATURE@WHAT.npz; what comes out is
written there as LOADER-SIGNATURE.npz, or with its @WHAT.
"""

import pathlib
import sys

sys.modules["rim_tf"] = None  # whoever imports it from here on fails
# TensorFlow imports these where they are installed, which takes longer than the rest of it.
sys.modules |= dict.fromkeys(["jax", "pandas", "scipy", "sklearn"])

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

model_path, folder = sys.argv[1], pathlib.Path(sys.argv[2])
inputs = {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


def write(loader, signature, outputs):
    words = {name: np.asarray(value, "S") for name, value in outputs.items() if value.dtype == object}
    np.savez(folder / f"{loader}-{signature}.npz", **outputs | words)


# Each runs once; the session below optimises its graphs, as a server does.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
model = tf.saved_model.load(model_path)  # keep it: its signatures hold their variables only weakly
for signature, arrays in inputs.items():
    tensors = {name: tf.constant(value) for name, value in arrays.items()}
    differentiated = signature == "serving_default"
    with tf.GradientTape(watch_accessed_variables=False) as tape:  # of what is not differentiated it builds no gradient
        if differentiated:
            tape.watch(tensors["lens"])
        outputs = model.signatures[signature.split("@")[0]](**tensors)
        total = tf.reduce_sum(outputs["source"] ** 2) if differentiated else None
    if differentiated:
        outputs = {"slope": tape.gradient(total, tensors["lens"]), **outputs}
    write("saved_model", signature, {name: value.numpy() for name, value in outputs.items()})

# The path of TensorFlow Serving: graph, session, signature.
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    graph = tf.compat.v1.saved_model.load(session, ["serve"], model_path)
    for signature, arrays in inputs.items():
        definition = graph.signature_def[signature.split("@")[0]]
        feeds = {definition.inputs[name].name: value for name, value in arrays.items()}
        fetched = {name: tensor.name for name, tensor in definition.outputs.items()}
        write("session", signature, session.run(fetched, feeds))
assert not any(name.startswith("rim_tf") for name, module in sys.modules.items() if module is not None)
