"""Runs an exported model with TensorFlow alone; called by test_export.py: LOADER SIGNATURE MODEL FOLDER."""

import pathlib
import sys

import numpy as np
import tensorflow as tf

loader, signature, model_path, folder = sys.argv[1:]
arrays = dict(np.load(pathlib.Path(folder) / "inputs.npz"))
if loader == "saved_model":
    model = tf.saved_model.load(model_path)  # keep it: its signatures hold their variables only weakly
    run = model.signatures[signature]
    inputs = {name: tf.constant(value) for name, value in arrays.items()}
    with tf.GradientTape() as tape:
        tape.watch(inputs["lens"])
        outputs = run(**inputs)
        total = tf.reduce_sum(outputs["source"] ** 2)
    outputs = {"slope": tape.gradient(total, inputs["lens"]), **outputs}
    outputs = {name: value.numpy() for name, value in outputs.items()}
else:  # the path of TensorFlow Serving: graph, session, signature
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], model_path)
        definition = graph.signature_def[signature]
        feeds = {definition.inputs[name].name: value for name, value in arrays.items()}
        outputs = session.run({name: tensor.name for name, tensor in definition.outputs.items()}, feeds)
assert not any(name.split(".")[0] == "rim_tf" for name in sys.modules)
np.savez(pathlib.Path(folder) / "outputs.npz", **outputs)
