"""The folder of a study: what is written into it, whole files all, and what is read back.

    config.json            `StudyConfig`, and for each method the settings it last ran with and the key of its files
    galaxies.npz           the galaxies, where they were read from disk
    chunks/KEY-FIRST.npz   what a method reached on the systems from number FIRST on: columns, and pictures of some
    unusual-KEY.npz        the same of text and digits

A KEY is a method's name and a checksum of what its numbers follow from, as settings and weights: results with other
weights stand beside the old ones, and those of every other method are kept.
"""

import dataclasses
import hashlib
import pathlib
import warnings

import numpy as np

from rim_tf import __version__
from rim_tf.config import InversionSettings, MockConfig
from rim_tf.data.sources.galaxies import GalaxySet
from rim_tf.errors import InputError, InputWarning
from rim_tf.files import DAMAGED, finite, load_arrays, locked, read_json, save_arrays, sweep, write_json
from rim_tf.inference.methods import METHODS
from rim_tf.validation import Seed, check, from_json

# Systems that are drawn together. Of the first so many every picture is kept.
CHUNK = 20
# Columns that every result has, beside those of `rim_tf.evaluation.measures` and of its method.
_DESCRIPTION = ("noise", "magnification", "half_light_radius", "lens", "theta_E", "pixel_scale", "psf_sigma", "field")
_NEEDED = {*_DESCRIPTION, "true_flux", "rms", "flux_error", "chi2_per_pixel", "p12", "p11", "p22", "seconds"}
_KEPT = "kept_"
_PICTURES = ("image", "noise", "mask", "truth", "source", "model")


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What is drawn and how it is judged; n is not part of it, as a study may grow, nor are the methods."""

    mocks: MockConfig = MockConfig()
    seed: Seed = 0
    sources: str | None = None
    """Where the galaxies come from, as for `rim_tf.evaluation.study.unseen_galaxies`."""
    regularisation: str = InversionSettings.regularisation
    """Of the Gaussian prior by which the smoothness of every source is judged; the paper's is the gradient."""
    boundary: str = InversionSettings.boundary
    """Of that prior."""

    def __post_init__(self):
        check(self)


class Store:
    """The files of one study.

    Args:
      out: the folder, which need not exist.
    """

    def __init__(self, out):
        self.out = pathlib.Path(out)

    # ------------------------------------------------------------------------------------------------- settings

    @property
    def _config(self):
        return self.out / "config.json"

    def begun(self, config):
        """Whether a study with these settings was begun here.

        Args:
          config: `StudyConfig`.

        Raises:
          InputError: the folder holds a study with other settings, or other files.
        """
        if not self._config.exists():
            own = ("galaxies.npz", "chunks")  # of a study that was stopped before its settings were written
            others = sorted(p.name for p in self.out.iterdir() if p.name not in own) if self.out.is_dir() else []
            if others:
                raise InputError(f"{self.out} holds other files ({', '.join(others[:3])}); choose an empty --out.")
            return False
        old, new = self.settings(), _settings(config)
        differing = [name for name in new if old[name] != new[name]]
        if differing:
            raise InputError(
                f"{self.out} holds a study with another {', '.join(differing)}; choose another --out, or the options "
                "it has."
            )
        sweep(self.out)
        return True

    def begin(self, config, galaxies):
        """Write the settings of a new study.

        Args:
          config: `StudyConfig`.
          galaxies: `GalaxySet` to be kept, since reading a survey takes long, and its files may change under a study
            that is taken up again; None for galaxies that are drawn.
        """
        (self.out / "chunks").mkdir(parents=True, exist_ok=True)
        if galaxies is not None:
            save_arrays(self.out / "galaxies.npz", vars(galaxies) | {"ids": np.array(galaxies.ids)})
        write_json(self._config, _settings(config) | {"methods": {}})

    def settings(self):
        """What config.json holds: the fields of `StudyConfig`, `rim_tf` (the version) and `methods`.

        Of each method that was run, `methods` has its `settings` and the `key` of its files, of the last run.

        Raises:
          InputError: there is no study, or config.json is not that of one.
        """
        if not self._config.is_file():
            raise InputError(f"{self.out} holds no study; name the --out of an earlier `rim-tf evaluate`.")
        values = read_json(self._config)
        try:
            fields = {field.name: values[field.name] for field in dataclasses.fields(StudyConfig)}
            config = from_json(StudyConfig, fields, str(self._config))
            methods = {
                name: {"settings": dict(found["settings"]), "key": str(found["key"])}
                for name, found in values["methods"].items()
            }
            return _settings(config) | {"rim_tf": values["rim_tf"], "methods": methods}
        except InputError:
            raise
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            fault = f"it has no {error}" if isinstance(error, KeyError) else error
            raise InputError(f"{self._config} is not that of a study ({fault}); choose another --out.") from None

    def use(self, name, solver):
        """Let the report be of what a method reaches with these settings.

        Args:
          name: a key of METHODS.
          solver: its `rim_tf.inference.methods.Solver`.

        Returns:
          The key of its files.
        """
        key = f"{name}-{hashlib.sha256(solver.fingerprint.encode()).hexdigest()[:12]}"
        with locked(self.out):  # another run may be adding a method of its own
            settings = self.settings()
            settings["methods"][name] = {"settings": dataclasses.asdict(solver.settings), "key": key}
            write_json(self._config, settings)
        return key

    def galaxies(self):
        """The `GalaxySet` that `begin` kept, or None.

        Raises:
          InputError: the file is damaged.
        """
        path = self.out / "galaxies.npz"
        if not path.exists():
            return None
        try:
            stored = load_arrays(path)
            return GalaxySet(stored["images"], tuple(stored["ids"]), stored["half_light_radius"])
        except DAMAGED as error:
            raise InputError(f"{path} is damaged ({error}); delete it, and the galaxies are read again.") from None

    # -------------------------------------------------------------------------------------------------- results

    def count(self, key, first):
        """How many systems the file of results from number `first` on holds; 0 where it must be made (again)."""
        return _length(self._path(key, first))

    def write(self, key, first, columns, pictures):
        """Write results.

        Args:
          key: of the method, from `use`.
          first: number of the first of the systems in the study.
          columns: {name: [n, ...]} of n systems.
          pictures: {name: [m, ...]} of m of them, and their numbers in the study as `index` [m].
        """
        save_arrays(self._path(key, first), columns | {_KEPT + name: value for name, value in pictures.items()})

    def unusual(self, key):
        """The names of the drawings whose results are there, an empty list where there are none."""
        path = self._unusual(key)
        return [str(name) for name in _load(path)["names"]] if _length(path) else []

    def write_unusual(self, key, names, columns, pictures):
        """Write the results on drawings; all arguments but their names as for `write`."""
        named = columns | {"names": np.array(names)}
        save_arrays(self._unusual(key), named | {_KEPT + name: value for name, value in pictures.items()})

    def _path(self, key, first):
        return self.out / "chunks" / f"{key}-{first:06d}.npz"

    def _unusual(self, key):
        return self.out / f"unusual-{key}.npz"

    def results(self, key):
        """Columns and kept pictures of a method on the first systems, as far as there are files without a gap.

        Returns:
          Two dictionaries, as `write` takes them; empty where there is no file. Warns of a file that is damaged.
        """
        parts, first = [], 0
        while (path := self._path(key, first)).exists():
            try:
                part = _load(path, like=parts[0] if parts else None)
            except InputError as error:
                warnings.warn(f"{error} The report ends before it.", InputWarning, stacklevel=2)
                break
            parts.append(part)
            first += len(part["rms"])
        names = [name for name in (parts[0] if parts else ()) if all(name in part for part in parts)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in names}
        columns = {name: values for name, values in joined.items() if not name.startswith(_KEPT)}
        return columns, {name.removeprefix(_KEPT): joined[name] for name in names if name.startswith(_KEPT)}

    def unusual_results(self, key):
        """What `write_unusual` wrote, the names of pictures beginning with kept_; empty where it is not there."""
        path = self._unusual(key)
        return _load(path) if _length(path) else {}


def read_study(out):
    """What is there of the study in a folder.

    Args:
      out: the folder.

    Returns:
      Its settings, as `Store.settings`; the columns of each method, {method: {name: [n, ...]}}, where the rows of all
      are the first systems of one list, in the order of METHODS; the pictures that were kept, likewise; and what was
      reached on the unusual sources, likewise. Warns of results that are left out.

    Raises:
      InputError: no study, or one without a finished system.
    """
    store = Store(out)
    settings = store.settings()
    columns, kept, unusual = {}, {}, {}
    for name in set(settings["methods"]) - set(METHODS):
        text = f"{out} has results of a method {name!r}, which is not registered here; the report leaves them out."
        warnings.warn(text, InputWarning, stacklevel=2)
    for name in METHODS:
        if name in settings["methods"]:
            key = settings["methods"][name]["key"]
            found, pictures = store.results(key)
            if found:
                columns[name], kept[name] = found, pictures
            if drawings := store.unusual_results(key):
                unusual[name] = drawings
    if not columns:
        raise InputError(f"{out} holds no finished systems yet; run `rim-tf evaluate` without --report-only.")
    return settings, columns, kept, unusual


def _settings(config):
    """Of a study, as JSON has them."""
    return {"rim_tf": __version__, **finite(dataclasses.asdict(config))}


def _length(path):
    """Systems in a file; 0 where there is none, or one that is damaged and has to be made again."""
    try:
        return len(_load(path)["rms"]) if path.exists() else 0
    except InputError:
        return 0


def _load(path, like=None):
    """The arrays of a file of results; InputError where it is damaged, or not of one study with the file `like`."""
    try:
        arrays = load_arrays(path)
        missing = sorted((_NEEDED | {_KEPT + name for name in (*_PICTURES, "index")}) - set(arrays))
        if missing:
            raise ValueError(f"it has no array {missing[0]}")
        for kept in (False, True):
            lengths = {len(values) for name, values in arrays.items() if name.startswith(_KEPT) == kept}
            if len(lengths) > 1 or not (kept or min(lengths)):
                raise ValueError("its arrays have other lengths than each other, or none")
        for name in set(arrays) & set(like or ()):
            if arrays[name].shape[1:] != like[name].shape[1:]:
                raise ValueError(f"its {name} has another shape than that of the first file")
    except DAMAGED as error:
        raise InputError(f"{path} is damaged ({error}); run `rim-tf evaluate` again, which makes it anew.") from None
    return arrays
