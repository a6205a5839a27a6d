"""Linear inversion: seconds and memory for each solver and grid, beside PyAutoLens and beside the network.

    python benchmarks/inversion.py --out OUT --peers --peers-python PEERS/bin/python

One problem for all: a 192 x 192 image at 0.04 arcsec in a circular mask of 3.2 arcsec, a PSF stamp of 21 pixels, noise
2 % of the peak, gradient prior. An evaluation is everything that a new lens needs at a given strength: rays, L, F or
Lanczos runs, source, log evidence. `optimal` also finds the best strength. Wall-clock and processor seconds are both
given, since only the latter can be compared on a machine that others use. BLAS takes the threads that OMP_NUM_THREADS
allows. Each case runs in a process of its own, so that its peak memory can be told (that of Python and TensorFlow when
they are imported is `import` in table.json). The least of the repeats counts.

The network (`rim_tf.reconstruct`, shipped weights) gets an image as large as its source, for which it was trained.
Exponents are those of time ~ (source pixels)^k over the three largest grids.

PyAutoLens has a free boundary (so it is ours here) and, as its strength is a parameter of its sampler, no call for the
best one. What it sets up once for each PSF and noise map is in table.json as `setup`. Its pixels span the traced rays,
near our field of 4.4 arcsec, so that its evidence is near ours but not the same.

Writes table.md, table.json and times.png into the folder `--out`.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import click
import numpy as np
from timing import markdown_table, say

LENS = {"theta_E": 1.1, "e1": 0.12, "e2": -0.07, "x_lens": 0.03, "y_lens": -0.05, "gamma1": 0.04, "gamma2": -0.03}
IMAGE, PIXEL_SCALE, FIELD, NOISE, STRENGTH, MASK = 192, 0.04, 4.4, 0.02, 200.0, 3.2
OURS = {"exact": (24, 48, 64, 96), "matrix-free": (24, 48, 64, 96, 128, 192), "RIM": (24, 48, 96, 192)}
PEERS = (24, 48, 96)
COLUMNS = (
    "solver",
    "pixels",
    "evaluation",
    "cpu",
    "optimal",
    "optimal_cpu",
    "gigabytes",
    "strength",
    "log_evidence",
    "error",
)

# Read by the peers' interpreter, which has no rim_tf: the problem comes as an npz.
PEER = """
import json, resource, sys, time
import numpy as np
import autolens as al

problem = np.load(sys.argv[1])
pixels, scale = int(sys.argv[2]), float(problem["pixel_scale"])
memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
imported = memory()
lens = dict(zip(problem["names"], problem["lens"]))
# Its first axis runs downwards from the largest y.
flip = lambda a: np.ascontiguousarray(a[::-1])
mask = al.Mask2D(mask=~flip(problem["mask"]), pixel_scales=scale)
dataset = al.Imaging(
    data=al.Array2D.no_mask(flip(problem["image"]), pixel_scales=scale),
    noise_map=al.Array2D.no_mask(flip(problem["noise"]), pixel_scales=scale),
    psf=al.Convolver(kernel=al.Array2D.no_mask(flip(problem["psf"]), pixel_scales=scale)),
    over_sample_size_pixelization=1, over_sample_size_lp=1,
).apply_mask(mask=mask)
started = time.perf_counter()
dataset = dataset.apply_sparse_operator_cpu()
setup = time.perf_counter() - started
e = np.hypot(lens["e1"], lens["e2"])
q = (1 - e) / (1 + e)
centre = (lens["y_lens"], lens["x_lens"])
mass = al.mp.Isothermal(
    centre=centre, ell_comps=(lens["e2"], lens["e1"]), einstein_radius=lens["theta_E"] * (1 + q) / (2 * np.sqrt(q))
)
shear = al.mp.ExternalShear(gamma_1=lens["gamma1"], gamma_2=lens["gamma2"])
source = al.Pixelization(
    mesh=al.mesh.RectangularUniform(shape=(pixels, pixels)),
    regularization=al.reg.Constant(coefficient=float(problem["strength"]) ** 0.5),
)
galaxies = [al.Galaxy(redshift=0.5, mass=mass, shear=shear), al.Galaxy(redshift=1.0, pixelization=source)]
settings = al.Settings(use_positive_only_solver=False, use_border_relocator=False, use_edge_zeroed_pixels=False)
times = []
for _ in range(3):
    started = time.perf_counter(), time.process_time()
    fit = al.FitImaging(dataset=dataset, tracer=al.Tracer(galaxies=galaxies), settings=settings)
    log_evidence = float(fit.log_evidence)
    times.append((time.perf_counter() - started[0], time.process_time() - started[1]))
print("RESULT", json.dumps({
    "solver": "PyAutoLens " + al.__version__, "evaluation": min(times[1:])[0], "cpu": min(times[1:])[1],
    "setup": setup, "first": times[0][0], "gigabytes": memory(), "import": imported,
    "strength": float(problem["strength"]), "log_evidence": log_evidence,
}))
"""


def problem():
    """The arrays of the observation that all solve, made with a source of 192 x 192 clumpy pixels."""
    from rim_tf.inference.linear.system import LinearSystem
    from rim_tf.lens import LensParameters
    from rim_tf.observation import Observation

    rng = np.random.default_rng(3)
    x = (np.arange(192) - 95.5) * FIELD / 192
    source = np.zeros((192, 192))
    for _ in range(12):
        (x0, y0), width = 0.2 * rng.normal(size=2), rng.uniform(0.03, 0.2)
        source += rng.uniform(0.2, 1) * np.exp(-((x - x0) ** 2 + (x[:, None] - y0) ** 2) / (2 * width**2))
    offset = np.arange(-10, 11) * PIXEL_SCALE
    psf = np.exp(-(offset**2 + offset[:, None] ** 2) / (2 * 0.05**2))
    theta = (np.arange(IMAGE) - (IMAGE - 1) / 2) * PIXEL_SCALE
    mask = theta**2 + theta[:, None] ** 2 < MASK**2
    empty = Observation(np.zeros((IMAGE, IMAGE)), NOISE, psf / psf.sum(), mask, PIXEL_SCALE)
    system = LinearSystem.from_observation(empty, LensParameters(**LENS), (192, 192), FIELD / 192)
    image = system.forward(source / source.max()) + NOISE * rng.normal(size=empty.shape)
    return {
        "image": np.where(mask, image, 0.0),
        "noise": np.full(image.shape, NOISE),
        "psf": psf / psf.sum(),
        "mask": mask,
        "pixel_scale": PIXEL_SCALE,
        "strength": STRENGTH,
        "names": np.array(list(LENS)),
        "lens": np.array(list(LENS.values())),
    }


def one_case(arrays, solver, pixels):
    """The figures of one solver on one grid, in this process, as a dictionary."""
    import resource
    import time

    from rim_tf.inference.linear.inversion import invert
    from rim_tf.inference.rim import reconstruct
    from rim_tf.lens import LensParameters
    from rim_tf.observation import Observation

    def least(function):
        times = []
        while len(times) < 3 and sum(wall for wall, _ in times) < 10:
            wall, cpu = time.perf_counter(), time.process_time()
            result = function()
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
        return *min(times), result

    def memory():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    fields = {name: arrays[name] for name in ("image", "noise", "psf", "mask")}
    observation = Observation(**fields, pixel_scale=float(arrays["pixel_scale"]))
    lens = LensParameters(**dict(zip(arrays["names"].tolist(), arrays["lens"].tolist(), strict=True)))
    case = {"solver": solver, "pixels": pixels}
    if solver == "RIM":
        cut = slice((IMAGE - pixels) // 2, (IMAGE + pixels) // 2)
        small = {name: fields[name][cut, cut] for name in ("image", "noise", "mask")}
        observation = Observation(**small, psf=fields["psf"], pixel_scale=float(arrays["pixel_scale"]))
        reconstruct(observation, lens)  # traces the network
        case["evaluation"], case["cpu"], _ = least(lambda: reconstruct(observation, lens))
        return case | {"gigabytes": memory()}
    invert(observation, lens, FIELD / 8, 8, strength=STRENGTH, boundary="free")
    case["import"] = memory()
    # The best strength first: its result says more, and the memory of the two is the same.
    case["optimal"], case["optimal_cpu"], result = least(
        lambda: invert(observation, lens, FIELD / pixels, pixels, boundary="free", solver=solver)
    )
    case["evaluation"], case["cpu"], _ = least(
        lambda: invert(observation, lens, FIELD / pixels, pixels, boundary="free", strength=STRENGTH, solver=solver)
    )
    figures = {"strength": result.strength, "log_evidence": result.log_evidence, "error": result.log_evidence_error}
    return case | figures | {"gigabytes": memory()}


def in_a_process(command):
    """The JSON that a process prints after the word RESULT; {"failed": why} where there is none."""
    environment = os.environ | {"PYAUTO_SKIP_WORKSPACE_VERSION_CHECK": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    if done.returncode < 0:
        return {"failed": f"ended by signal {-done.returncode}"}  # 9: the machine's memory was full
    return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1]}


def exponents(cases):
    """{solver and what was timed: k} in time ~ (source pixels)^k, over the three largest grids."""
    found = {}
    for solver in dict.fromkeys(case["solver"] for case in cases):
        for what in ("evaluation", "optimal"):
            points = [(case["pixels"] ** 2, case[what]) for case in cases if case["solver"] == solver and what in case]
            if len(points) >= 2:
                n, seconds = np.log(sorted(points)[-3:]).T
                found[f"{solver}, {what}"] = float(np.polyfit(n, seconds, 1)[0])
    return found


def table(cases):
    """The cases as a Markdown table."""
    rows = [
        [_cell(case.get(column, case.get("failed", "") if column == "evaluation" else "")) for column in COLUMNS]
        for case in cases
    ]
    return markdown_table(COLUMNS, rows)


def _cell(value):
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) > 1000 else f"{value:.3g}"
    return str(value)


def plot(cases, path):
    """Seconds over source pixels, both logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for solver in dict.fromkeys(case["solver"] for case in cases):
        for what, style in [("evaluation", "o-"), ("optimal", "s--")]:
            points = [(case["pixels"] ** 2, case[what]) for case in cases if case["solver"] == solver and what in case]
            if points:
                axes.loglog(*zip(*sorted(points), strict=True), style, label=f"{solver}, {what}")
    axes.set(xlabel="source pixels", ylabel="seconds")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


@click.command(help=__doc__.split("\n")[0])
@click.option("--out", type=click.Path(path_type=pathlib.Path), required=True, help="Folder for what is written.")
@click.option("--peers", is_flag=True, help="Also time PyAutoLens.")
@click.option("--peers-python", default=sys.executable, show_default=True, help="Interpreter that has autolens.")
@click.option("--most", default=192, show_default=True, help="Leave out source grids with more pixels on a side.")
@click.option("--case", nargs=3, hidden=True, help="Problem file, solver and pixels of the one case to run here.")
def main(out, peers, peers_python, most, case):
    if case is not None:
        print("RESULT", json.dumps(one_case(dict(np.load(case[0])), case[1], int(case[2]))))
        return
    out.mkdir(parents=True, exist_ok=True)
    cases = []
    say("Making the problem that all solve ...")
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "problem.npz")
        np.savez(file, **problem())
        here = [sys.executable, __file__, "--out", str(out), "--case", file]
        plan = [([*here, solver, str(n)], solver, n) for solver, grids in OURS.items() for n in grids]
        if peers:
            plan += [([peers_python, "-c", PEER, file, str(n)], "PyAutoLens", n) for n in PEERS]
        for command, solver, pixels in sorted(plan, key=lambda each: each[2]):
            if pixels <= most:
                say(f"{solver}, source of {pixels} x {pixels} pixels ...")
                cases.append({"solver": solver, "pixels": pixels} | in_a_process(command))
                say("  " + ", ".join(f"{name} {_cell(cases[-1][name])}" for name in COLUMNS[2:] if name in cases[-1]))
                if "failed" in cases[-1]:
                    say(f"  {cases[-1]['failed']}")
                report(cases, out)
    print((out / "table.md").read_text())


def report(cases, out):
    """Write what is known so far, so that an interrupted run leaves its figures."""
    from rim_tf.files import write_json, write_text

    cases = sorted(cases, key=lambda case: case["solver"])
    text = table(cases) + "\n\n" + "\n".join(f"{name}: {k:.2f}" for name, k in exponents(cases).items())
    write_text(out / "table.md", text + "\n")
    write_json(out / "table.json", {"cases": cases, "exponents": exponents(cases)})
    plot(cases, out / "times.png")


if __name__ == "__main__":
    main()
