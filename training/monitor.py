"""What can be seen of a run while it goes on and afterwards: numbers, curves, pictures, and how to go on with it."""

import datetime
import importlib.metadata
import io
import json
import pathlib
import platform
import subprocess
import sys

import numpy as np
from tqdm import tqdm

import rim_tf
from rim_tf.errors import InputError
from rim_tf.files import finite, write_bytes, write_json, write_text

METRICS, RECORD, README = "metrics.jsonl", "run.json", "README.md"
_PACKAGES = ("keras", "tensorflow", "jax", "numpy")
# Systems in a picture, one below another, each with data, reconstruction, truth and their difference.
_IN_PICTURE = 4

_README = """\
# A training run of rim_tf

{experiment}It {state}. To begin it again where it was stopped, or to make it longer with another `--steps`:

    {command}

| file | what it holds |
|---|---|
| `config.json` | every setting that fixes the numbers of the run (`training.experiments.TrainingConfig`) |
| `run.json` | how it was started last: command, versions of packages, commit, devices, number of weights |
| `metrics.jsonl` | a line of JSON for each epoch, means over it: losses, norm of the gradient, share of the time \
spent waiting for data; and how many steps were skipped so far, their loss being no finite number |
| `figures/` | reconstructions of lenses that no network is trained on: data, reconstruction, truth, difference |
| `tensorboard/` | the same for `tensorboard --logdir` |
| `checkpoints/` | the last {kept} and the best by `val_loss`: weights, optimiser, average, step |
| `psfs.json` | the checksum of the PSFs that it was given |
| `weights.json`, `weights.weights.h5` | when it has ended: the network, for `rim_tf.load_pretrained("FOLDER")` |
"""


class Monitor:
    """Writes what is to be seen of a run.

    Args:
      out: the run's folder, which is there.
      config: `TrainingConfig`.
      step: at which the run begins; what is on record of later ones, which were lost, is removed.
      verbose: 0 for no word, 2 for a line after each epoch, else a progress bar with the time left.
    """

    def __init__(self, out, config, step, verbose):
        self.out, self.verbose, self.n_steps = pathlib.Path(out), verbose, config.n_steps
        self._keep_until(step)
        self._events = _Events(self.out / "tensorboard", step)
        shown = verbose not in (0, 2)
        self._bar = tqdm(total=config.n_steps, initial=step, unit=" steps", disable=not shown, dynamic_ncols=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._bar.close()
        self._events.close()

    def stepped(self, n=1):
        """So many more steps are done."""
        self._bar.update(n)

    def epoch(self, step, figures, picture=None):
        """On record: an epoch that ended with that step.

        Args:
          step: how many steps have been done.
          figures: {name: number}.
          picture: [rows, columns] as `picture_of` makes it, or None.

        Raises:
          InputError: the folder cannot be written.
        """
        figures = {name: float(value) for name, value in figures.items()}
        try:
            with open(self.out / METRICS, "a") as file:
                file.write(json.dumps(finite({"step": step} | figures), allow_nan=False) + "\n")
            self._events.scalars(step, figures)
            if picture is not None:
                content = _png(picture)
                self._events.picture(step, content, picture.shape)
        except OSError as error:
            raise InputError(f"{self.out} cannot be written: {error.strerror or error}.") from None
        if picture is not None:
            (self.out / "figures").mkdir(exist_ok=True)
            write_bytes(self.out / "figures" / "reconstructions.png", content)
        words = " ".join(f"{name} {value:.5g}" for name, value in figures.items())
        if self.verbose == 2:
            print(f"step {step}/{self.n_steps} {words}", flush=True)
        self._bar.set_postfix_str(" ".join(f"{n} {v:.4g}" for n, v in figures.items() if "loss" in n), refresh=False)

    def _keep_until(self, step):
        path = self.out / METRICS
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
            write_text(path, "".join(line + "\n" for line in kept))


def read_metrics(out):
    """The lines of a run's metrics.jsonl, dictionaries of numbers."""
    return [json.loads(line) for line in (pathlib.Path(out) / METRICS).read_text().splitlines()]


def _step_of(line):
    """The step of a line; infinity for one that a killed process left half-written."""
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return np.inf


def describe(out, config, command, kept, **facts):
    """run.json and README.md in a run's folder, for whoever finds it.

    Args:
      out: the folder.
      config: `TrainingConfig`.
      command: that goes on with the run.
      kept: how many checkpoints are.
      facts: what else is worth knowing of how it was started: devices, replicas, weights.
    """
    versions = {"python": platform.python_version(), "rim_tf": rim_tf.__version__}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {"command": command, "started": now, "versions": versions, "commit": _commit(), **facts}
    write_json(pathlib.Path(out) / RECORD, record)
    network = f"A network of the type `{config.model.type}`, {facts.get('weights', 'unknown')} weights. "
    state = f"is to take {config.n_steps} steps"
    text = _README.format(experiment=network, state=state, command=command, kept=kept)
    write_text(pathlib.Path(out) / README, text)


def _commit():
    """The commit of a working copy that the package is imported from; None for an installed one."""
    folder = pathlib.Path(rim_tf.__file__).parent
    try:
        done = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def picture_of(image, found, truth):
    """Systems below one another, from left to right data, reconstruction, truth and difference, in [0, 1].

    Args:
      image: data, [batch, k, k].
      found: sources, [batch, n, n].
      truth: likewise.

    Returns:
      [rows, columns]: 0 is black. The difference is around 0.5, and as strong as 5 % of the source's peak at 0 and 1.
    """
    rows, side = [], max(image.shape[1], truth.shape[1])
    for data, ours, theirs in zip(image[:_IN_PICTURE], found, truth, strict=False):
        peak = max(float(theirs.max()), 1e-12)
        panels = [data / max(float(data.max()), 1e-12), ours / peak, theirs / peak, 0.5 + 10 * (ours - theirs) / peak]
        padded = [np.pad(panel, [(0, side - n) for n in panel.shape]) for panel in panels]
        rows.append(np.concatenate(padded, axis=1))
    return np.clip(np.nan_to_num(np.concatenate(rows)), 0.0, 1.0)


def _png(picture):
    import matplotlib.image

    content = io.BytesIO()
    matplotlib.image.imsave(content, picture, cmap="magma", vmin=0.0, vmax=1.0, format="png", origin="lower")
    return content.getvalue()


class _Events:
    """Scalars and pictures as TensorBoard reads them, written by its own package, which needs no TensorFlow."""

    def __init__(self, folder, step):
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            print("Nothing is written for TensorBoard; pip install 'rim_tf[training]' has it.", file=sys.stderr)
            self._writer = None
            return
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = EventFileWriter(str(folder))
        # What was written of steps from this one on was lost, and is not shown.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(event_pb2.Event(session_log=start, step=step))

    def scalars(self, step, figures):
        if self._writer is not None:
            values = [self._summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
            self._add(self._event(step=step, summary=self._summary(value=values)))

    def picture(self, step, content, shape):
        if self._writer is not None:
            image = self._summary.Image(height=shape[0], width=shape[1], colorspace=4, encoded_image_string=content)
            value = self._summary.Value(tag="reconstructions", image=image)
            self._add(self._event(step=step, summary=self._summary(value=[value])))

    def close(self):
        if self._writer is not None:
            self._writer.close()

    def _add(self, event):
        event.wall_time = datetime.datetime.now().timestamp()
        self._writer.add_event(event)
        self._writer.flush()
