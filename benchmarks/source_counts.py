"""How often true sources lie where draws say: of pixels, and of what a source comes to; for the other benchmarks here.

Pixels are told apart by what the RIM found, never by the truth: those above the noise of a typical image pixel, those
below it, and those below a twentieth of it, which are called dark and where no brightness below that is told from none.
"""

import numpy as np

from rim_tf.evaluation import coverage

FIGURES = ("flux", "magnification", "source_peak", "half_light_radius")
PIXELS = ("above the noise", "below the noise", "dark")
_BINS = 200
# What is fainter than this [noise] cannot be told from nothing.
_DARK = 0.05


def figure_of(name, fit):
    return float(fit.source.max() if name == "source_peak" else getattr(fit, name))


def judged(truth, figures, fit, found, rng):
    """What is kept of one system and method: ranks of the figures, and counts of the pixels' ranks.

    Args:
      truth: the true source.
      figures: its own.
      fit: the RIM's `Reconstruction`, which tells pixels apart.
      found: the method's `SourceFit` and `SourceErrors`.
      rng: for ties.
    """
    point, errors = found
    summary, row = errors.summary(), {"figures": {}, "pixels": {}}
    noise_rms = float(1 / np.sqrt(np.mean(fit.observation.noise[fit.observation.mask] ** -2.0)))
    for name in FIGURES:
        rank = coverage.ranks(np.array([figures[name]]), errors.figures[name][:, None], rng)[0]
        known = {"truth": figures[name], "centre": figure_of(name, point), "rank": float(rank)}
        row["figures"][name] = known | summary[name]
    rank = coverage.ranks(truth.ravel(), errors.samples.reshape(len(errors.samples), -1), rng, _DARK * noise_rms)
    bright = np.digitize(fit.source.ravel() / noise_rms, (_DARK, 1.0))
    deviation = errors.samples.std(axis=0).ravel()
    for i, name in enumerate(PIXELS):
        chosen = bright == 2 - i
        credible = coverage.credibility_of_ranks(rank[chosen])
        row["pixels"][name] = {
            "n": int(chosen.sum()),
            "ranks": coverage.histogram(rank[chosen], 20).tolist(),
            "credibility": coverage.histogram(credible, _BINS).tolist(),
            "covered": [int(np.sum(credible <= level)) for level in coverage.LEVELS],
            "deviation_over_noise": float(np.mean(deviation[chosen]) / noise_rms) if chosen.any() else None,
        }
    row["rms_percent_of_peak"] = 100 * float(np.sqrt(np.mean((point.source - truth) ** 2)) / truth.max())
    return row


def table(rows):
    """Counts of some systems, as lines of text and as plain numbers.

    Args:
      rows: list of what `judged` returned.
    """
    lines = ["| what | n | 68 % | 95 % | 99.7 % | largest deviation | of the ranks | chance, 95 % |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    numbers = {"systems": len(rows)}
    for name in PIXELS:
        numbers[name] = _pixels([row["pixels"][name] for row in rows])
    for name in FIGURES:
        numbers[name] = _figure([row["figures"][name] for row in rows])
    lines += [_line(name, numbers[name]) for name in (*PIXELS, *FIGURES)]
    return lines, numbers


def _pixels(rows):
    """Of all pixels of a kind together; what chance does is found by drawing systems anew."""
    rows = [row for row in rows if row["n"]]
    credible, ranks = (np.array([row[name] for row in rows]) for name in ("credibility", "ranks"))
    n, covered = np.array([row["n"] for row in rows]), np.array([row["covered"] for row in rows])
    cumulative = np.cumsum(credible, axis=1)
    share = cumulative.sum(axis=0) / n.sum()
    rng, spread = np.random.default_rng(0), []
    for _ in range(200):
        drawn = rng.integers(len(rows), size=len(rows))
        spread.append(np.max(np.abs(cumulative[drawn].sum(axis=0) / n[drawn].sum() - share)))
    return {
        "n": int(n.sum()),
        "coverage": (covered.sum(axis=0) / n.sum()).tolist(),
        "largest_deviation": float(coverage.largest_deviation_of_histogram(credible.sum(axis=0))),
        "largest_deviation_of_ranks": float(coverage.largest_deviation_of_histogram(ranks.sum(axis=0))),
        "chance": float(np.quantile(spread, 0.95)),
        "ranks": (ranks.sum(axis=0) / n.sum()).tolist(),
        "deviation_over_noise": float(np.median([row["deviation_over_noise"] for row in rows])),
    }


def _figure(rows):
    rank = np.array([row["rank"] for row in rows])
    credible = coverage.credibility_of_ranks(rank)
    value, truth, error = (np.array([row[name] for row in rows], float) for name in ("median", "truth", "error"))
    return {
        "n": len(rank),
        "coverage": coverage.coverage(credible).tolist(),
        "largest_deviation": float(coverage.largest_deviation(credible)),
        "largest_deviation_of_ranks": float(coverage.largest_deviation(rank)),
        "chance": 1.36 / np.sqrt(len(rank)),
        "ranks": (coverage.histogram(rank, 10) / len(rank)).tolist(),
        # Of draws with much negative light some have no half-light radius, and then no error of it.
        "median_error_percent": 100 * float(np.nanmedian(error / truth)),
        "bias_percent": 100 * float(np.nanmedian(value / truth - 1)),
    }


def _line(name, part):
    shares = " | ".join(f"{100 * share:.1f}" for share in part["coverage"])
    deviations = (part["largest_deviation"], part["largest_deviation_of_ranks"], part["chance"])
    return f"| {name} | {part['n']} | {shares} | " + " | ".join(f"{100 * each:.1f} %" for each in deviations) + " |"
