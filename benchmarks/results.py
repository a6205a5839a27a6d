"""The files that a benchmark writes, and what stands in all of them."""

from timing import machine, say, versions

from rim_tf.files import write_json, write_text


def circumstances(before, threads, workers):
    """What figures depend on, as a part of the results.

    Args:
      before: `timing.machine()` at the start.
      threads: cores of each contender.
      workers: the `timing.Worker`s.
    """
    return {
        "machine_before": before,
        "machine_after": machine(),
        "threads": threads,
        "versions": {"benchmark": versions()} | {worker.name: worker.versions for worker in workers},
        "first_call_s": {worker.name: worker.first_call_s for worker in workers},
    }


def write_results(out, name, results, text):
    """name.json and name.md in the folder `out`; the text is printed too."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{name}.json", results)
    write_text(out / f"{name}.md", text + "\n")
    print(text)
    say(f"Written: {out / name}.json, {out / name}.md")
