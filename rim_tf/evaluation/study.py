"""The test of Section 3: unseen lenses and galaxies, reconstructed by the RIM and by linear inversion.

A study is a folder. Its systems are drawn in chunks from (seed, index of the chunk), and what a method reaches on some
of them is one .npz file, which is there when it is whole and not before: a study that was stopped goes on, and one of
2000 systems begins with the same systems as one of 20. `config.json` holds all that the numbers follow from.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import time
import uuid
import warnings
import zipfile
import zlib

import numpy as np
import tensorflow as tf

from rim_tf import __version__
from rim_tf.config import MockConfig, to_json
from rim_tf.data.mocks import GalaxyStamps, simulate_batch
from rim_tf.data.seeds import seed_pair
from rim_tf.data.single import draw_system, observe_system
from rim_tf.data.sources.find import find_galaxies
from rim_tf.data.sources.galaxies import GalaxySet, half_light_radius
from rim_tf.errors import InputError, InputWarning
from rim_tf.evaluation import metrics
from rim_tf.inference.rim import reconstruct
from rim_tf.lens import LensParameters
from rim_tf.observation import Observation
from rim_tf.physics.imaging import imaging_operator

METHODS = ("rim", "inversion")
# Systems that are drawn together, and those whose results share a file: inverting takes long, and what a stopped run
# has not written is lost. A whole number of the second make one of the first.
CHUNK, INVERSIONS = 20, 4
_N_PROCEDURAL = 1000
# Seconds after which a half-written file is one of a process that was killed.
_ABANDONED = 600
# What reading a file raises that was cut short.
_DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
# What the sources of Figure 10 are shown with; `mocks` has the same on average.
_UNUSUAL_NOISE, _UNUSUAL_PSF = 0.01, 0.05
TEXT = "STRONG\nLENSING\n2026"


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What is drawn and how it is inverted; n is not part of it, as a study may grow."""

    mocks: MockConfig = MockConfig()
    seed: int = 0
    sources: str | None = None
    """Where the galaxies come from, as for `unseen_galaxies`."""
    regularisation: str = "gradient"
    """Of the linear inversion; the paper's is the gradient."""
    solver: str = "matrix-free"
    """Of the linear inversion. At 64 x 64 it takes a quarter of the exact one's time, and the strength that it finds by
    an evidence with a small error of its own differs by less than a percent."""


@dataclasses.dataclass(frozen=True)
class System:
    """One simulated lens and its truth.

    Attributes:
      observation, lens: what a method is given.
      truth: the source, [n, m]. noiseless: the image without noise, [rows, columns].
      source_pixel_scale: [arcsec].
    """

    observation: Observation
    lens: LensParameters
    truth: np.ndarray
    noiseless: np.ndarray
    source_pixel_scale: float


class Study:
    """A study in a folder: `run_rim`, `run_inversion` and `run_unusual` do what is missing of it.

    Args:
      out: the folder; a new one, or one of a study with the same settings.
      config: `StudyConfig`.
      model: the `RIM` to be tested, another one than before if need be: the inversions are kept. name: what it is
        called in the report.

    Raises:
      InputError: the folder holds a study with other settings, or other files.
    """

    def __init__(self, out, config, model, name="small"):
        if config.mocks.lens_error:
            raise InputError("A study is of lenses that are known; lens_error must be 0.")
        self.out, self.config, self.model = pathlib.Path(out), config, model
        self.settings = {"rim_tf": __version__, "weights": name, "weights_sha256": _digest(model)}
        self.settings |= json.loads(json.dumps(dataclasses.asdict(config)))
        _check_folder(self.out, self.settings)
        self.weights = self.settings["weights_sha256"]
        for left_over in self.out.glob("**/.*.incomplete*"):
            # Of a run that was killed as it wrote, and not of one that runs beside this one.
            if time.time() - left_over.stat().st_mtime > _ABANDONED:
                left_over.unlink()
        if not (self.out / "config.json").exists():
            # Where there are none it is said now, before anything is written; an older file may hold others.
            galaxies = self._galaxies = unseen_galaxies(config.sources, config.seed)
            (self.out / "chunks").mkdir(parents=True, exist_ok=True)
            if config.sources is not None:
                # Reading a survey takes long, and its files may change under a study that is taken up again.
                _save(self.out / "galaxies.npz", vars(galaxies) | {"ids": np.array(galaxies.ids)})
        # Also of a study that is there: the report is of the weights that were given last.
        _write_whole(self.out / "config.json", json.dumps(self.settings, indent=2).encode() + b"\n")

    @functools.cached_property
    def _galaxies(self):
        if self.config.sources is not None and (self.out / "galaxies.npz").exists():
            stored = _load(self.out / "galaxies.npz")
            return GalaxySet(stored["images"], tuple(stored["ids"]), stored["half_light_radius"])
        return unseen_galaxies(self.config.sources, self.config.seed)

    @functools.cached_property
    def _simulate(self):
        stamps = GalaxyStamps(self._galaxies.images, self._galaxies.half_light_radius)
        seed = tf.constant(seed_pair("study", self.config.seed))
        return tf.function(lambda index: simulate_batch(seed, index, CHUNK, stamps, self.config.mocks))

    def draw(self, first, n):
        """The n `System`s from number `first` on, all of one chunk."""
        chunk, first = divmod(first, CHUNK)
        inputs, source = self._simulate(tf.constant(chunk))
        noiseless = imaging_operator(inputs, source.shape[1:]).forward(source).numpy()
        inputs, source = {name: value.numpy() for name, value in inputs.items()}, source.numpy()
        return [
            System(
                Observation(
                    inputs["image"][i],
                    inputs["noise_rms"][i],
                    float(inputs["psf"][i]) if inputs["psf"].ndim == 1 else inputs["psf"][i],
                    inputs["mask"][i].astype(bool),
                    float(inputs["pixel_scale"][i]),
                ),
                LensParameters(*map(float, inputs["lens"][i])),
                source[i],
                noiseless[i],
                float(inputs["source_pixel_scale"][i]),
            )
            for i in range(first, first + n)
        ]

    def run_rim(self, n, progress=None):
        """Reconstruct the first n systems; `progress` is called with the number of systems done since the last call."""
        for path, first, size in self._missing("rim", n, progress):
            systems = self.draw(first, size)
            results = _reconstruct(systems, self.model)
            columns = _describe(systems) | _judge(systems, results, self.config.regularisation)
            columns |= {f"truth_{name}": value for name, value in _judge_truth(systems).items()}
            # The first chunk gives the examples; of every other the worst is kept, to see what goes wrong.
            kept = np.arange(size) if first < CHUNK else np.array([np.argmax(columns["rms"])])
            _save(path, columns | _pictures(systems, results, kept))
            _report(progress, size)

    def run_inversion(self, n, progress=None):
        """Invert the first n systems; `progress` as in `run_rim`."""
        for path, first, size in self._missing("inversion", n, progress):
            systems = self.draw(first, size)
            results = []
            for system in systems:
                results.append(_invert(system, self.config))
                _report(progress, 1)
            columns = _describe(systems) | _judge(systems, results, self.config.regularisation)
            for name in ("strength", "log_evidence", "log_evidence_error"):
                columns[name] = np.array([getattr(result, name) for result in results], float)
            columns["prior_rank"] = np.array([result.evidence_terms["rank"] for result in results], float)
            kept = np.arange(size if first < CHUNK else 0)
            _save(path, columns | _pictures(systems, results, kept))

    def run_unusual(self, method, mnist=None):
        """Reconstruct text and, where the path of an .npz file of digits is given, ten digits (Figure 10)."""
        digits = {} if mnist is None else read_digits(mnist)
        path = _unusual_path(self.out, method, self.weights)
        names = ["text", *digits]
        if _length(path) and (mnist is None or list(_load(path)["names"]) == names):
            return
        mocks = self.config.mocks
        drawings = {"text": draw_text(TEXT, mocks.source_pixels)}
        drawings |= {name: draw_digit(image, mocks.source_pixels) for name, image in digits.items()}
        systems = [_unusual_system(i, drawing, mocks) for i, drawing in enumerate(drawings.values())]
        if method == "rim":
            results = _reconstruct(systems, self.model)
        else:
            results = [_invert(system, self.config) for system in systems]
        pictures = _pictures(systems, results, np.arange(len(systems)))
        _save(
            path,
            _describe(systems)
            | _judge(systems, results, self.config.regularisation)
            | pictures
            | {"names": np.array(names)},
        )

    def _missing(self, method, n, progress):
        """(file, number of its first system, systems wanted in it) of those that are missing or hold fewer."""
        part = _part(method)
        for first in range(0, n, part):
            size, path = min(part, n - first), _path(self.out, method, self.weights, first // part)
            if _length(path) < size:
                yield path, first, size
            else:
                _report(progress, size)


def read_study(out):
    """What is there of the study in a folder.

    Returns:
      Its settings; the columns of each method, {"rim": {name: [n, ...]}, "inversion": ...}, where the rows of both
      are the first systems of one list; the examples kept in full, likewise; and the unusual sources, likewise.
    """
    out = pathlib.Path(out)
    if not (out / "config.json").is_file():
        raise InputError(f"{out} holds no study; name the --out of an earlier `rim-tf evaluate`.")
    settings = _read_settings(out / "config.json")
    columns, kept, unusual = {}, {}, {}
    for method in METHODS:
        parts = _consecutive(out, method, settings["weights_sha256"])
        if parts:
            names = [name for name in parts[0] if not name.startswith("kept_")]
            columns[method] = {name: np.concatenate([part[name] for part in parts]) for name in names}
            kept[method] = _kept(parts, method)
        if _length(path := _unusual_path(out, method, settings["weights_sha256"])):
            unusual[method] = _load(path)
    if not columns:
        raise InputError(f"{out} holds no finished systems yet; run `rim-tf evaluate` without --report-only.")
    return settings, columns, kept, unusual


def unseen_galaxies(where, seed=0):
    """Galaxies that no training has seen.

    Args:
      where: None for procedural galaxies; or a folder or the name of a tfds set, of which the validation split is
        taken, as `find_galaxies` does.
      seed: of procedural galaxies.

    Returns:
      `GalaxySet`, not empty.
    """
    return find_galaxies(where, "validation", "study", seed, _N_PROCEDURAL)


# ------------------------------------------------------------------------------------------- the two methods


def _reconstruct(systems, model):
    """`Reconstruction`s of `System`s, those on equal source grids together."""
    results = [None] * len(systems)
    with _silence():
        for scale in sorted({system.source_pixel_scale for system in systems}):
            members = [i for i, system in enumerate(systems) if system.source_pixel_scale == scale]
            observations, lenses = [systems[i].observation for i in members], [systems[i].lens for i in members]
            batch = reconstruct(observations, lenses, model, scale, systems[members[0]].truth.shape[0])
            for i, result in zip(members, batch, strict=True):
                results[i] = result
    return results


@contextlib.contextmanager
def _silence():
    """Without InputWarnings: that a little light comes from beyond the source grid is part of the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        yield


def _invert(system, config):
    from rim_tf.inference.linear.inversion import invert

    with _silence():
        return invert(
            system.observation,
            system.lens,
            source_pixel_scale=system.source_pixel_scale,
            source_pixels=system.truth.shape[0],
            regularisation=config.regularisation,
            solver=config.solver,
        )


def _roughness(sources, regularisation):
    """s^T H s of each source [n, m, m], [n]: lambda times it is what the linear prior goes by."""
    from rim_tf.inference.linear.regularisation import Regularisation

    prior = Regularisation(regularisation, "zero", sources.shape[1:])
    return np.array([np.vdot(source, prior.apply(source)) for source in sources.astype(float)])


# ----------------------------------------------------------------------------------------- figures of systems


def _describe(systems):
    """What the results are broken down by, and what tells systems apart: {name: [n, ...]}."""
    observations = [system.observation for system in systems]
    area_ratio = np.array([(s.observation.pixel_scale / s.source_pixel_scale) ** 2 for s in systems])
    source_flux = np.array([s.truth.sum(dtype=float) for s in systems])
    image_flux = np.array([s.noiseless.sum(dtype=float) for s in systems])
    return {
        "noise": np.array([s.observation.noise.mean() / s.noiseless.max() for s in systems], float),
        "magnification": image_flux / source_flux * area_ratio,
        "half_light_radius": np.array([half_light_radius(s.truth) * s.source_pixel_scale for s in systems]),
        "lens": np.array([system.lens.as_tuple() for system in systems]),
        "theta_E": np.array([system.lens.theta_E for system in systems]),
        "pixel_scale": np.array([each.pixel_scale for each in observations]),
        "psf_sigma": np.array([each.psf if isinstance(each.psf, float) else np.nan for each in observations]),
        "field": np.array([s.source_pixel_scale * s.truth.shape[0] for s in systems]),
        "true_flux": source_flux * np.array([s.source_pixel_scale**2 for s in systems]),
    }


def _judge(systems, results, regularisation):
    """All metrics of Section 3 of results with `source`, `model_image` and `seconds`: {name: [n, ...]}."""
    truth = np.stack([system.truth for system in systems]).astype(float)
    estimate = np.stack([result.source for result in results]).astype(float)
    psnr, ssim = metrics.image_quality(truth, estimate)
    p12, p11, p22 = metrics.radial_power(truth, estimate)
    return {
        "rms": metrics.rms_error(truth, estimate),
        "flux_error": metrics.flux_error(truth, estimate),
        "negative_flux": metrics.negative_flux(estimate),
        "psnr": psnr.astype(float),
        "ssim": ssim.astype(float),
        "p12": p12,
        "p11": p11,
        "p22": p22,
        "seconds": np.array([result.seconds for result in results], float),
        "roughness": _roughness(estimate, regularisation),
        "truth_roughness": _roughness(truth, regularisation),
        **_judge_images(systems, np.stack([result.model_image for result in results])),
    }


def _judge_truth(systems):
    """What chi^2 and whiteness are of the true image, so that the rest can be measured against it."""
    return _judge_images(systems, np.stack([system.noiseless for system in systems]))


def _judge_images(systems, model_images):
    data, noise, mask = (
        np.stack([getattr(system.observation, name) for system in systems]) for name in ("image", "noise", "mask")
    )
    correlation, whiteness = metrics.residual_whiteness((data - model_images) / noise, mask)
    return {
        "chi2": metrics.chi2_per_pixel(data, model_images, noise, mask),
        "correlation": correlation,
        "whiteness": whiteness,
    }


def _pictures(systems, results, kept):
    """The images of systems `kept`, an array of their numbers within the chunk: {name: [len(kept), ...]}."""
    arrays = {
        "image": [s.observation.image for s in systems],
        "noise": [s.observation.noise for s in systems],
        "mask": [s.observation.mask for s in systems],
        "truth": [s.truth for s in systems],
        "source": [result.source for result in results],
        "model": [result.model_image for result in results],
    }
    pictures = {f"kept_{name}": np.stack(values)[kept] for name, values in arrays.items()}
    pictures = {k: v.astype(np.float32) if v.dtype != bool else v for k, v in pictures.items()}
    return pictures | {"kept_index": kept}


# ------------------------------------------------------------------------------- text and digits, Figure 10


def draw_text(text, n):
    """Text as a source: surface brightness from 0 to 1, upright, centred, filling most of a grid [n, n]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from scipy import ndimage

    fine = 8 * n
    figure = Figure(figsize=(1, 1), dpi=fine, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    longest = max(map(len, text.split("\n")))
    figure.text(
        0.5, 0.5, text, color="white", weight="bold", size=72 * 1.1 / longest, ha="center", va="center", linespacing=1.1
    )
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())[::-1, :, 0] / 255.0  # row 0 of the canvas is its top
    image = image.reshape(n, 8, n, 8).mean(axis=(1, 3))
    return (ndimage.gaussian_filter(image, 0.5) / image.max()).astype(np.float32)


def draw_digit(image, n):
    """A digit [28, 28], row 0 its top, as a source: 0 to 1, on the middle 60 % of a grid [n, n]."""
    from scipy import ndimage

    size = int(round(0.6 * n))
    resized = np.clip(ndimage.zoom(np.asarray(image, float)[::-1], size / image.shape[0], order=1), 0, None)
    before = (n - resized.shape[0]) // 2
    padded = np.pad(resized, [(before, n - before - resized.shape[0])] * 2)
    return (padded / padded.max()).astype(np.float32)


def read_digits(path):
    """The first of each digit of an .npz file with `images` [N, k, k] and `labels` [N]: {"digit 0": [k, k], ...}."""
    try:
        with np.load(path) as stored:
            images, labels = stored["images"], stored["labels"]
    except KeyError as error:
        raise InputError(f"{path} has not the arrays images and labels ({error.args[0]}).") from None
    except (TypeError, *_DAMAGED) as error:
        raise InputError(f"{path} cannot be read as a NumPy .npz archive ({error}).") from None
    if images.ndim != 3 or images.shape[1] != images.shape[2] or labels.shape != images.shape[:1]:
        raise InputError(
            f"{path} has images of shape {images.shape} and labels of shape {labels.shape}; wanted [N, k, k] and [N]."
        )
    return {f"digit {label}": images[np.flatnonzero(labels == label)[0]] for label in np.unique(labels)[:10]}


def _unusual_system(number, source, mocks):
    """A drawing behind a lens of the study's kind."""
    pixel_scale = float(np.sqrt(np.prod(mocks.log_pixel_scale)))
    source_scale = pixel_scale * mocks.source_scale_ratio
    seed, stream = number, "study: drawings"
    source = (source, source_scale)
    lens, source, source_scale = draw_system(seed, mocks.image_pixels, pixel_scale, source=source, stream=stream)
    observation, noiseless = observe_system(
        seed, lens, source, source_scale, mocks.image_pixels, pixel_scale, _UNUSUAL_NOISE, _UNUSUAL_PSF, stream
    )
    return System(observation, lens, source, noiseless, source_scale)


# ------------------------------------------------------------------------------------------------- the folder


def _read_settings(path):
    """The config.json of a study."""
    try:
        settings = json.loads(path.read_text())
        if "weights_sha256" not in settings:
            raise ValueError("it has no weights_sha256")
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not that of a study ({error}); choose another --out.") from None
    return settings


def _check_folder(out, settings):
    path = out / "config.json"
    if not path.exists():
        begun = ("galaxies.npz", "chunks")  # by a study that was stopped before its settings were written
        others = sorted(p.name for p in out.iterdir() if p.name not in begun) if out.is_dir() else []
        if others:
            raise InputError(f"{out} holds other files ({', '.join(others[:3])}); choose an empty --out.")
        return
    old = _read_settings(path)
    # Weights may change: each have files of their own, beside the inversions that they share.
    fixed = [name for name in settings if not name.startswith("weights")]
    differing = [name for name in fixed if old.get(name) != settings[name]]
    if differing:
        raise InputError(
            f"{out} holds a study with another {', '.join(differing)}; choose another --out, or the options it has."
        )


def _digest(model):
    """SHA-256 of the network, which a file's name may not tell apart: of its settings and its weights."""
    digest = hashlib.sha256(to_json(model.config).encode())
    for array in model.get_weights():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _report(progress, n):
    if progress is not None:
        progress(n)


def _length(path):
    """Systems in a file; 0 where there is none, or one that is damaged and has to be made again."""
    try:
        return len(_load(path)["rms"])
    except (KeyError, *_DAMAGED):
        return 0


def _part(method):
    """Systems in one file of a method."""
    return CHUNK if method == "rim" else min(INVERSIONS, CHUNK)


def _label(method, weights):
    """What the files of a method begin with; an inversion is the same whatever weights it is compared with."""
    return f"rim-{weights[:12]}" if method == "rim" else method


def _path(out, method, weights, part):
    return out / "chunks" / f"{_label(method, weights)}-{part:05d}.npz"


def _unusual_path(out, method, weights):
    return out / f"unusual-{_label(method, weights)}.npz"


def _consecutive(out, method, weights):
    """The files of a method from the first on, as far as each is whole: a list of dictionaries."""
    parts = []
    while n := _length(path := _path(out, method, weights, len(parts))):
        parts.append(_load(path))
        if n < _part(method):
            break
    return parts


def _kept(parts, method):
    """The images that were kept, with each system's number in the study as `index`."""
    names = [name for name in parts[0] if name.startswith("kept_")]
    kept = {name.removeprefix("kept_"): np.concatenate([part[name] for part in parts]) for name in names}
    offsets = [np.full(len(part["kept_index"]), i * _part(method)) for i, part in enumerate(parts)]
    return kept | {"index": kept["index"] + np.concatenate(offsets)}


def _load(path):
    with np.load(path) as stored:
        return dict(stored)


def _save(path, arrays):
    """An .npz file that is there when it is whole; never pickled."""
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.incomplete.npz")
    try:
        if any(np.asarray(array).dtype.hasobject for array in arrays.values()):
            raise TypeError("An array of objects would be pickled.")
        np.savez_compressed(partial, **arrays)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def _write_whole(path, content):
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.incomplete")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
