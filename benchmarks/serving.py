"""A model server under load and under faults, beside the same SavedModel called in this process.

    python benchmarks/serving.py models/rim --out OUT

Starts `rim-tf serve` on a copy of the newest version in the folder and asks it by `rim_tf_client`:
  load       requests of 1 to 4 lenses from many clients; every answer is compared with that of its own lenses
  in process the same lenses in batches of 16, in as many threads as the server has workers; before and after the load
  malformed  200 kinds of bad requests, by gRPC and REST, while good ones go on; status, memory
  roll       a version is added and taken away again while clients ask
  kill       the server is killed and started again while clients ask
  replicas   a second server beside it, which is killed while clients ask both
"""

import collections
import http.client
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import click
import numpy as np
from timing import say, versions

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
SIGNATURE = "gaussian_psf"
REFUSED = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED")
_COMMAND = "from rim_tf.cli.main import main; main()"


def lenses(n, pixels):
    """Inputs of n noisy rings, no two alike, as one batch."""
    rng = np.random.default_rng(1)
    scale = 5.12 / pixels
    y, x = (np.mgrid[:pixels, :pixels] - (pixels - 1) / 2) * scale
    theta_E = rng.uniform(0.8, 1.5, (n, 1, 1))
    image = np.exp(-(((np.hypot(x, y) - theta_E) / 0.2) ** 2)) + rng.normal(scale=0.02, size=(n, pixels, pixels))
    lens = np.concatenate([theta_E[:, 0], rng.normal(scale=0.05, size=(n, 6))], axis=1)
    arrays = {
        "image": image,
        "noise_rms": np.full(image.shape, 0.02),
        "psf": np.full(n, 0.05),
        "lens": lens,
        "pixel_scale": np.full(n, scale),
        "source_pixel_scale": np.full(n, 0.39 * scale),
    }
    return {name: np.float32(value) for name, value in arrays.items()} | {"mask": np.ones(image.shape, bool)}


def some(arrays, which):
    return {name: value[which] for name, value in arrays.items()}


class Server:
    """`rim-tf serve` in a process of its own.

    Args:
      folder: of the model.
      ports: of gRPC and REST.
      workers: as of the command.
    """

    def __init__(self, folder, ports, workers):
        self.folder, self.ports, self.workers = folder, ports, workers
        self.start()

    def start(self):
        """Seconds until it answers."""
        began = time.perf_counter()
        grpc_port, rest_port = map(str, self.ports)
        options = ["--port", grpc_port, "--rest-port", rest_port, "--workers", str(self.workers)]
        command = [sys.executable, "-c", _COMMAND, "serve", str(self.folder), *options, "--largest-request", "4"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with self.client(timeout=300) as client:
            client.status()
        return time.perf_counter() - began

    @property
    def address(self):
        return f"127.0.0.1:{self.ports[0]}"

    def client(self, timeout=120.0, addresses=()):
        """Of this server, and others that take turns with it."""
        from rim_tf_client import Client

        return Client(",".join([self.address, *addresses]), self.folder.name, timeout=timeout)

    def memory(self):
        """Resident, in MB."""
        pages = int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_seconds(self):
        """Of all its threads since it was started."""
        words = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def batches(self):
        """{lenses in a batch: how often}."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[1], timeout=60)
        connection.request("GET", "/monitoring/prometheus/metrics")
        found = re.findall(r'rim_tf_batches_total{lenses="(\d+)"} (\d+)', connection.getresponse().read().decode())
        connection.close()
        return {int(size): int(n) for size, n in found}

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class Load:
    """Clients that ask until they are told to stop, and check each answer.

    Args:
      server: `Server`.
      arrays: `lenses`.
      truth: the sources of these, from the model in this process.
      addresses: of other servers of the same model.
    """

    def __init__(self, server, arrays, truth, addresses=()):
        self.server, self.arrays, self.truth, self.addresses = server, arrays, truth, addresses
        self.seconds, self.n_lenses, self.wrong, self.errors = [], 0, 0, collections.Counter()
        self.lock, self.numbers = threading.Lock(), itertools.count()

    def run(self, clients, n_requests=None, until=None):
        """Ask so many times, or until an event is set; returns the wall-clock seconds."""
        began = time.perf_counter()
        threads = [threading.Thread(target=self._ask, args=(i, n_requests, until)) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began

    def _ask(self, seed, n_requests, until):
        from rim_tf_client import ServerError

        rng = np.random.default_rng(seed)
        with self.server.client(addresses=self.addresses) as client:
            while until is None or not until.is_set():
                if n_requests is not None and next(self.numbers) >= n_requests:
                    return
                which = rng.choice(len(self.truth), rng.integers(1, 5), replace=False)
                began = time.perf_counter()
                try:
                    source = client.predict(SIGNATURE, some(self.arrays, which))["source"]
                except ServerError as error:
                    with self.lock:
                        self.errors[error.code] += 1
                    continue
                took, truth = time.perf_counter() - began, self.truth[which]
                right = source.shape == truth.shape and np.allclose(source, truth, atol=1e-3 * truth.max())
                with self.lock:
                    self.seconds.append(took)
                    self.n_lenses += len(which)
                    self.wrong += not right

    def figures(self):
        ms = 1e3 * np.percentile(self.seconds, (50, 99))
        return {
            "answered": len(self.seconds),
            "lenses": self.n_lenses,
            "wrong": self.wrong,
            "errors": dict(self.errors),
            "p50_ms": float(ms[0]),
            "p99_ms": float(ms[1]),
        }


def in_process(signature, arrays, workers, seconds):
    """Lenses per second, and the sources of all."""
    import tensorflow as tf

    batch = {name: tf.constant(np.resize(value, (16, *value.shape[1:]))) for name, value in arrays.items()}
    signature(**batch)
    counts, end = [], time.perf_counter() + seconds

    def work():
        n = 0
        while time.perf_counter() < end:
            signature(**batch)
            n += 16
        counts.append(n)

    began = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


# --------------------------------------------------------------------------------------------------------- malformed


def malformed_arrays(good):
    """(name, signature, inputs) of requests that have a right form and a wrong content."""
    for name, value in good.items():
        yield f"no {name}", SIGNATURE, {key: each for key, each in good.items() if key != name}
        for dtype in ("float64", "int32", "int64", "bool", "float32"):
            if np.dtype(dtype) != value.dtype:
                yield f"{name} of {dtype}", SIGNATURE, good | {name: value.astype(dtype)}
        yield f"{name} without a batch", SIGNATURE, good | {name: value[0]}
        yield f"{name} with an axis too many", SIGNATURE, good | {name: value[..., None]}
        yield f"{name} empty", SIGNATURE, good | {name: value[:0]}
        yield f"{name} of two lenses", SIGNATURE, good | {name: np.repeat(value, 2, 0)}
        if value.ndim > 1:
            yield f"{name} cut short", SIGNATURE, good | {name: value[:, :-1]}
            yield f"{name} one wide", SIGNATURE, good | {name: value[:, :1]}
        if value.dtype.kind == "f":
            for bad in (np.nan, np.inf) if name == "image" else (np.nan, -1.0, np.inf):
                yield f"{name} of {bad}", SIGNATURE, good | {name: np.full_like(value, bad)}
        yield f"{name} misspelt", SIGNATURE, {key + ("x" if key == name else ""): each for key, each in good.items()}
        yield f"{name} twice over", SIGNATURE, good | {name + "_again": value}
    for signature in ("", "SERVING_DEFAULT", "classify", "a" * 5000, "__saved_model_init_op", "../1"):
        if signature:
            yield f"signature {signature[:20]}", signature, good
    huge = np.ones((1, 1200, 1200), "float32")
    yield "huge", SIGNATURE, good | {"image": huge}


def malformed_bytes(good):
    """(name, bytes) of what is no request."""
    from rim_tf_client.messages import PredictRequest, to_proto

    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "rim", SIGNATURE
    for name, value in good.items():
        request.inputs[name].CopyFrom(to_proto(value))
    whole = request.SerializeToString()
    for i in range(1, 25):
        yield f"cut at {i} of 25", whole[: i * len(whole) // 25]
    rng = np.random.default_rng(0)
    for i in range(10):
        yield f"noise {i}", rng.bytes(50 * (i + 1))
    for name in ("", "other", "rim/1", "a" * 5000):
        other = PredictRequest.FromString(whole)
        other.model_spec.name = name
        yield f"model {name[:10]!r}", other.SerializeToString()
    for version in (0, 99, 2**62, -1):
        other = PredictRequest.FromString(whole)
        other.model_spec.version.value = version
        yield f"version {version}", other.SerializeToString()
    for dtype, size in ((0, 1), (7, 1), (99, 1), (1, -1), (1, 2**40), (3, 2**62)):
        other = PredictRequest.FromString(whole)
        other.inputs["psf"].dtype = dtype
        other.inputs["psf"].tensor_shape.dim[0].size = size
        yield f"psf of type {dtype}, size {size}", other.SerializeToString()


def malformed_json(good):
    """(name, method, path, body, status) by REST."""
    path = "/v1/models/rim:predict"
    lists = {name: value.tolist() for name, value in good.items()}
    bodies = ["", "{", "null", "3", '"x"', "[]", "{}", '{"inputs": 1}', '{"instances": 1}', '{"instances": []}']
    bodies += ['{"instances": [1]}', '{"instances": [{}], "inputs": {}}', "\x00", "[" * 100_000, '{"inputs": {}}']
    bodies += [json.dumps({"inputs": lists, "signature_name": 3})]
    for name in lists:
        for value in ("x", None, {}, [[1], [1, 2]], [["x"]], 1e400):
            bodies.append(json.dumps({"signature_name": SIGNATURE, "inputs": lists | {name: value}}))
    for i, body in enumerate(bodies):
        yield f"JSON {i}", "POST", path, body, 400
    good_body = json.dumps({"signature_name": SIGNATURE, "inputs": lists})
    yield "unknown signature", "POST", path, good_body.replace(SIGNATURE, "nothing"), 412
    for other in (
        "/v1/models/other:predict",
        "/v1/models/rim/versions/99:predict",
        "/v2/models/rim",
        "/",
        "/v1/models/rim",
    ):
        yield f"POST {other}", "POST", other, good_body, 404
    for other in ("/", "/v1/models/other", "/v1/models/rim/versions/99", "/v1/models/rim:predict"):
        yield f"GET {other}", "GET", other, None, 404


def ask_badly(server, arrays):
    """{kind: status} of every malformed request that was not refused as it should be, and how many there were."""
    import grpc

    from rim_tf_client import ServerError

    good, unexpected, n = some(arrays, slice(0, 1)), {}, 0
    with server.client(timeout=60) as client:
        for kind, signature, inputs in malformed_arrays(good):
            n += 1
            try:
                client.predict(signature, inputs)
                unexpected[kind] = "OK"
            except ServerError as error:
                if error.code not in REFUSED:
                    unexpected[kind] = error.code
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[0]}") as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        for kind, content in malformed_bytes(good):
            n += 1
            try:
                call(content, timeout=60)
                unexpected[kind] = "OK"
            except grpc.RpcError as error:
                if error.code().name not in REFUSED:
                    unexpected[kind] = error.code().name
    for kind, method, path, body, status in malformed_json(good):
        n += 1
        connection = http.client.HTTPConnection("127.0.0.1", server.ports[1], timeout=60)
        connection.request(method, path, body)
        found = connection.getresponse().status
        connection.close()
        if found != status:
            unexpected[kind] = f"{found} in place of {status}"
    return unexpected, n


# --------------------------------------------------------------------------------------------------------- the whole


def beside(load, clients, action):
    """What `action` returns, with `clients` asking meanwhile and a second before and after."""
    stop = threading.Event()
    thread = threading.Thread(target=load.run, args=(clients,), kwargs={"until": stop})
    thread.start()
    time.sleep(1)
    result = action()
    time.sleep(1)
    stop.set()
    thread.join()
    return result


def roll(server, version):
    """Add version 2, wait until it is served, take it away, wait again; the seconds of both."""
    seconds = []
    with server.client() as client:
        for change, wanted in (
            (lambda: (server.folder / "2").symlink_to(version), 2),
            ((server.folder / "2").unlink, 1),
        ):
            began = time.perf_counter()
            change()
            while {number for number, state in client.status().items() if state == "AVAILABLE"} != {wanted}:
                time.sleep(0.1)
            seconds.append(time.perf_counter() - began)
    return seconds


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=pathlib.Path))
@click.option("--out", required=True, type=click.Path(path_type=pathlib.Path))
@click.option("--requests", default=10_000)
@click.option("--clients", default=32)
@click.option("--pixels", default=64)
@click.option("--workers", default=2)
@click.option("--seconds", default=20.0, help="Of each measurement in this process.")
@click.option("--load-only", is_flag=True, help="Throughput alone, and no faults.")
def main(model, out, requests, clients, pixels, workers, seconds, load_only):
    """Load and faults on a model server, for the MODEL that is a folder of versions."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(workers)
    version = max((each for each in model.resolve().iterdir() if each.name.isdigit()), key=lambda each: int(each.name))
    arrays = lenses(64, pixels)
    loaded = tf.saved_model.load(str(version))
    signature = loaded.signatures[SIGNATURE]
    truth = np.concatenate(
        [
            signature(**{name: tf.constant(v[i : i + 16]) for name, v in arrays.items()})["source"]
            for i in range(0, 64, 16)
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        served = pathlib.Path(folder) / "rim"
        served.mkdir()
        (served / "1").symlink_to(version)
        figures = {"in process before": in_process(signature, arrays, workers, seconds)}
        say(f"in process {figures['in process before']:.1f} lenses/s")
        server = Server(served, (18600, 18601), workers)
        try:
            warm = Load(server, arrays, truth)
            warm.run(clients, 2 * clients)
            load = Load(server, arrays, truth)
            spent, before = server.cpu_seconds(), collections.Counter(server.batches())
            took, memory = load.run(clients, requests), server.memory()
            figures["load"] = load.figures() | {
                "lenses_per_second": load.n_lenses / took,
                "memory_MB": memory,
                "server_cpu_s_per_lens": (server.cpu_seconds() - spent) / load.n_lenses,
                "batches": dict(sorted((collections.Counter(server.batches()) - before).items())),
            }
            say(f"load {figures['load']}")
            if not load_only:
                _faults(figures, server, version, arrays, truth)
            figures["exit status after SIGTERM"] = server.stop()
        finally:
            if server.process.poll() is None:
                server.kill()
    figures["in process after"] = in_process(signature, arrays, workers, seconds)
    mean = (figures["in process before"] + figures["in process after"]) / 2
    figures["share of in-process throughput"] = figures["load"]["lenses_per_second"] / mean
    settings = {"requests": requests, "clients": clients, "pixels": pixels, "workers": workers}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"settings": settings, "figures": figures, "versions": versions()}, indent=2)
    (out / "serving.json").write_text(text + "\n")
    print(text)


def _faults(figures, server, version, arrays, truth):
    """Fill in what malformed requests, versions that roll and servers that are killed do to the others."""
    figures["malformed"] = _malformed(server, arrays, truth)
    say(f"malformed {figures['malformed']}")
    rolled = Load(server, arrays, truth)
    figures["roll seconds"] = beside(rolled, 8, lambda: roll(server, version))
    figures["roll"] = rolled.figures()
    say(f"roll {figures['roll seconds']} {figures['roll']}")
    killed = Load(server, arrays, truth)
    figures["start seconds"] = beside(killed, 8, lambda: (server.kill(), server.start())[1])
    figures["kill"] = killed.figures()
    say(f"kill {figures['start seconds']:.1f} s {figures['kill']}")
    figures["replicas"] = _replicas(server, arrays, truth)
    say(f"replicas {figures['replicas']}")


def _replicas(server, arrays, truth):
    """What clients of two servers see of it that one of them is killed."""
    other = Server(server.folder, [port + 2 for port in server.ports], server.workers)
    try:
        load = Load(server, arrays, truth, [other.address])
        beside(load, 8, lambda: (time.sleep(5), other.kill(), time.sleep(5)))
    finally:
        if other.process.poll() is None:
            other.kill()
    return load.figures()


def _malformed(server, arrays, truth):
    """Twice, so that memory that is kept the first time is not taken for a leak."""
    good = Load(server, arrays, truth)
    ask_badly(server, arrays)
    before = server.memory()
    unexpected, n = beside(good, 2, lambda: ask_badly(server, arrays))
    return {
        "kinds": n,
        "unexpected": unexpected,
        "beside": good.figures(),
        "memory_grew_MB": server.memory() - before,
        "alive": server.process.poll() is None,
    }


if __name__ == "__main__":
    main()
