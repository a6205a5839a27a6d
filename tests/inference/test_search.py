"""The steps of the search for a lens in an image, each on what it is given."""

import dataclasses
import types
import warnings

import modelled
import numpy as np
import pytest

from rim_tf.config import ModelConfig
from rim_tf.data.single import draw_system, observe_system
from rim_tf.errors import InputWarning
from rim_tf.inference import estimate, lens_light, standing, valley, workflow
from rim_tf.inference import search as search_module
from rim_tf.inference.halo import widening
from rim_tf.inference.search import Search
from rim_tf.inference.standing import Found
from rim_tf.lens import LensParameters
from rim_tf.observation import Observation

LENS = LensParameters(1.3, 0.12, -0.08, 0.03, -0.02, 0.02, 0.03)
QUICK = ModelConfig(starts=8, rounds=1, attempts=0)


def searched(monkeypatch, seed, pixels, scale, noise, lens_galaxy=0.0, rounds=QUICK.rounds):
    """The search of a simulated lens before it is finished, its `Observation`, and the same without lens galaxy."""
    kept = []
    monkeypatch.setattr(Search, "finish", lambda search: kept.append(search))
    lens, source, source_scale = draw_system(seed, pixels, scale, LENS)
    observation, bare = (
        observe_system(seed, lens, source, source_scale, pixels, scale, noise, 0.08, lens_galaxy=each)[0]
        for each in (lens_galaxy, 0.0)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        workflow.model(observation, dataclasses.replace(QUICK, rounds=rounds))
    (search,) = kept
    return search, observation, bare


def test_beside_a_bright_galaxy_lens_light_and_source_are_found_together(monkeypatch):
    """At low noise lens and light agree at a wrong place, and fits in turns stay there."""
    search, observation, bare = searched(monkeypatch, 31, 28, 0.18, 0.005, lens_galaxy=0.5, rounds=0)
    began = search._state()
    light = observation.image - bare.image

    def wrong():
        return np.abs((search.light.model_image - light).sum() / bare.image.sum())

    with monkeypatch.context() as context:
        context.setattr(Search, "_step_with_source", lambda search, lens: lens)
        for _ in range(2):
            search._light_and_lens()
    in_turns = search._misfits(search._state())[0], wrong()
    search._return_to(began)
    for _ in range(2):
        search._light_and_lens()
    assert search._misfits(search._state())[0] < 0.8 * in_turns[0]
    assert wrong() < 0.75 * in_turns[1]
    assert search.found.lens.theta_E == pytest.approx(LENS.theta_E, rel=0.01)
    # Where light costs, what galaxy and source could both be goes to the galaxy.
    in_arcs = []
    for search.pull in (0.0, 1000.0):
        search._return_to(began)
        stepped = search._step_with_source(search.found.lens)
        in_arcs.append(search._model_image(search._arcs(search.frame, search.found.field_of), stepped).sum())
    assert in_arcs[1] < 0.99 * in_arcs[0]


def test_a_halo_that_the_source_has_is_given_back(monkeypatch):
    """A tenth of the galaxy's light left in the frame is taken for source."""
    search, observation, bare = searched(monkeypatch, 28, 40, 0.13, 0.02, lens_galaxy=0.5, rounds=2)
    before, galaxy = search.light, observation.image - bare.image
    assert abs((galaxy - before.model_image).sum()) < 0.25 * bare.image.sum()

    def in_source():
        return (before.model_image - search.light.model_image).sum() / bare.image.sum()

    # Where nothing is left, nothing is given.
    search.give_back()
    assert search.light is before
    monkeypatch.setattr(Search, "_narrow", lambda search: None)  # which would take it by itself
    search.light = lens_light.with_amplitudes(observation, search.light, 0.9 * search.light.amplitudes)
    search.frame = search._without_neighbours(search.light, search.found.lens)
    search._refit([search.found.lens], source_width=QUICK.source_width)
    left, chi2 = in_source(), search._misfits(search._state())[0]
    search.give_back()
    assert left > 0.3 and abs(in_source()) < 0.3 * left
    assert search._misfits(search._state())[0] < 1.1 * chi2


@pytest.mark.parametrize(
    ("share", "costs", "given", "kept"),
    [
        (0.04, (), [], []),
        (0.3, (0.01, 0.02), [1, 1], [1, 2]),
        (0.3, (0.2, 0.01, 0.01), [1, 0.5, 1], [2, 3]),
        *((0.3, (other, 0.01, 0.01), [1, 0.5, 1], [2, 3]) for other in ("flag", "dark", "sky")),
        (0.3, (0.2, 0.2), [1, 0.5], []),
        (0.3, (0.01, 0.2, float("nan")), [1, 1, 0.5], [1]),
    ],
)
def test_light_is_given_back_while_that_costs_little(monkeypatch, share, costs, given, kept):
    """In chi^2 of the ring; and no flag that is not there already."""
    search = object.__new__(Search)
    search.observation, search.config = types.SimpleNamespace(shape=(4, 4)), dataclasses.replace(QUICK, rounds=2)
    seen = types.SimpleNamespace(mask=np.ones((4, 4), bool))
    ones, beside, cost = np.ones((4, 4)), [], {"light": 0.0}
    costs = iter(costs)
    began = types.SimpleNamespace(model_image=ones, observation=seen, lens=LENS), "light", "frame", "estimate", ["path"]
    search._return_to(began)

    def beside_them(search, arcs, lens):
        beside.append(arcs.mean())
        search.light, search.frame = f"light {len(beside)}", f"frame {len(beside)}"
        cost[search.light] = next(costs)

    def refit(search, starts, before):
        search.path += [f"fit {len(beside)}"]

    def judged(search, state=None):
        light = search.light if state is None else state[1]
        flags, n_nonsense, sky_noise, chi2 = ("core",), 1, 1.0, cost[light]
        if chi2 == "flag":
            flags, chi2 = ("core", "starts"), 0.0
        elif chi2 == "dark":  # of which figures cannot be made, which raises no flag
            n_nonsense, chi2 = 2, 0.0
        elif chi2 == "sky":  # lighter in the ring by the sky's own residual alone
            sky_noise, chi2 = 1.1, -0.05
        return types.SimpleNamespace(
            flags=flags, figures={"chi2": 1 + chi2}, sky_noise=sky_noise, n_nonsense=n_nonsense
        )

    monkeypatch.setattr(lens_light, "galaxy_below", lambda light, arcs, used: share * ones)
    monkeypatch.setattr(Search, "_beside", beside_them)
    monkeypatch.setattr(Search, "_refit", refit)
    monkeypatch.setattr(Search, "judged", judged)
    monkeypatch.setattr(Search, "_narrow", lambda search: None)
    search.give_back()
    assert beside == pytest.approx([1 - each * share for each in given])
    # What cost too much is as if it had not been tried.
    assert search.path == ["path", *(f"fit {each}" for each in kept)]
    last = kept[-1] if kept else None
    assert search.light == (f"light {last}" if kept else "light")
    assert search.frame == (f"frame {last}" if kept else "frame")
    # Nor is anything fitted where the galaxy cannot be.
    monkeypatch.setattr(Search, "_beside", lambda search, arcs, lens: None)
    fitted = list(search.path)
    search.give_back()
    assert search.path == fitted


@pytest.mark.parametrize(
    ("settled", "finds", "expected"),
    [
        (True, None, ["given"]),
        (False, "another", ["given", "again without", "given"]),
        (False, "first", ["given", "again without"]),  # nothing better: it was given back already
    ],
)
def test_light_is_given_back_by_the_fit_that_counts(monkeypatch, settled, finds, expected):
    """What other fits are compared with has all its light still."""
    search, done = object.__new__(Search), []
    search.config, verdict_ = ModelConfig(attempts=1), types.SimpleNamespace(settled=settled, explained=True)
    search.progress = lambda step, attempt, most: None

    def found(which, width, ends):
        sought = types.SimpleNamespace(lens=LENS, which=which)
        return Found(sought, ends, None, LENS, None, 64, None, width)

    first = found("first", 1.5, "its own")
    search._return_to((first, "light", "frame", None, []))

    def give_back(search):
        done.append("given")
        search.light = "light given back"
        search.found = found(f"{search.found.sought.which}, given back", 0.825, search.found.ends)

    def again(search, seed):
        # Other starts are looked at on a grid as wide as at first.
        assert search.source_width == QUICK.source_width
        done.append("again without" if search.light == "light" else "again")
        # What else was found is remembered.
        of = first if finds == "first" else found(finds, 1.5, "its own")
        search.found = dataclasses.replace(of, ends="more")

    monkeypatch.setattr(Search, "judged", lambda search: verdict_)
    monkeypatch.setattr(Search, "give_back", give_back)
    monkeypatch.setattr(Search, "again", again)
    search.doubt()
    assert done == expected and search.light == "light given back"
    assert search.found.sought.which == f"{finds or 'first'}, given back" and search.source_width == 0.825
    assert search.found.ends == ("its own" if settled else "more")


@pytest.mark.parametrize(
    ("width", "halo", "costs", "clumps", "tried", "kept"),
    [
        (1.5, 40, (0.01,), (8.0,), [0.825], 0.825),
        (1.5, 40, (0.2, 0.01), (8.0, 8.0), [0.825, 1.125], 1.125),
        (1.5, 40, (0.01, 0.01), (13.0, 8.0), [0.825, 1.125], 1.125),
        (1.5, 40, (0.01, 0.01), (13.0, 12.5), [0.825, 1.125], 1.5),
        (1.5, 40, (0.2, 0.2), (8.0, 8.0), [0.825, 1.125], 1.5),
        (1.5, 26, (0.2,), (8.0,), [0.825], 1.5),  # all on the grid between
        (1.5, 20, (), (), [], 1.5),
        (1.5, 0, (), (), [], 1.5),  # dark
        (1.125, 40, (0.2,), (8.0,), [0.825], 1.125),
        (0.825, 40, (), (), [], 0.825),
    ],
)
def test_beside_a_galaxy_light_far_out_gets_no_place_where_that_does(
    monkeypatch, width, halo, costs, clumps, tried, kept
):
    """On the narrowest source grid that explains the ring as well, and leaves no clump anywhere."""
    search, costs, clumps, beside = object.__new__(Search), iter(costs), iter(clumps), []
    search.config, source = QUICK, np.zeros((40, 40))
    edge = (40 - halo) // 2
    source[edge : 40 - edge, edge : 40 - edge] = 1.0

    def of_width(width, chi2, clump=6.0):
        reconstruction = types.SimpleNamespace(source=source)
        given = {"source_width": width, "lens": LENS, "chi2": chi2, "clump": clump}
        return types.SimpleNamespace(reconstruction=reconstruction, **given)

    def refit(search, starts, source_width):
        search.found = of_width(source_width, 1 + next(costs), next(clumps))

    def judged(search, state=None):
        found = search.found if state is None else state[0]
        return types.SimpleNamespace(flags=(), figures={"chi2": found.chi2}, sky_noise=1.0, n_nonsense=0)

    monkeypatch.setattr(Search, "_refit", refit)
    monkeypatch.setattr(Search, "_repeat", lambda search, step, most: beside.append(search.source_width))
    monkeypatch.setattr(Search, "judged", judged)
    monkeypatch.setattr(Search, "_clump", staticmethod(lambda found, judged: found.clump))
    search._return_to((of_width(width, 1.0), "light", "frame", None, []))
    search._narrow()
    np.testing.assert_allclose(beside, tried)
    assert search.source_width == pytest.approx(kept)


def test_where_the_first_fit_began_is_kept(monkeypatch):
    """For a search that begins anew, whatever was fitted since."""
    search = object.__new__(Search)
    search.config, search.explored, search.path, search.starts = QUICK, True, ["explored"], ["start"]
    search.light, search.frame, search.noise, search.began = "light", "frame", "noise", None
    monkeypatch.setattr(Search, "_fit", lambda search, starts: search.path.append("fitted"))
    monkeypatch.setattr(Search, "_widen", lambda search: None)
    monkeypatch.setattr(Search, "_repeat", lambda search, step, most: None)
    for _ in range(2):
        search.fit()
        assert search.began == ("light", "frame", ["start"], ["explored"])
        search.light, search.frame, search.starts = "another light", "another frame", ["another start"]


def test_a_lens_of_another_size_is_judged_on_as_large_a_field(monkeypatch):
    """Within its own a small ring explains what it sees; and where a flag speaks against it, others are tried."""
    search, _, _ = searched(monkeypatch, 28, 40, 0.13, 0.02)
    right = search._state()
    # What a search looks at is what it ends with.
    seen, ended = search.found.reconstruction, search.found.fit().reconstruction
    for name in ("source", "model_image", "chi2_per_pixel", "flux_outside", "source_pixel_scale"):
        np.testing.assert_allclose(getattr(seen, name), getattr(ended, name), rtol=1e-3, atol=1e-4)
    others = list(search._of_other_sizes())
    assert others and all(abs(each.theta_E / search.found.lens.theta_E - 1) > 0.05 for each in others)
    small = dataclasses.replace(right[0], field_of=dataclasses.replace(LENS, theta_E=0.6))
    small = dataclasses.replace(small, sought=types.SimpleNamespace(lens=dataclasses.replace(LENS, theta_E=0.6)))
    small = dataclasses.replace(small, observation=search._arcs(search.frame, small.lens))
    state = (small, *right[1:])
    of_right, of_small, n_pixels = search._misfits(right, state)
    assert of_right == search._misfits(right)[0] and of_small > 1.2 * of_right
    assert n_pixels == right[0].observation.mask.sum() > small.observation.mask.sum()
    # Nor does it help to leave the arcs out.
    masked = dataclasses.replace(search.frame, mask=search.frame.mask & (search.frame.image < 3 * search.frame.noise))
    assert search._misfits((small, None, masked), right)[0] > 1.2 * of_right
    # Nor to see none where they are left out, where a frame shows none.
    seen = right[0].observation
    blind = types.SimpleNamespace(
        field_of=right[0].field_of, observation=seen, model_image=np.where(masked.mask, seen.image, 0.0)
    )
    assert search._misfits((blind, None, masked), right)[0] > 5 * of_right
    search.found = small
    search._keep_better(right)
    assert search.found is right[0]
    # All three sizes are tried, each by a fit of its own.
    begun = []
    monkeypatch.setattr(Search, "fit", lambda search: begun.append([each.theta_E for each in search.starts]))
    flagged = types.SimpleNamespace(settled=False, explained=True, n_nonsense=0, figures={"signal": 100.0})
    monkeypatch.setattr(Search, "judged", lambda search, state=None: flagged)
    search.found = dataclasses.replace(small)
    search.again(1)
    expected = [each.theta_E for each in search._of_other_sizes()]
    assert [each[0] for each in begun[1:]] == expected and len(expected) == 3
    assert expected == sorted(expected, key=lambda theta_E: abs(theta_E - search.estimate.lens.theta_E))


def of_size(theta_E):
    return dataclasses.replace(LENS, theta_E=theta_E)


@pytest.mark.parametrize(("explained", "tried"), [(True, [1.0, 0.8, 1.2]), (False, [1.0, 0.8, 1.2, 0.5, 0.4, 0.6])])
def test_where_no_lens_explains_the_image_all_looks_say_what_is_tried(monkeypatch, explained, tried):
    search = object.__new__(Search)
    looks = [types.SimpleNamespace(lens=of_size(theta_E), uncertainty=0.1) for theta_E in (0.5, 1.0)]
    search._return_to((types.SimpleNamespace(lens=of_size(2.0)), None, None, looks[1], []))
    search.looks = (*looks, types.SimpleNamespace(lens=of_size(1.01), uncertainty=0.1))  # which says nothing new
    monkeypatch.setattr(Search, "judged", lambda search: types.SimpleNamespace(explained=explained))
    assert [each.theta_E for each in search._of_other_sizes()] == pytest.approx(tried)
    search.found.lens = of_size(1.2)
    assert 1.2 not in [round(each.theta_E, 3) for each in search._of_other_sizes()]


@pytest.mark.parametrize(
    ("settings", "found", "explained", "times"),
    [
        ({}, (1.2, 1.4, 1.6), False, 2),  # twice as often as was asked for at the most
        ({}, (1.01,), False, 1),
        ({}, (1.2,), True, 1),
        ({"attempts": 2}, (1.2, 1.21, 1.22), False, 3),
        ({"attempts": 0}, (), False, 0),
        ({"fast": True}, (), False, 0),
    ],
)
def test_a_lens_of_another_size_that_does_not_explain_the_image_is_doubted_again(
    monkeypatch, settings, found, explained, times
):
    search = object.__new__(Search)
    search.config, seeds, told = ModelConfig(seed=5, **settings), [], []
    search.progress = lambda *given: told.append(given)
    search._return_to((types.SimpleNamespace(lens=of_size(1.0), sought="first"), None, None, None, []))
    verdict_ = types.SimpleNamespace(settled=False, explained=explained)
    monkeypatch.setattr(Search, "judged", lambda search: verdict_)

    def again(search, seed):
        search.found = types.SimpleNamespace(lens=of_size(found[len(seeds)]), sought=None)
        seeds.append(seed)

    monkeypatch.setattr(Search, "again", again)
    search.doubt()
    assert seeds == [6, 7, 8][:times]
    assert [step[:2] for step in told] == [("again", i + 1) for i in range(times)]
    verdict_.settled = True
    search.doubt()
    assert len(seeds) == times


@pytest.mark.parametrize(
    ("first", "mass", "second"),
    [(False, "sie", True), (True, "sie", False), (False, "power_law", False), (False, None, False)],
)
def test_what_a_flag_speaks_against_is_sought_by_the_other_search(monkeypatch, first, mass, second):
    """Not by a network that knows another mass model, or where there is none."""
    search = object.__new__(Search)
    search.config, search.by_network, search.was_pulled, searched = QUICK, first, False, []
    search.estimator = types.SimpleNamespace(mass="sie")
    search.joint = None if mass is None else types.SimpleNamespace(mass=mass)

    def look(theta_E, uncertainty=0.01):
        mean = dataclasses.replace(LENS, theta_E=theta_E)
        drawn = [dataclasses.replace(mean) for _ in range(QUICK.starts)]
        return types.SimpleNamespace(lens=mean, uncertainty=uncertainty, starts=lambda n: [mean, *drawn][:n])

    seen, before, found = look(1.2), look(1.4), types.SimpleNamespace(lens=LENS, source_width=1.5)
    search._return_to((found, None, None, before, []))
    monkeypatch.setattr(Search, "_estimate", lambda search, frame, seed: seen)
    monkeypatch.setattr(Search, "fit", lambda search: searched.append((search.by_network, search.explored)))
    monkeypatch.setattr(Search, "_keep_one", lambda search, before, by: None)
    monkeypatch.setattr(Search, "_of_other_sizes", lambda search: [])
    monkeypatch.setattr(
        Search,
        "judged",
        lambda search: types.SimpleNamespace(settled=False, figures={"signal": float("nan")}),
    )
    search.again(1)
    assert searched == [(second, False)] and search.estimate is seen
    theta_E = [each.theta_E for each in search.starts]
    if second:
        # From both looks of the estimator, on the field of the larger lens; not from what was fitted.
        assert theta_E == [1.4] + [1.2] * 4 + [1.4] * 3
        # Unless the larger one is far less sure.
        search._return_to((found, None, None, look(1.4, 0.02), []))
        search.by_network = False
        search.again(1)
        assert search.starts[0] is seen.lens
    else:
        assert theta_E == [LENS.theta_E] + [1.2] * QUICK.starts


@pytest.mark.parametrize(
    ("settled", "kept", "searched"), [(True, "anew", 0), (True, "found", 1), (False, "anew", 1), (False, "found", 1)]
)
def test_beside_a_galaxy_all_begins_anew_where_light_costs(monkeypatch, settled, kept, searched):
    """From where it was begun, once; what comes of it is compared with what there was, after the search it asks for."""
    search = object.__new__(Search)
    compared, seen = [], []
    search.began, search.was_pulled, search.pull = ("light", "frame", ["start"], ["begun"]), False, 0.0
    before = ("found", "another light", "another frame", None, ["begun", "fitted"])
    search._return_to(before)
    figures = {"signal": 100.0}

    def fit(search):
        assert (search.light, search.frame, search.starts, search.path) == search.began and search.explored
        assert search.pull > 0 and search.path is not search.began[3]
        search.found = "anew"

    def keep_one(search, before, by, all_ends=False):
        compared.append((before[0], by, search.pull, all_ends))
        search.found = kept

    def judged(search):
        return types.SimpleNamespace(settled=settled and search.found == "anew", figures=figures)

    monkeypatch.setattr(Search, "fit", fit)
    monkeypatch.setattr(Search, "judged", judged)
    monkeypatch.setattr(Search, "_search_again", lambda search, seed: seen.append(search.pull))
    monkeypatch.setattr(Search, "_keep_one", keep_one)
    search.again(1)
    assert seen == [200.0] * searched and search.pull == 0 and search.found == kept
    # All that the search found is remembered, too, where it was one after what was begun anew.
    assert compared == [("found", 0.0, 200.0, not settled)]
    # Once more it is not begun anew; and light costs no more than the data say of it.
    search.found, figures["signal"] = "found", 20.0
    search.again(2)
    assert seen.pop() == 12.0 and len(compared) == 1
    # Without a galaxy there is nothing that light could be instead.
    search.light, search.was_pulled = None, False
    search.again(3)
    assert seen[-1] == 0.0 and not search.was_pulled and len(compared) == 1


@pytest.mark.parametrize("all_ends", [False, True])
def test_what_was_tried_is_remembered(monkeypatch, all_ends):
    """With chi^2 over as many pixels as that of what stands."""
    search = object.__new__(Search)

    def state(theta_E, chi2, n_pixels, *lenses):
        ends = {"chi2_per_pixel": chi2, "lens": [of_size(each).as_tuple() for each in lenses], "n_pixels": n_pixels}
        return (
            Found(types.SimpleNamespace(lens=of_size(theta_E)), ends, None, None, None, 8, None, 1.5),
            None,
            None,
            None,
            [],
        )

    search._return_to(state(1.0, [1.0, 1.1], 100, 1.0, 1.01))
    other = state(0.8, [1.2, 1.4], 200, 0.8, 0.7)
    monkeypatch.setattr(Search, "_misfits", lambda search, *states: (1.0, 1.1, 150))
    search._remember(other, all_ends)
    chi2, theta_E = search.found.ends["chi2_per_pixel"], [each[0] for each in search.found.ends["lens"]]
    assert chi2 == pytest.approx([1.0, 1.1, 1.15, 1.55][: 3 + all_ends])
    assert theta_E == [1.0, 1.01, 0.8, 0.7][: 3 + all_ends]


@pytest.mark.parametrize(("pull", "light", "taken"), [(0.0, 0.5, False), (5.0, 0.5, True), (5.0, 1.5, False)])
def test_where_light_costs_a_lens_with_less_of_it_may_explain_less(monkeypatch, pull, light, taken):
    """100 pixels with a chi^2 of 1 and of 1.05: 5 in all, and half the light is worth 7."""
    search = object.__new__(Search)
    search.pull, used = pull, np.ones((10, 10), bool)
    image = {"found": np.ones((10, 10)), "other": light * np.ones((10, 10))}
    chi2 = {"found": 1.0, "other": 1.05}

    def compared(search, *states):
        pairs = [(image[each[0]] + np.sqrt(chi2[each[0]]), image[each[0]]) for each in states]
        return pairs, np.ones((10, 10)), used

    monkeypatch.setattr(Search, "_compared", compared)
    monkeypatch.setattr(Search, "judged", lambda search, state=None: types.SimpleNamespace(n_nonsense=0))
    search._return_to(("other", None, None, None, []))
    search._keep_sensible(("found", None, None, None, []), 0.0)
    assert search.found == ("other" if taken else "found")


@pytest.mark.parametrize(
    ("chi2", "flags", "taken"),
    [(0.98, 0, False), (0.96, 0, True), (0.96, 1, False), (0.93, 1, True), (1.02, -2, True), (1.04, -3, False)],
)
def test_a_lens_of_another_size_must_be_so_much_better(monkeypatch, chi2, flags, taken):
    """By more, where more flags say that no lens is like that."""
    search = object.__new__(Search)
    search.pull = 0.0
    found, other = (types.SimpleNamespace(n_nonsense=n, source_width=1.5) for n in (3, 3 + flags))
    monkeypatch.setattr(Search, "judged", lambda search, state=None: (state or search._state())[0])
    ones = np.ones((10, 10))
    residual = {id(found): ones, id(other): np.sqrt(chi2) * ones}

    def compared(search, *states):
        return [(ones + residual[id(state[0])], ones) for state in states], ones, ones > 0

    monkeypatch.setattr(Search, "_compared", compared)
    before = (found, None, None, None, [])
    search._return_to((other, None, None, None, []))
    search._keep_sensible(before, 0.03)
    assert search.found is (other if taken else found)


@pytest.mark.parametrize(
    ("gains", "fits", "walks"),
    [
        ((False, False), 1, 1),
        ((True, True, False, True, False), 3, 2),
        ((True,) * 9, 4, 5),
    ],
)
def test_a_fit_goes_on_along_a_valley_of_ripples_while_that_gains(monkeypatch, gains, fits, walks):
    kept = []
    monkeypatch.setattr(Search, "finish", lambda search: kept.append(search))
    rim, estimator = modelled.networks()
    observation = Observation(modelled.ring(galaxy=0.0), 1e-4, 0.05, None, modelled.SCALE)
    config = dataclasses.replace(QUICK, no_lens_light=True, starts=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        workflow.model(observation, config, rim=rim, estimator=estimator)
        monkeypatch.undo()
        (search,), asked, refitted, walked, limits = kept, iter(gains), [], [], []

        def refit(search, starts, **how):
            refitted.append((starts, how))
            search.found = dataclasses.replace(search.found)

        def gained(search, before):
            gain = next(asked)
            if not gain:
                search._return_to(before)
            return gain

        monkeypatch.setattr(Search, "_refit", refit)
        monkeypatch.setattr(Search, "_gained", gained)

        def walk(arcs, lens, *given):
            walked.append((arcs, lens, given[4]))
            limits.append(given[-1])
            places = np.array([lens.as_tuple()] * 3)
            places[:, 0] *= (0.98, 1.0, 1.02)
            return valley.Valley(places, places, np.array([-1.0, 0.0, 1.0]), 1, lens.mass)

        monkeypatch.setattr(search_module, "walk", walk)
        monkeypatch.setattr(Search, "_steps_that_explain_most", lambda search: 15)
        search.finish()
        roughly, here = {"whole": True, "roughly": True}, search.found.lens
        assert [how for _, how in refitted] == (1 + fits + walks) * [roughly]
        # First with more steps of the RIM; then from where the last ended, then from the lowest place of its valley.
        assert [starts for starts, _ in refitted[: 1 + fits]] == (1 + fits) * [[here]]
        assert all(starts[0].theta_E == pytest.approx(0.98 * here.theta_E) for starts, _ in refitted[1 + fits :])
        # Once more where the last walk led elsewhere: the errors are of the valley about where the fit has ended.
        n_walked = walks + gains[-1]
        assert walked == n_walked * [(search.found.observation, here, 15)] and search.n_rim_steps == 15
        assert search.valley.start == 1
        # For errors alone no farther than a lens may lie.
        far = valley.UNLIKELY * search.judged().noise_factor ** 2
        assert limits == walks * [None] + gains[-1] * [pytest.approx(far)]
        # Farther beside a galaxy, where it may.
        light = types.SimpleNamespace(
            model_image=np.full(observation.shape, 1e3), parameters={"sky": 0.0, "centre": (0.0, 0.0)}, left_over=None
        )
        monkeypatch.setattr(search_module, "left_over_of", lambda *_: None)
        search.light = light
        search._valley(for_errors=True)
        assert limits.pop() == pytest.approx(far * widening(np.inf) ** 2, rel=0.02)
        search.light = None
        walked.pop()
        # Where the noise map is wrong nothing is led away, and the valley is known all the same.
        n_refitted, honest = len(refitted), search_module._HONEST
        monkeypatch.setattr(search_module, "_HONEST", 0.5)
        asked = iter((False,))
        search.valley = None
        search.finish()
        assert len(refitted) == n_refitted + 2 and search.valley.start == 1
        monkeypatch.setattr(search_module, "_HONEST", honest)
        # Noise is what ripples drown in.
        search.found = dataclasses.replace(
            search.found, observation=dataclasses.replace(search.found.observation, noise=np.float64(1e3))
        )
        search.finish()
    assert len(refitted) == n_refitted + 2


@pytest.mark.parametrize(("chi2", "taken"), [(0.9, True), (1.001, True), (1.1, False)])
def test_the_network_takes_more_steps_where_they_explain_more(monkeypatch, chi2, taken):
    search = object.__new__(Search)
    rng = np.random.default_rng(0)
    seen = Observation(rng.normal(size=(30, 30)), 1.0, 0.05, None, 0.1)
    usual = types.SimpleNamespace(observation=seen, lens=LENS, model_image=np.zeros((30, 30)))
    search.found, search.rim = usual, types.SimpleNamespace(config=types.SimpleNamespace(n_steps=10))
    asked = []

    def image(search, arcs, lens, n_rim_steps):
        asked.append(n_rim_steps)
        return seen.image * (1 - chi2**0.5)

    monkeypatch.setattr(Search, "_model_image", image)
    assert search._steps_that_explain_most() == (15 if taken else None) and asked == [15]


def test_a_galaxy_that_was_not_looked_for_may_have_left_light(monkeypatch):
    """Where one was looked for and there is none, light at the centre is doubted later."""
    asked = []
    monkeypatch.setattr(standing, "judge", lambda *given: asked.append(given[-1]))
    rim, estimator = modelled.networks()
    for galaxy, unsought, expected in ((0.0, False, True), (0.0, True, False), (3.0, False, False)):
        observation = Observation(modelled.ring(galaxy=galaxy), 0.05, 0.05, None, modelled.SCALE)
        config = dataclasses.replace(QUICK, no_lens_light=unsought, starts=2)
        seen = estimate.estimate_lens(observation, estimator)
        search = Search(observation, seen, rim, estimator, None, config, lambda *told: None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            search.begin()
        state = (None, search.light, None, None, [])
        search.judged(state)
        assert asked.pop() == expected, (galaxy, unsought)


def test_what_may_belong_to_the_largest_ring_that_is_seen_is_no_neighbour():
    search = object.__new__(Search)
    seen = ((1.2, 0.05), (1.5, 0.02), (1.4, 0.5))
    search.looks = [types.SimpleNamespace(lens=types.SimpleNamespace(theta_E=t), uncertainty=u) for t, u in seen]
    light = types.SimpleNamespace(neighbours=lambda lens, theta_E: theta_E)
    # Two standard deviations more, and 1.3 times as much at the most.
    assert search._neighbours(light, LENS) == pytest.approx(1.3 * 1.4)
    search.looks = search.looks[:2]
    assert search._neighbours(light, LENS) == pytest.approx(1.04 * 1.5)
    assert search._neighbours(light, dataclasses.replace(LENS, theta_E=2.0)) == 2.0
